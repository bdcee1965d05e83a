"""DFPCPruner with a target, and what it tries before it cuts."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from host_nets import NETS, X, make
from torch import nn

from dfpc_plugin import DataFlowGraph, DFPCPruner
from dfpc_plugin.errors import GroupError, PrunerSettingError
from dfpc_plugin.selection import TargetError
from traced_runs import traced_channels

MAGNITUDE = tp.importance.GroupMagnitudeImportance


class Checked(nn.Module):
    """A forward that insists on a width which is written nowhere but in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        if x.shape[-1] % 16:
            raise ValueError("expected sixteen channels")
        return self.third(self.second(x).relu())


def counted(model: nn.Module) -> tuple[int, int]:
    run = traced_channels(model, X)
    return sum(work.macs for work in run.work), sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", sorted(NETS)[:6])
@pytest.mark.parametrize("budget", ["macs", "params"])
def test_a_target_is_reached_step_by_step(name: str, budget: str) -> None:
    model = make(name)
    full = counted(model)
    pruner = DFPCPruner(model, X, MAGNITUDE(), target=f"{budget}=0.4", iterative_steps=3)
    last = 1.0
    for share in (0.8, 0.6, 0.4):
        pruner.step()
        left = counted(model)[budget == "params"] / full[budget == "params"]
        assert left <= share + 1e-9 and left < last
        last = left


def test_a_ratio_counts_what_earlier_steps_have_cut() -> None:
    model = make(sorted(NETS)[0])
    pruner = DFPCPruner(model, X, MAGNITUDE(), target="ratio=0.5", iterative_steps=2)
    free = [c for c in pruner.couplings if c.protected is None]
    for share in (0.25, 0.5):
        pruner.step()
        left = sum(len(pruner.graph.units_left(coupling)) for coupling in free)
        gone = 1 - left / sum(coupling.channels for coupling in free)
        assert share - 1e-9 <= gone < share + 0.1


@pytest.mark.parametrize(("target", "options", "error", "message"), [
    ("speedup=2", {}, PrunerSettingError, "has to be measured, which a pruner does not; use dfpc_plugin.prune"),
    ("macs=0.5, max_drop=1", {}, PrunerSettingError, "has to be measured"),
    ("mac=0.5", {}, TargetError, "did you mean macs"),
    ("macs=0.5", {"pruning_ratio": 0.5}, PrunerSettingError, r"^pruning_ratio=0\.5 and the target macs=0\.5 are both given; "),
    ("macs=0.5", {"ch_sparsity": 0.3}, PrunerSettingError, r"^pruning_ratio=0\.3 and the target macs=0\.5 are both given; "),
    ("macs=0.5", {"isomorphic": True}, PrunerSettingError, "A target is for one ranking of everything"),
])  # fmt: skip
def test_targets_that_a_pruner_cannot_follow_are_refused(target: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        DFPCPruner(make(sorted(NETS)[0]), X, MAGNITUDE(), target=target, **options)


def test_a_pruner_tries_its_couplings_before_it_cuts_any() -> None:
    model = Checked()
    DFPCPruner(model, torch.rand(2, 4), MAGNITUDE(), pruning_ratio=0.5).step()
    assert (model.first.out_features, model.second.out_features) == (16, 6)
    reasons = [c.protected for c in DFPCPruner(Checked(), torch.rand(2, 4), MAGNITUDE()).couplings]
    assert any(reason is not None and "expected sixteen channels" in reason for reason in reasons)


def test_a_group_made_before_its_coupling_was_tried_is_refused_when_it_is_cut() -> None:
    model = Checked()
    graph = DataFlowGraph(probe=False).build_dependency(model, torch.rand(2, 4))
    group = graph.get_pruning_group(model.first, tp.prune_linear_out_channels, [0])
    with pytest.raises(
        GroupError, match="'first' must stay: it makes the forward fail when it is pruned: ValueError: expected sixteen"
    ):
        group.prune()
    assert model.first.out_features == 16
