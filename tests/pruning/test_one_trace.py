"""A prune runs the model's Python twice: one traced run for couplings and scores, and one trial of the cuts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin import trace

IMAGE = torch.rand(1, 3, 8, 8)


class Counted(nn.Module):
    """Counts how often its forward runs, outside of what is put back."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Every traced run, by its options."""
    runs: list[dict] = []
    original = trace._traced

    def note(*args, **kwargs):
        runs.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(trace, "_traced", note)
    return runs


@pytest.mark.parametrize("ranking", ["output", "expected", "relative", "coupling-mean", "published"])
def test_couplings_and_scores_come_from_one_run(traced: list[dict], ranking: str) -> None:
    torch.manual_seed(0)
    model = Counted()
    Counted.calls = 0
    importance = dfpc.DFPCImportance(ranking)
    result = dfpc.prune(model, IMAGE, "macs=0.5", importance=importance)
    assert len(traced) == 1 and traced[0]["channels"] and traced[0]["flow"] is not None
    assert Counted.calls == 2, "one traced run and one trial"
    separate = dfpc.bgsc(model, IMAGE, ranking=importance._published)
    for coupling in result.couplings:
        wanted = separate[coupling.name]
        wanted = wanted / wanted.mean() if ranking == "coupling-mean" else wanted
        torch.testing.assert_close(torch.tensor(coupling.scores).double(), wanted.double())


@pytest.mark.parametrize("repair", [None, "mean", "merge"])
def test_the_default_scores_in_the_same_run(traced: list[dict], repair: str | None) -> None:
    dfpc.prune(Counted(), IMAGE, "macs=0.5", repair=repair)
    flows = [run["flow"] for run in traced]
    output = "variances to outputs"
    wanted = {None: [output], "mean": [output, "variances"], "merge": [output]}
    assert flows == wanted[repair]


def test_an_importance_with_inputs_of_its_own_runs_on_them(traced: list[dict]) -> None:
    dfpc.prune(Counted(), IMAGE, "macs=0.5", importance=dfpc.DFPCImportance(example_inputs=torch.rand(1, 3, 10, 10)))
    assert [run["channels"] for run in traced] == [True, False]
