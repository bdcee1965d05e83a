"""`prune(repair=...)`: repair as a stage of pruning."""

import pytest
import torch
import torch_pruning as tp
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import RepairError
from repair_nets import relative_error, small_resnet


@pytest.fixture(scope="module")
def case():
    """A model and images."""
    return small_resnet()


@pytest.mark.parametrize("how", ["mean", "merge", "synthetic"])
def test_the_result_is_the_cut_repaired(case, how):
    model, images = case
    importance = dfpc.DFPCImportance()
    bare = dfpc.prune(model, images[:1], "macs=0.6", importance=importance)
    whole = dfpc.prune(model, images[:1], "macs=0.6", importance=importance, repair=how)
    apart = dfpc.repair(bare.model, model, images[:1], how, removed=bare.removed)
    assert bare.repair is None
    assert whole.removed == bare.removed
    assert whole.repair.method == how
    for own, other in zip(whole.model.state_dict().values(), apart.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    assert f"Repaired by {how}" in str(whole)
    assert whole.to_json()["repair"]["method"] == how


SIZES: list[int] = []


class Sizes(nn.Module):
    """Notes in `SIZES` how many images every forward gets."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        SIZES.append(len(x))
        return self.inner(x)


def test_noise_runs_once_through_the_unpruned_model(case):
    """Ranking and repair share that run; the other one is through the pruned model, for its batch norms."""
    model, images = case
    SIZES.clear()
    result = dfpc.prune(Sizes(model), images[:1], "macs=0.6", repair="merge")
    most = max(SIZES)
    assert most > 100 and SIZES.count(most) == 2
    ranking = dfpc.RepairedImportance("merge", ranking="output")
    bare = dfpc.prune(model, images[:1], "macs=0.6", importance=ranking)
    apart = dfpc.repair(bare.model, model, images[:1], "merge", removed=bare.removed)
    for own, other in zip(result.model.state_dict().values(), apart.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_a_search_for_an_accuracy_measures_the_unpruned_model_once(case):
    model, images = case
    scores = []
    SIZES.clear()

    def evaluate(candidate):
        scores.append(-relative_error(candidate.inner, model, images))
        return scores[-1]

    dfpc.prune(Sizes(model), images[:1], "max_drop=0.1", evaluate=evaluate, repair="merge", importance="magnitude")
    repaired = len(scores)  # each but the first was repaired, and so was the result
    assert SIZES.count(max(SIZES)) == repaired + 1


def test_in_place_ends_in_the_same_model(case):
    model, images = case
    given, _ = small_resnet()
    there = dfpc.prune(given, images[:1], "macs=0.6", repair="calibrate", images=images[:32], inplace=True)
    elsewhere = dfpc.prune(model, images[:1], "macs=0.6", repair="calibrate", images=images[:32])
    assert there.model is given
    for own, other in zip(given.state_dict().values(), elsewhere.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_accuracy_is_that_of_the_repaired_model(case):
    model, images = case

    def evaluate(candidate):
        return -relative_error(candidate, model, images)

    bare = dfpc.prune(model, images[:1], "max_drop=0.1", evaluate=evaluate)
    mended = dfpc.prune(model, images[:1], "max_drop=0.1", evaluate=evaluate, repair="calibrate", images=images[:48])
    assert mended.before.score - mended.after.score <= 0.1
    assert mended.after.score == pytest.approx(evaluate(mended.model))
    assert mended.after.macs < bare.after.macs


def test_scoring_anew_is_done_on_the_repaired_model(case):
    model, images = case
    result = dfpc.prune(model, images[:1], "macs=0.6", rescore=0.2, repair="calibrate", images=images[:32])
    assert result.reached["macs"] <= 0.6
    again = dfpc.prune(model, images[:1], "macs=0.6", rescore=0.2, repair="calibrate", images=images[:32])
    assert again.removed == result.removed


def test_images_without_a_repair_are_refused(case):
    model, images = case
    with pytest.raises(RepairError, match="images are for repair='calibrate'"):
        dfpc.prune(model, images[:1], "macs=0.6", images=images)


def test_the_anticipating_ranking_wins_once_repaired(case):
    """One of two channels that are alike is free, which a ranking of single channels does not see."""
    model, images = small_resnet()
    with torch.no_grad():
        for block in (model.first, model.second):
            for tensor in (block.conv1.weight, *block.bn1.parameters(), block.bn1.running_mean, block.bn1.running_var):
                tensor[8:] = tensor[:8]
    anticipating = dfpc.RepairedImportance("calibrate", images=images)
    blocks = ["first.conv2", "second.conv2", "stem"]
    errors = []
    for importance in (anticipating, dfpc.DFPCImportance()):
        result = dfpc.prune(
            model,
            images[:1],
            "ratio=0.5",
            importance=importance,
            ignored_layers=blocks,
            repair="calibrate",
            images=images,
        )
        errors.append(relative_error(result.model, model, images))
    assert errors[0] < 1e-4 < errors[1]


def test_the_anticipating_ranking_works_in_torch_pruning(case):
    _, images = case
    model, _ = small_resnet()
    pruner = tp.MetaPruner(
        model,
        images[:1],
        dfpc.RepairedImportance("synthetic"),
        global_pruning=True,
        pruning_ratio=0.4,
        iterative_steps=2,
        ignored_layers=[model.head],
    )
    for _ in range(2):
        pruner.step()
    assert model(images).shape == (64, 5)
    assert model.first.conv1.out_channels < 16
    with pytest.raises(RepairError, match="looks at no covariances; choose one of merge, synthetic, calibrate"):
        dfpc.RepairedImportance("mean")


def test_making_images_for_the_ranking_is_no_silence(case):
    model, images = case
    told = []
    settings = dfpc.RepairSettings("synthetic", count=4, steps=5)
    dfpc.prune(model, images[:1], "macs=0.8", repair=settings, progress=lambda *what: told.append(what))
    assert len({share for name, share in told if name == "images"}) > 2
