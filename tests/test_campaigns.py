"""Some tries of every campaign of `examples/benchmarks/robustness.py`, and all of them among the slow tests."""

import importlib
from pathlib import Path

import pytest

import dfpc_plugin as dfpc

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
FEW = {
    "artifacts": 30,
    "checkpoints": 40,
    "files": 40,
    "kills": 6,
    "moments": 6,
    "full": 6,
    "interrupts": 3,
    "threads": 1,
}


@pytest.fixture
def robustness(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("robustness")


@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("default")
def test_a_few_tries(name, robustness):
    assert robustness.campaign(name, FEW[name])["faults"] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("default")
def test_all_tries(name, robustness):
    found = robustness.campaign(name)
    assert found["faults"] == [] and found["tries"] >= robustness.CAMPAIGNS[name][1]


def test_what_is_wrong_is_found(robustness, monkeypatch):
    """A load that takes whatever it is given fails the campaign."""
    network = importlib.import_module("attacks").network
    monkeypatch.setattr(dfpc, "load_pruned", lambda *arguments, **options: network())
    assert robustness.campaign("artifacts", 5)["failures"] == 5
