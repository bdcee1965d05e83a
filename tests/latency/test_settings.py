"""The protocol of a measurement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfpc_plugin.latency import LatencyError, LatencySettings

PAIR = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 9)}


def test_a_batch_is_the_first_example_repeated() -> None:
    x = torch.arange(6.0).view(2, 3)
    batched = LatencySettings(batch_size=5).batched({"x": x, "y": (x,)})
    assert torch.equal(batched["x"], x[:1].expand(5, 3)) and torch.equal(batched["y"][0], batched["x"])
    assert LatencySettings().batched(x) is x


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0."),
        ({"forwards": 1}, "forwards must be 5 or more, not 1."),
        ({"warmup": 0}, "warmup must be 1 or more, not 0."),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(LatencyError) as caught:
        LatencySettings(**settings)
    assert str(caught.value) == message


def test_inputs_without_a_batch_are_refused() -> None:
    with pytest.raises(LatencyError, match="no axis for a batch"):
        LatencySettings(batch_size=2).measure(PAIR, torch.zeros(()))


def test_the_papers_protocol() -> None:
    cpu, gpu = LatencySettings.paper(), LatencySettings.paper("cuda")
    assert (cpu.batch_size, gpu.batch_size) == (64, 640)
    assert (cpu.warmup, cpu.forwards) == (gpu.warmup, gpu.forwards) == (100, 1000)


def test_as_many_forwards_are_timed_as_asked_for() -> None:
    """Of 57 forwards in 50 rounds, seven rounds have two."""
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return x

    found = LatencySettings(threads=1, forwards=57, warmup=1).measure({"a": Counting()}, torch.zeros(1))
    assert len(found["a"].seconds) == 50
    untimed = 2 * 50 + 2 + 1  # torch's timer calls twice before every block
    assert len(calls) == 57 + untimed


def test_noise_is_the_spread_of_the_middle_half() -> None:
    latency = LatencySettings(threads=1, min_run_time=1e-3).measure(PAIR, torch.zeros(1, 4))["a"]
    assert latency.noise == latency.iqr / latency.median


@pytest.mark.slow
def test_compiled_models_are_measured_and_left_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = dict(vars(model))
    found = LatencySettings(threads=1, min_run_time=1e-3, runtime="compile").measure({"a": model}, torch.zeros(2, 4))
    assert found["a"].median > 0
    assert vars(model).keys() == before.keys() and type(model) is nn.Sequential
