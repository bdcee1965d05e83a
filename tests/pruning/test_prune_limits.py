"""What `prune` leaves alone, how much it leaves, and by whose scores."""

import math

import pytest
import torch
import torch_pruning as tp
from torch import nn

import dfpc_plugin as dfpc
from budget_nets import TIMM, make
from budget_tools import PIXELS, Fixed, heads_first, network, same, widths
from dfpc_plugin import DFPCImportance
from dfpc_plugin.errors import NothingToPruneError, PrunerSettingError
from dfpc_plugin.pruning import prune
from dfpc_plugin.selection import Target, TargetError

FIRST = {"stem", "blocks.0.conv2", "blocks.1.conv2"}
"""What writes the residual stream of `network()`."""
INNER = {"blocks.0.conv1", "blocks.1.conv1"}


def lost(model, result):
    """Layers with fewer outputs than before."""
    before, after = widths(model), widths(result.model)
    return {name for name in before if after[name] < before[name]}


@pytest.mark.parametrize(("ignored", "may_go"), [
    (lambda model: [model.blocks[0].conv1], FIRST | {"blocks.1.conv1"}),
    (lambda model: [model.blocks[0].bn1], FIRST | {"blocks.1.conv1"}),
    (lambda model: [model.blocks[0].conv1.weight], {"blocks.1.conv1"}),  # a parameter stays whole
    (lambda model: ["blocks.0.conv1"], FIRST | {"blocks.1.conv1"}),
    (lambda model: "blocks.0.conv1", FIRST | {"blocks.1.conv1"}),
    (lambda model: ["blocks.0.bn1.bias"], FIRST | {"blocks.1.conv1"}),
    (lambda model: ["blocks.*.conv1"], FIRST),
    (lambda model: "*.bn1", FIRST),
    (lambda model: ["stem"], INNER),
    (lambda model: [model.blocks[1].conv2, "ste[m]"], INNER),
    (lambda model: [model.blocks[1], "blocks.0.bn1"], set()),
    (lambda model: [nn.BatchNorm2d], set()),
    (lambda model: [nn.Linear], FIRST | INNER),
])  # fmt: skip
@pytest.mark.parametrize("inplace", [False, True])
def test_ignored_layers_keep_their_outputs(ignored, may_go, inplace):
    model = network()
    layers = ignored(model)
    if not may_go:
        with pytest.raises(NothingToPruneError, match="all are protected, ignored, without scores"):
            prune(model, PIXELS, "ratio=0.5", ignored_layers=layers, inplace=inplace)
        return
    result = prune(model, PIXELS, "ratio=0.5", ignored_layers=layers, inplace=inplace)
    assert lost(network(), result) == may_go


def test_what_a_model_has_not_cannot_be_ignored():
    with pytest.raises(PrunerSettingError, match=r"no layer of this model is called so; did you mean blocks\.0\.conv1"):
        prune(network(), PIXELS, "macs=0.5", ignored_layers=["block.0.conv1"])
    with pytest.raises(PrunerSettingError, match=r"holds Conv2d .*, which is no module, parameter or module type"):
        prune(network(), PIXELS, "macs=0.5", ignored_layers=[network().stem])


def test_couplings_of_several_writers_can_be_left_alone():
    model = network()
    assert lost(model, prune(model, PIXELS, "ratio=0.5")) == FIRST | INNER
    assert lost(model, prune(model, PIXELS, "ratio=0.5", coupled=False)) == INNER
    model, inputs = make("test_resnet")
    result = prune(model, inputs, "macs=0.7", coupled=False)
    assert all(len(coupling.layers) == 1 for coupling in result.couplings)
    assert all(block.conv2.out_channels == before.conv2.out_channels
               for block, before in zip(result.model.layer2, model.layer2, strict=True))  # fmt: skip


LIMITS = ({"max_ratio": 0.3}, {"min_channels": 12}, {"max_ratio": 1.0, "min_channels": 1}, {"round_to": 8},
          {"round_to": 3, "max_ratio": 0.5}, {"round_to": 5, "min_channels": 7}, {})  # fmt: skip


@pytest.mark.parametrize(("per", "rescore"), [("channel", None), ("macs", None), ("channel", 0.2)])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_limits_hold_for_every_coupling(limits, per, rescore):
    model, inputs = make("test_resnet")
    target = Target(ratio=0.25)
    result = prune(model, inputs, target, per=per, rescore=rescore, **limits)
    assert result.reached["ratio"] >= 0.25 - 1e-9
    for coupling in result.couplings:
        assert coupling.after >= math.ceil(coupling.before * (1 - limits.get("max_ratio", 0.9)) - 1e-9)
        assert coupling.after >= min(limits.get("min_channels", 2), coupling.before)
        assert coupling.after == coupling.before or coupling.after % limits.get("round_to", 1) == 0
    assert torch.isfinite(result.model(inputs)).all()


@pytest.mark.parametrize("multiple", [8, 16])
def test_scores_are_computed_anew_until_what_rounding_leaves_is_enough(multiple):
    model, inputs = make("test_resnet")
    result = prune(model, inputs, "macs=0.5", round_to=multiple, rescore=0.05)
    assert result.reached["macs"] <= 0.5
    assert all(c.after == c.before or c.after % multiple == 0 for c in result.couplings)


@pytest.mark.parametrize("limits", [{"max_ratio": 0.5}, {"min_channels": 20}, {"round_to": 16}, {}], ids=str)
def test_all_that_limits_allow_can_go_and_no_unit_more(limits):
    model, inputs = make("test_resnet")
    multiple, left = limits.get("round_to", 1), []
    before = [coupling.before for coupling in prune(model, inputs, "ratio=0.1").couplings]
    for units in before:
        least = max(limits.get("min_channels", 2), math.ceil(units * (1 - limits.get("max_ratio", 0.9)) - 1e-9))
        left.append(min(units, math.ceil(least / multiple) * multiple))
    gone = sum(before) - sum(left)
    result = prune(model, inputs, Target(ratio=gone / sum(before)), **limits)
    assert [coupling.after for coupling in result.couplings] == left
    with pytest.raises(
        TargetError, match=f"and {gone / sum(before):.1%} of the channels are removed" if multiple == 1 else "removed"
    ):
        prune(model, inputs, Target(ratio=(gone + 1) / sum(before)), **limits)


def test_one_channel_stays_only_where_it_is_asked_for():
    model, inputs = make("test_resnet")
    narrow = prune(model, inputs, "ratio=0.98", max_ratio=1.0, min_channels=1)
    assert min(coupling.after for coupling in narrow.couplings) == 1
    wider = prune(model, inputs, "ratio=0.95", max_ratio=1.0)
    assert min(coupling.after for coupling in wider.couplings) == 2
    with pytest.raises(TargetError, match=r"ratio=0\.98 cannot be reached"):
        prune(model, inputs, "ratio=0.98", max_ratio=1.0)


IMPORTANCES = {
    "relative": DFPCImportance,
    "published": lambda: DFPCImportance("published"),
    "magnitude": tp.importance.GroupMagnitudeImportance,
    "magnitude of biases": lambda: tp.importance.GroupMagnitudeImportance(p=1, bias=True),
    "lamp": tp.importance.LAMPImportance,
    "fpgm": tp.importance.FPGMImportance,
    "random": tp.importance.RandomImportance,
    "in half precision": lambda: lambda group: torch.rand(len(group[0].idxs)).half(),
    "in whole numbers": lambda: lambda group: torch.arange(len(group[0].idxs)),
    "that needs gradients": lambda: lambda group: torch.rand(len(group[0].idxs), requires_grad=True) * 2,
}


@pytest.mark.parametrize("rescore", [None, 0.2])
@pytest.mark.parametrize("name", IMPORTANCES)
def test_any_importance_ranks_units(name, rescore):
    model, inputs = network(), PIXELS
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(prune(model, inputs, "macs=0.6", importance=IMPORTANCES[name](), rescore=rescore))
    assert found[0].removed == found[1].removed and found[0].reached["macs"] <= 0.6
    assert same(found[0].model.state_dict(), found[1].model.state_dict())
    if name == "random":
        torch.manual_seed(6)
        assert found[0].removed != prune(model, inputs, "macs=0.6", importance=IMPORTANCES[name]()).removed


def test_importances_that_need_gradients_have_those_of_the_model():
    model = network()
    model(PIXELS).square().sum().backward()
    result = prune(model, PIXELS, "macs=0.5", importance=tp.importance.GroupTaylorImportance())
    assert result.removed == prune(
        model, PIXELS, "macs=0.5", importance=tp.importance.GroupTaylorImportance(), inplace=True
    ).removed  # fmt: skip


@pytest.mark.parametrize(
    "importance", ["taylor", tp.importance.TaylorImportance(), tp.importance.GroupTaylorImportance]
)
@pytest.mark.parametrize("through", ["prune", "pruner"])
def test_without_gradients_one_sentence_says_how_to_get_them(importance, through):
    model = network()
    with pytest.raises(PrunerSettingError) as caught:
        if through == "prune":
            prune(model, PIXELS, "macs=0.5", importance=importance)
        else:
            dfpc.DFPCPruner(model, PIXELS, importance).step()
    name = (
        "Taylor (TP, images)" if importance == "taylor" else getattr(importance, "__name__", type(importance).__name__)
    )
    assert str(caught.value) == (
        f"{name} reads gradients, and the weight of 'stem' has none; compute them on the model first: "
        f"F.cross_entropy(model(images), labels).backward()."
    )


@pytest.mark.parametrize("importance", [tp.importance.GroupHessianImportance(), tp.importance.OBDCImportance])
def test_importances_of_one_model_are_no_good_for_copies(importance):
    with pytest.raises(
        PrunerSettingError, match=r"Importance scores only the model that .*; use DFPCPruner, or GroupTaylor"
    ):
        prune(network(), PIXELS, "macs=0.5", importance=importance)


def test_taylor_by_name_reads_the_gradients_of_the_model():
    model = network()
    model(PIXELS).square().sum().backward()
    found = [prune(model, PIXELS, "macs=0.5", importance=i) for i in ("taylor", tp.importance.GroupTaylorImportance())]
    assert found[0].removed == found[1].removed


@pytest.mark.parametrize(("importance", "message"), [
    (lambda group: torch.rand(3), r"^function returned \(3,\) scores for the 6 units of 'stem'; return one per root index"),
    (lambda group: torch.rand(len(group[0].idxs), 1), r"^function returned \(6, 1\) scores for the 6 units of 'stem'"),
    (lambda group: torch.tensor(1.0), r"^function returned \(\) scores for the 6 units of 'stem'"),
    (lambda group: torch.full((len(group[0].idxs),), torch.nan), r"^function returned scores for 'stem' that are not finite"),
    (lambda group: torch.full((len(group[0].idxs),), torch.inf), "that are not finite; give the layers with such weights to"),
])  # fmt: skip
@pytest.mark.parametrize("rescore", [None, 0.5])
def test_an_importance_without_a_finite_score_for_every_unit_is_refused(importance, message, rescore):
    with pytest.raises(PrunerSettingError, match=message):
        prune(network(), PIXELS, "macs=0.5", importance=importance, rescore=rescore)


def test_a_coupling_without_scores_is_left_alone():
    def importance(group):
        return None if group.couplings[0].name == "stem" else torch.rand(len(group[0].idxs))

    model = network()
    assert lost(model, prune(model, PIXELS, "ratio=0.5", importance=importance)) == INNER


@pytest.mark.parametrize(("per", "step"), [
    ("channel", 0.01), ("channel", 0.05), ("channel", 0.3), ("channel", 1.0), ("macs", 0.05), ("params", 0.3),
])  # fmt: skip
def test_scores_that_never_change_need_not_be_computed_anew(per, step):
    model, inputs = make("test_resnet")
    importance = Fixed()
    once = prune(model, inputs, "macs=0.5", importance=importance, per=per)
    again = prune(model, inputs, "macs=0.5", importance=importance, per=per, rescore=step)
    if per == "channel":
        assert again.removed == once.removed and again.reached == once.reached
    else:  # prices are found anew in rounds, which begin elsewhere
        assert again.reached["macs"] == pytest.approx(once.reached["macs"], abs=0.01)
    assert again.reached["macs"] <= 0.5


@pytest.mark.parametrize("name", TIMM)
def test_scores_that_change_choose_other_units(name):
    model, inputs = make(name)
    once, again = (
        prune(model, inputs, "macs=0.6", importance=DFPCImportance(), rescore=rescore) for rescore in (None, 0.05)
    )
    assert 0.59 < again.reached["macs"] <= 0.6 and again.removed != once.removed
    assert torch.isfinite(again.model(inputs)).all()


@pytest.mark.parametrize("name", ["test_vit", "fused attention", "torch attention"])
def test_attention_loses_whole_heads(name):
    model, inputs = make(name)
    result = prune(model, inputs, "macs=0.8", whole_heads=True, importance=heads_first)
    attentions = [m for m in result.model.modules() if hasattr(m, "num_heads")]
    assert 1 in {m.num_heads for m in attentions} and result.reached["macs"] <= 0.8
    before = next(m.head_dim for m in model.modules() if hasattr(m, "head_dim"))
    assert all(m.head_dim == before for m in attentions)
    assert torch.isfinite(result.model(inputs)).all()


def test_where_nothing_can_be_pruned_a_trial_that_failed_is_told():
    """Maps of couplings know nothing of it, as they try nothing."""

    class Asserting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 16, 1), torch.nn.Conv2d(16, 2, 1)

        def forward(self, x):
            x = self.first(x)
            assert x.shape[1] == 16, "sixteen channels"
            return self.last(x)

    with pytest.raises(NothingToPruneError) as caught:
        dfpc.prune(Asserting().eval(), torch.randn(1, 3, 8, 8), "macs=0.7")
    told = "On trial, 'first' makes the forward fail when it is pruned: AssertionError: sixteen channels"
    assert told in str(caught.value)
