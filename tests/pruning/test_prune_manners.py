"""What users' own functions and forwards may do without harm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfpc_plugin import DFPCPruner, LatencySettings
from dfpc_plugin.errors import NothingToPruneError, PrunerSettingError
from dfpc_plugin.pruning import prune
from residual_net import IMAGE, network

QUICK = LatencySettings(threads=1, min_run_time=1e-3)


def test_an_evaluate_that_moves_or_trains_what_it_gets_changes_neither_model() -> None:
    def evaluate(model: nn.Module) -> float:
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return 1.0

    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = prune(model, IMAGE, "macs=0.5", evaluate=evaluate)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 and p.abs().sum() > 0 for p in result.model.parameters() if p.dim() > 1)


def test_latency_of_a_model_that_is_called_in_another_way_is_refused() -> None:
    with pytest.raises(PrunerSettingError, match="Latency is measured by calling the model, which a forward_fn"):
        prune(network(), IMAGE, "speedup=1.1", forward_fn=lambda model, x: model(x))


def test_layers_called_by_keyword_and_at_several_sizes_are_timed() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.shared(input=self.stem(x))
            return self.head(input=self.shared(x[..., ::2, ::2]).mean((2, 3)))

    result = prune(Called(), IMAGE, "macs=0.5", per="latency", latency=QUICK)
    assert result.reached["macs"] <= 0.5


def test_a_pruner_whose_importance_scores_nothing_says_so() -> None:
    pruner = DFPCPruner(network(), IMAGE, lambda group: None, target="macs=0.5")
    with pytest.raises(NothingToPruneError):
        pruner.step()


class Unscored(torch.nn.Sequential):
    """A branch that never runs, and one that an importance may have no score for."""

    def __init__(self):
        super().__init__(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 12), torch.nn.Linear(12, 3))
        self.auxiliary = torch.nn.Linear(16, 5)

    def forward(self, x):
        return self[3](self[2](self[1](self[0](x))))


def test_what_is_not_scored_or_never_used_is_reported():
    def some(group):
        return None if "2" in group.couplings[0].feed_in else torch.arange(float(len(group[0].idxs)))

    result = prune(Unscored(), torch.rand(2, 6), "ratio=0.25", importance=some)
    assert [(c.name, c.reason) for c in result.protected] == [
        ("2", "has no score: the importance does not know the layers that produce it"), ("3", "is the model's output")
    ]  # fmt: skip
    assert "Not pruned, because the importance has no score for them: 2." in result.notes
    assert "Not pruned, because the forward never uses them: auxiliary (85 parameters)." in result.notes


@pytest.mark.parametrize(("options", "reason"), [
    ({"ignored_layers": "2"}, "is in ignored_layers"), ({}, None),
])  # fmt: skip
def test_what_the_settings_leave_out_is_listed_with_the_setting(options, reason):
    result = prune(Unscored(), torch.rand(2, 6), "ratio=0.25", **options)
    assert {c.name: c.reason for c in result.protected}.get("2") == reason
    assert not any("no score" in note for note in result.notes)


def test_a_stream_that_coupled_leaves_alone_is_listed():
    result = prune(network(), IMAGE, "ratio=0.1", coupled=False)
    assert {c.reason for c in result.protected if c.name == "stem"} == {
        "is produced by several layers, which coupled=False leaves alone"
    }
