"""Predicted latency, where layers take a known time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.latency import Latency, LatencyModel, LatencySettings, predict
from residual_net import IMAGE, network

REST = 1e-3


class Fixed(LatencySettings):
    """Says that the whole model takes as long as its layers, and a little longer."""

    def measure(self, models: Any, example_inputs: Any, progress: Any = None) -> dict[str, Latency]:
        return {name: Latency((_of_layers(model) + REST,) * 5, 1) for name, model in models.items()}


def _of_layers(model: nn.Module) -> float:
    return sum(
        _seconds(m.weight.size(1), m.weight.size(0))
        for m in model.modules()
        if hasattr(m, "weight") and m.weight.dim() > 1
    )


def _seconds(inputs: int, outputs: int) -> float:
    return 1e-6 * (100 + inputs * outputs)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_time", lambda module, kind, inputs, outputs: _seconds(inputs, outputs))


def test_the_uncut_model_takes_what_was_measured(known: None) -> None:
    model = network()
    channels = map_couplings(model, IMAGE).channels
    latency = LatencyModel(model, IMAGE, channels, Fixed())
    assert latency.seconds(channels.removed) == pytest.approx(latency.full)


def test_what_removing_saves_is_the_difference_of_two_predictions(known: None) -> None:
    model = network()
    found = map_couplings(model, IMAGE)
    latency = LatencyModel(model, IMAGE, found.channels, Fixed())
    removed = found.channels.removed
    for coupling in found.couplings:
        if coupling.protected is None:
            unit = coupling.blocks[:, 0]
            without = removed.clone()
            without[unit] = True
            saved = latency.saving(removed, unit)
            assert saved == pytest.approx(latency.seconds(removed) - latency.seconds(without))
            assert saved >= 0
            removed = without


def test_predictions_fall_with_every_cut_and_are_never_negative(known: None) -> None:
    model = network()
    found = map_couplings(model, IMAGE)
    latency = LatencyModel(model, IMAGE, found.channels, Fixed())
    removed, last = found.channels.removed.clone(), latency.full
    for coupling in found.couplings:
        if coupling.protected is None:
            for unit in coupling.blocks.t()[:-1]:
                removed[unit] = True
                now = latency.seconds(removed)
                assert 0 < now <= last + 1e-12
                last = now


def test_widths_between_those_measured_are_interpolated() -> None:
    table = predict._Table((8, 16), (8, 32), ((1.0, 4.0), (2.0, 8.0)), 1.0)
    assert table.at(16, 32) == 8 and table.at(8, 8) == 1
    assert table.at(8, 16) == pytest.approx(2.0) and table.at(16, 16) == pytest.approx(4.0)


def test_a_width_that_fills_no_vector_takes_as_long_as_the_next_and_what_was_measured_on_top() -> None:
    table = predict._Table((16,), (8, 16, 32), ((1.0, 2.0, 4.0),), 1.5)
    assert table.at(16, 9) == pytest.approx(1.5 * table.at(16, 16))
    assert table.at(16, 16) == 2


def test_nothing_is_left_in_the_model() -> None:
    model = network().train()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    LatencyModel(model, IMAGE, map_couplings(model, IMAGE).channels, LatencySettings(threads=1, min_run_time=1e-3))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(module.training for module in model.modules())


def test_depthwise_and_grouped_convolutions_are_timed_at_whole_groups() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 32, 1, groups=4)
    )
    x = torch.zeros(1, 3, 8, 8)
    channels = map_couplings(model, x).channels
    latency = LatencyModel(model, x, channels, LatencySettings(threads=1, min_run_time=1e-3))
    assert latency.seconds(channels.removed) == pytest.approx(latency.full, rel=1.0)
