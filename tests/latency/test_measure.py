"""Latency: that it is measured fairly and leaves nothing behind. Nothing here depends on how fast anything is."""

import pytest
import torch
from torch import nn

from dfpc_plugin.latency import FEWEST_ROUNDS, Latency, LatencyError, measure_latency


class Diary(nn.Module):
    """Notes its name at every forward."""

    def __init__(self, name, diary):
        super().__init__()
        self.name = name
        self.note = diary.append  # not the list itself, which would be emptied when the model is restored

    def forward(self, x, scale=1.0):
        self.note((self.name, torch.is_grad_enabled(), self.training, torch.get_num_threads()))
        return x * scale


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("not today")


def test_every_model_gets_the_same_rounds():
    models = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 9)}
    latencies = measure_latency(models, torch.zeros(2, 4), min_run_time=0.01)
    assert list(latencies) == ["a", "b"]
    assert len(latencies["a"].seconds) == len(latencies["b"].seconds) >= FEWEST_ROUNDS
    assert all(second > 0 for latency in latencies.values() for second in latency.seconds)


def test_models_take_turns_in_reversing_order():
    diary = []
    models = {name: Diary(name, diary) for name in "abc"}
    rounds = len(measure_latency(models, torch.zeros(1), min_run_time=1e-6)["a"].seconds)
    blocks = [name for i, (name, *_) in enumerate(diary) if i == 0 or diary[i - 1][0] != name]
    # One forward round to see how long each takes, then forth and back; neighbours that repeat merge into one block.
    expected = list("abc") + [name for i in range(rounds) for name in ("abc" if i % 2 == 0 else "cba")]
    assert blocks == [name for i, name in enumerate(expected) if i == 0 or expected[i - 1] != name]


def test_forwards_run_in_evaluation_mode_without_gradients_on_the_threads_asked_for():
    diary = []
    before = torch.get_num_threads()
    measure_latency({"a": Diary("a", diary).train()}, torch.zeros(1), threads=2, min_run_time=1e-6)
    assert {entry[1:] for entry in diary} == {(False, False, 2)}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("inputs", [torch.ones(2), (torch.ones(2), 2.0), {"x": torch.ones(2), "scale": 2.0}])
def test_inputs_can_be_a_tensor_a_tuple_or_a_dict(inputs):
    assert measure_latency({"a": Diary("a", [])}, inputs, min_run_time=1e-6)["a"].threads == 1


@pytest.mark.parametrize("raises", [False, True])
def test_nothing_is_left_behind(raises):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), Raises() if raises else nn.Identity()).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    if raises:
        with pytest.raises(RuntimeError, match="not today"):
            measure_latency({"model": model}, torch.randn(2, 3, generator=torch.Generator()), threads=2)
    else:
        measure_latency({"model": model}, torch.randn(2, 3, generator=torch.Generator()), min_run_time=1e-6)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_progress_ends_at_one():
    shares = []
    measure_latency({"a": nn.Identity()}, torch.zeros(1), min_run_time=1e-6, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_summary_of_known_rounds():
    latency = Latency((1.0, 2.0, 3.0, 4.0, 100.0), threads=1)
    assert latency.median == 3
    assert latency.iqr == 2
    assert latency.speedup_over(Latency((2.0, 2.0, 9.0, 12.0, 400.0), threads=1)) == 3


def test_speedup_needs_shared_rounds():
    with pytest.raises(LatencyError, match="in one call of measure_latency"):
        Latency((1.0, 2.0), 1).speedup_over(Latency((1.0,), 1))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "at least one model"),
        ({"a": nn.Identity()}, {"threads": 0}, "threads must be 1 to 4096, not 0"),
        ({"a": nn.Identity()}, {"min_run_time": 0.0}, r"min_run_time must be above 0, not 0\.0\."),
        ({"a": nn.Identity()}, {"min_run_time": float("nan")}, r"min_run_time must be above 0, not nan\."),
    ],
)
def test_impossible_measurements_are_refused(models, options, message):
    with pytest.raises(LatencyError, match=message):
        measure_latency(models, torch.zeros(1), **options)


def test_a_latency_says_what_it_was_measured_with():
    found = measure_latency(nn.Linear(3, 2), torch.randn(4, 3), threads=1, min_run_time=0.01)
    assert found.shapes == ((4, 3),) and found.conditions == "4x3, threads: 1"
    assert Latency((0.1, 0.2), 2).conditions == "threads: 2"
