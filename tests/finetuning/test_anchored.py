import json
import types

import pytest
import torch

from dfpc_plugin.finetuning.cuts import Cut, as_one, scores_left
from dfpc_plugin.finetuning.cutter import Anchored
from dfpc_plugin.importance import DFPCImportance
from dfpc_plugin.plain_data import checked, to_plain
from dfpc_plugin.pruning import CouplingCut, Figures
from dfpc_plugin.repaired_importance import RepairedImportance, default_importance, repaired_in
from dfpc_plugin.repairing import RepairSettings


def group(name):
    return types.SimpleNamespace(couplings=(types.SimpleNamespace(name=name),))


def cut(*couplings):
    figures = Figures(1, 1, 1)
    return Cut(figures, figures, couplings, {})


FIRST = cut(
    CouplingCut("a", ("a", "b"), 5, 3, (0.1, 4.0, 0.2, 2.0, 3.0), (0, 2)),
    CouplingCut("c", ("c",), 2, 2, (1.0, 1.0), ()),
)
SECOND = cut(
    CouplingCut("a", ("a", "b"), 3, 2, (9.0, 1.0, 8.0), (1,)), CouplingCut("late", ("late",), 4, 4, (1.0,) * 4)
)


def test_units_go_in_the_numbers_of_the_first_cut():
    whole = {coupling.name: coupling for coupling in as_one([FIRST, SECOND]).couplings}
    assert (whole["a"].before, whole["a"].after, whole["a"].gone) == (5, 2, (0, 2, 3))
    assert whole["a"].scores == FIRST.couplings[0].scores


def test_what_is_left_has_the_scores_of_the_first_cut():
    assert scores_left([FIRST]) == {"a": (4.0, 2.0, 3.0), "c": (1.0, 1.0)}
    assert scores_left([FIRST, SECOND]) == {"a": (4.0, 3.0), "c": (1.0, 1.0)}


def test_couplings_keep_their_mean_and_units_their_new_order():
    scores = torch.tensor([0.5, 0.1, 0.3])
    found = Anchored(lambda group: scores, scores_left([FIRST]))(group("a"))
    assert found.mean().item() == pytest.approx(3.0)
    assert torch.equal(found.argsort(), scores.argsort())
    assert (found / scores).std() < 1e-5


@pytest.mark.parametrize(
    ("name", "scores"), [("unknown", torch.ones(3)), ("a", torch.ones(2)), ("a", torch.zeros(3)), ("a", None)]
)
def test_what_cannot_be_compared_stays(name, scores):
    assert Anchored(lambda group: scores, scores_left([FIRST]))(group(name)) is scores


def test_cuts_survive_json():
    assert checked(Cut, json.loads(json.dumps(to_plain(FIRST))), "cut") == FIRST


def test_the_default_is_that_of_prune():
    inputs = torch.zeros(1, 3, 8, 8)
    assert isinstance(default_importance(None, inputs), DFPCImportance)
    assert isinstance(default_importance(RepairSettings("mean"), inputs), DFPCImportance)
    for method in ("merge", "synthetic"):
        assert isinstance(default_importance(RepairSettings(method), inputs), RepairedImportance)


def test_what_looks_at_images_is_found_in_what_wraps_it():
    ranking = RepairedImportance()
    assert repaired_in(ranking) is repaired_in(Anchored(ranking, {})) is ranking
    assert repaired_in(DFPCImportance()) is repaired_in(Anchored(DFPCImportance(), {})) is repaired_in(None) is None
