"""DFPCPruner: every mode of Torch-Pruning's pruner, on models that it cannot trace too, and its traps."""

import copy
import inspect
import json
import warnings

import pytest
import torch
import torch_pruning as tp
from host_nets import NETS, Halves, X, head_of, make, same_state, state_of
from torch import nn

import dfpc_plugin.importance as importance_module
from dfpc_plugin import DataFlowGraph, DFPCImportance, DFPCPruner, bgsc
from dfpc_plugin.errors import ExampleInputsError, GroupError, NothingToPruneError, PrunerSettingError
from dfpc_plugin.host import with_data_flow
from dfpc_plugin.selection import keep_at_least
from feature_widths import stated, widths_of

ALL = sorted(NETS)
MAGNITUDE = tp.importance.GroupMagnitudeImportance


def pruner_for(model, importance=None, x=X, **kwargs):
    return DFPCPruner(model, x, importance or MAGNITUDE(), **kwargs)


def widths(pruner):
    """Units left, by coupling."""
    graph = pruner.graph
    return [len(graph.units_left(coupling)) for coupling in graph.couplings if coupling.protected is None]


class Ordered:
    """Scores as they are written down, by coupling; 0, 1, 2, ... for others."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, group):
        return self.scores.get(group.couplings[0].name, torch.arange(len(group[0].idxs), dtype=torch.float))


def test_arguments_are_those_of_torch_pruning():
    theirs = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    ours = inspect.signature(DFPCPruner.__init__).parameters
    assert list(ours) == [*theirs, "target"] and ours["target"].kind is inspect.Parameter.KEYWORD_ONLY
    for name in theirs:
        if isinstance(theirs[name].default, dict):  # one dictionary for all of its pruners, which they write into
            assert ours[name].default is None
        elif name != "root_module_types":
            assert ours[name].default == theirs[name].default


@pytest.mark.parametrize("importance", [MAGNITUDE, DFPCImportance])
@pytest.mark.parametrize("name", ALL)
def test_a_third_of_everything_goes_and_the_model_runs(name, importance):
    model = make(name)
    pruner = pruner_for(model, importance(), pruning_ratio=0.3)
    before = widths(pruner)
    pruner.step()
    assert widths(pruner) == [max(1, int(0.7 * units + 1e-9)) for units in before]
    output = model(X)
    assert output.shape == make(name)(X).shape and torch.isfinite(output).all()
    assert pruner.graph is pruner.DG and pruner.couplings is pruner.DG.couplings


def test_what_is_cut_has_the_lowest_scores():
    model = make("vit")
    scores = torch.arange(16.0).flip(0)
    pruner_for(model, Ordered({"blocks.0.attn.qkv": scores}), pruning_ratio=0.25).step()
    reference = make("vit").blocks[0].attn.qkv.weight.view(9, 16, 48)[3:]  # queries may be scaled
    kept = model.blocks[0].attn.qkv.weight.view(9, 12, 36)[3:]
    assert torch.equal(kept, reference[:, :12, 12:]), "the last four of every head, and the first twelve of the stream"


OPTIONS = {
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
    "local isomorphic": {"isomorphic": True},
    "groups and heads are given": {"num_heads": {}, "out_channel_groups": {}, "in_channel_groups": {}},
    "rounded": {"round_to": 4},
    "rounded globally": {"round_to": 4, "global_pruning": True},
}


@pytest.mark.parametrize("name", ["resnet", "swin", "regnet"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_mode_prunes_and_the_model_runs(option, name):
    model = make(name)
    pruner = pruner_for(model, pruning_ratio=0.3, **OPTIONS[option])
    before = widths(pruner)
    pruner.step()
    assert sum(widths(pruner)) <= 0.75 * sum(before) and min(widths(pruner)) > 0
    assert torch.isfinite(model(X)).all()


@pytest.mark.parametrize("multiple", [4, 5, 64, 1000])
@pytest.mark.parametrize("ratio", [0.3, 0.97])
def test_rounding_never_empties_anything(multiple, ratio):
    pruner = pruner_for(make("resnet"), pruning_ratio=ratio, round_to=multiple)
    before = widths(pruner)
    pruner.step()
    for units, left in zip(before, widths(pruner), strict=True):
        assert left == units or (left % multiple == 0 and 0 < left < units)
        assert left <= units * (1 - ratio) + multiple


def test_steps_reach_the_ratio_one_after_the_other():
    model = make("swin")
    pruner = pruner_for(model, pruning_ratio=0.5, iterative_steps=5)
    before = widths(pruner)
    for step in range(1, 6):
        pruner.step()
        assert widths(pruner) == [int(units * (1 - 0.1 * step) + 1e-9) for units in before]
        assert torch.isfinite(model(X)).all()
    with pytest.warns(UserWarning, match="All steps of this pruner are done"):
        pruner.step()
    assert widths(pruner) == [units // 2 for units in before]


def test_scores_are_computed_once_a_step(monkeypatch):
    count = []
    monkeypatch.setattr(importance_module, "bgsc", lambda *a, **k: count.append(1) or bgsc(*a, **k))
    pruner = pruner_for(make("vit"), DFPCImportance(), pruning_ratio=0.4, iterative_steps=2, global_pruning=True)
    for step in (1, 2):
        pruner.step()
        assert len(count) == step


def test_interactive_steps_leave_the_pruning_to_the_caller():
    model = make("vit")
    pruner = pruner_for(model, pruning_ratio=0.3)
    before = state_of(model)
    groups = list(pruner.step(interactive=True))
    assert same_state(before, state_of(model)) and len(groups) == 5
    for group in groups[1:]:
        group.prune()
    assert model.patch_embed.proj.out_channels == 48 and model.blocks[1].mlp.fc1.out_features == 134
    assert len(pruner.pruning_history()) == 4 and model(X).shape == (1, 10)


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("importance", [MAGNITUDE, DFPCImportance])
def test_global_pruning_cuts_more_with_every_ratio_and_empties_nothing(name, importance):
    previous = None
    for ratio in (0, 0.2, 0.4, 0.7, 0.9, 0.99, 1.0):
        model = make(name)
        pruner = pruner_for(model, importance(), pruning_ratio=ratio, global_pruning=True)
        pruner.step()
        now = widths(pruner)
        assert min(now) >= 1 and torch.isfinite(model(X)).all()
        free = [coupling for coupling in pruner.couplings if not coupling.protected]
        total, least = sum(c.channels for c in free), sum(keep_at_least(c, 1.0) for c in free)
        assert sum(now) == max(int(total * (1 - ratio) + 1e-9), least)
        if previous is not None:
            assert all(one <= other for one, other in zip(now, previous, strict=True))
        previous = now


def test_a_coupling_below_the_threshold_keeps_its_best_and_others_lose_instead():
    pruner = pruner_for(
        make("halves"), Ordered({"both": torch.tensor([3.0, 9, 1, 1, 1, 1, 1, 1, 1, 1]) - 100}), pruning_ratio=0.7,
        global_pruning=True,
    )  # fmt: skip
    before = widths(pruner)
    pruner.step()
    assert widths(pruner).count(2) == 2 and sum(widths(pruner)) == int(sum(before) * 0.3)


def test_both_halves_of_a_layer_are_pruned_locally():
    model = make("halves")
    pruner_for(model, pruning_ratio=0.5).step()
    assert (model.both.out_channels, model.left.in_channels, model.right.in_channels) == (10, 5, 5)
    assert model.sizes == [5, 5]


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"isomorphic": True, "global_pruning": True}])
def test_the_maximal_ratio_holds_for_every_coupling(options):
    pruner = pruner_for(make("resnet"), DFPCImportance(), pruning_ratio=0.8, max_pruning_ratio=0.25, **options)
    before = widths(pruner)
    pruner.step()
    assert all(left >= 0.75 * units for units, left in zip(before, widths(pruner), strict=True))
    assert sum(widths(pruner)) == pytest.approx(0.75 * sum(before), abs=len(before))


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}])
def test_ratios_by_layer(options):
    model = make("resnet")
    ratios = {model.layer3: 0.5, (model.layer1[0].conv1, model.layer1[1].conv1): 0.25}
    pruner_for(model, pruning_ratio=0, pruning_ratio_dict=ratios, **options).step()
    assert model.layer2[0].conv1.out_channels == 128 and model.conv1.out_channels == 64
    assert model.layer1[0].conv1.out_channels + model.layer1[1].conv1.out_channels == 96
    layers = [model.layer3[0].conv1, model.layer3[0].conv2, model.layer3[1].conv1]
    assert sum(layer.out_channels for layer in layers) == 384
    assert options or all(layer.out_channels == 128 for layer in layers)


def test_a_history_is_one_cut_so_that_attributes_follow():
    """`mlp_dim` states the width of all blocks of torchvision's vision transformer, which are separate couplings."""
    model = make("torch_vit")
    fresh = copy.deepcopy(model)
    pruner = pruner_for(model, DFPCImportance(), pruning_ratio=0.5, iterative_steps=2)
    pruner.step()
    pruner.step()
    assert model.mlp_dim == model.encoder.layers[0].mlp[0].out_features < fresh.mlp_dim
    pruner_for(fresh).load_pruning_history(pruner.pruning_history())
    (tensors, attributes), (others, same) = state_of(model), state_of(fresh)
    assert attributes == same
    torch.testing.assert_close(
        tensors, others, rtol=1e-6, atol=1e-7
    )  # narrower heads are rescaled once in place of twice


def test_a_history_of_another_model_changes_nothing():
    model = make("resnet")
    before = state_of(model)
    width = model.layer4[1].conv1.out_channels
    for history, said in (
        (
            [["layer1.0.conv1", True, [0]], ["layer4.1.conv1", True, [width]]],
            f"'layer4.1.conv1' in the history has {width} channels, and index {width} is none",
        ),
        ([["layer1.0.conv1", True, [-1]]], "index -1 is none of them"),
        ([["layer1.0.conv1", True, [0]], ["layer9", True, [0]]], "cuts 'layer9', which this model lacks"),
        ([["layer4.1.conv1", True, list(range(width - 1))], ["layer4.1.conv1", True, [0]]], "leave nothing"),
    ):
        with pytest.raises(GroupError, match=said):
            pruner_for(model).load_pruning_history(history)
        assert same_state(before, state_of(model))


@pytest.mark.parametrize("name", ["resnet", "swin", "halves", "torch_vit"])
def test_history_on_a_fresh_copy_gives_the_same_model(name):
    model = make(name)
    fresh = copy.deepcopy(model)
    pruner = pruner_for(model, DFPCImportance(), pruning_ratio=0.4, iterative_steps=2, global_pruning=True)
    pruner.step()
    pruner.step()
    other = pruner_for(fresh)
    other.load_pruning_history(json.loads(json.dumps(pruner.pruning_history())))
    assert same_state(state_of(model), state_of(fresh)) and torch.equal(model(X), fresh(X))
    assert other.pruning_history() == pruner.pruning_history()


def test_history_of_a_plain_network_works_in_torch_pruning_too():
    model = make("resnet")
    fresh = copy.deepcopy(model)
    pruner = pruner_for(model, pruning_ratio=0.3)
    pruner.step()
    tp.DependencyGraph().build_dependency(fresh, X).load_pruning_history(pruner.pruning_history())
    assert torch.equal(model(X), fresh(X))


def test_pruners_share_nothing():
    defaults = [copy.copy(value) for value in tp.pruner.BasePruner.__init__.__defaults__ if isinstance(value, dict)]
    one, two = make("regnet"), make("vit")
    given, heads = {}, {two.blocks[0].attn.qkv: 3}
    pruners = [pruner_for(one, out_channel_groups=given), pruner_for(two, num_heads=heads)]
    assert not set(pruners[0].out_channel_groups) & set(pruners[1].out_channel_groups)
    assert not given and len(heads) == 1 and pruners[0].out_channel_groups, "what the user gives is not written to"
    before = state_of(two)
    pruners[0].step()
    assert same_state(before, state_of(two)) and not pruners[1].pruning_history()
    pruners[1].step()
    assert [value for value in tp.pruner.BasePruner.__init__.__defaults__ if isinstance(value, dict)] == defaults
    assert tp.dependency.DependencyGraph is not DataFlowGraph
    assert type(tp.pruner.BasePruner(make("resnet"), X, MAGNITUDE()).DG) is tp.DependencyGraph


def test_ignored_layers_keep_their_outputs():
    model = make("resnet")
    pruner_for(model, pruning_ratio=0.5, ignored_layers=[model.layer1, model.layer2[0].bn1, model.fc]).step()
    assert all(m.out_channels == 64 for m in model.layer1.modules() if isinstance(m, nn.Conv2d))
    assert model.layer2[0].conv1.out_channels == 128 and model.layer2[1].conv1.out_channels == 64


def test_ignored_parameters_and_types():
    model = make("vit")
    pruner_for(model, pruning_ratio=0.5, ignored_layers=[model.cls_token, nn.GELU]).step()
    assert model.cls_token.shape[2] == 48 and model.blocks[0].mlp.fc1.out_features == 96
    with pytest.raises(NothingToPruneError, match="holds an ignored layer or has no root layer; ignore fewer"):
        pruner_for(make("vit"), ignored_layers=[nn.Linear])


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), nn.Parameter(torch.zeros(2)), None])
def test_what_cannot_be_ignored_is_refused(wrong):
    with pytest.raises(PrunerSettingError, match=r"ignored_layers holds .*, which is no module, parameter or module"):
        pruner_for(make("vit"), ignored_layers=[wrong])


def test_ignored_layers_may_be_named():
    model = make("vit")
    pruner_for(model, pruning_ratio=0.5, ignored_layers=["blocks.*.mlp.fc1", "patch_embed"]).step()
    assert [block.mlp.fc1.out_features for block in model.blocks] == [192, 192]
    assert model.patch_embed.proj.out_channels == 48 and model.blocks[0].attn.qkv.out_features == 72
    with pytest.raises(PrunerSettingError, match="ignored_layers holds 'fc', and no layer of this model is called so"):
        pruner_for(make("vit"), ignored_layers=["fc"])


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"pruning_ratio": 1.5}, r"^pruning_ratio must be 0 to 1, not 1\.5\.$"),
    ({"pruning_ratio": 30}, "pruning_ratio must be 0 to 1, not 30"),
    ({"ch_sparsity": -0.1}, r"pruning_ratio must be 0 to 1, not -0\.1"),
    ({"max_pruning_ratio": 2}, "max_pruning_ratio must be 0 to 1, not 2"),
    ({"round_to": 0}, "round_to must be 1 or more, not 0"),
    ({"pruning_ratio_dict": {"layer3": 0.5}}, "pruning_ratio_dict has the key 'layer3', which is no module of this"),
    ({"pruning_ratio_dict": {(nn.ReLU(),): 0.5}}, r"pruning_ratio_dict has the key 'ReLU\(\)'"),
])  # fmt: skip
def test_wrong_settings_are_refused(kwargs, message):
    with pytest.raises(PrunerSettingError, match=message):
        pruner_for(make("vit"), **kwargs)


def test_a_model_without_anything_to_prune_says_why():
    with pytest.raises(NothingToPruneError, match="No coupling of this model can be pruned: '0' "):
        pruner_for(nn.Sequential(nn.Linear(4, 3)), x=torch.zeros(1, 4))
    with pytest.raises(NothingToPruneError, match=r"No coupling of this model can be pruned: it has no layers; see"):
        pruner_for(nn.Sequential(nn.ReLU()), x=torch.zeros(1, 4))
    with pytest.raises(ExampleInputsError, match="example_inputs must be a tensor"):
        pruner_for(make("vit"), x=64)


def test_heads_stay_and_their_dimensions_can():
    model = make("vit")
    heads = {block.attn.qkv: 3 for block in model.blocks}
    pruner_for(model, num_heads=heads, prune_head_dims=False, pruning_ratio=0.5).step()
    assert model.blocks[0].attn.qkv.out_features == 144 and model.blocks[0].mlp.fc1.out_features == 96
    for kwargs, message in (
        ({"prune_num_heads": True}, "prune_num_heads and prune_head_dims are both set"),
        ({"head_pruning_ratio": 0.5}, "head_pruning_ratio=0.5 has no effect on its own"),
        ({"head_pruning_ratio_dict": {model: 0.5}}, "head_pruning_ratio_dict is not supported"),
    ):
        with pytest.raises(PrunerSettingError, match=message):
            pruner_for(model, **kwargs)


@pytest.mark.parametrize("how", [0.25, [0, 1, 16, 17, 3, 5]])
def test_single_layers_can_be_pruned_by_hand(how):
    model = make("vit")
    pruner = pruner_for(model)
    pruner.manual_prune_width(model.blocks[0].attn.qkv, tp.prune_linear_out_channels, how)
    assert model.blocks[0].attn.qkv.out_features == 9 * 12 and model(X).shape == (1, 10)
    before = state_of(model)
    pruner.manual_prune_width(model.blocks[0].attn.qkv, tp.prune_linear_out_channels, 0.01)
    assert same_state(before, state_of(model))


REGULARISERS = {
    "group norm": (tp.pruner.GroupNormPruner, {"alpha": 4, "reg": 1e-3}),
    "growing": (tp.pruner.GrowingRegPruner, {"delta_reg": 1e-3}),
    "bn scale": (tp.pruner.BNScalePruner, {"reg": 1e-3}),
    "bn lasso": (tp.pruner.BNScalePruner, {"reg": 1e-3, "group_lasso": True}),
}


@pytest.mark.parametrize("kind", REGULARISERS)
@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "regnet", "swin"])
def test_other_pruners_work_on_couplings(name, kind):
    pruner_class, kwargs = REGULARISERS[kind]
    if kind == "bn lasso" and name in ("regnet", "swin"):
        pytest.skip("Torch-Pruning wants a batch norm in every group")
    model = make(name)
    pruner = with_data_flow(pruner_class)(model, X, MAGNITUDE(), pruning_ratio=0.3, iterative_steps=2, **kwargs)
    assert isinstance(pruner, pruner_class) and isinstance(pruner, DFPCPruner) and type(pruner.DG) is DataFlowGraph
    for _ in range(2):
        model.zero_grad()
        model(X).sum().backward()
        before = [parameter.grad.clone() for parameter in model.parameters()]
        pruner.regularize(model)
        changed = sum(not torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        assert changed > 5 or (name == "swin" and kind == "bn scale")
        getattr(pruner, "update_reg", lambda: None)()
        pruner.step()
        pruner.update_regularizer()
    assert model(X).shape == (1, 10)


def test_regularisation_is_that_of_torch_pruning():
    gradients = []
    for pruner_class in (tp.pruner.GroupNormPruner, with_data_flow(tp.pruner.GroupNormPruner)):
        model = make("resnet")
        fresh = {name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")}
        pruner = pruner_class(model, X, MAGNITUDE(), ignored_layers=[head_of(model)], **fresh)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        pruner.regularize(model)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_a_pruner_that_is_already_on_data_flow_is_left_as_it_is():
    assert with_data_flow(DFPCPruner) is DFPCPruner
    assert with_data_flow(tp.pruner.MagnitudePruner) is with_data_flow(tp.pruner.MetaPruner) is DFPCPruner


@pytest.mark.parametrize(
    "kind", [DFPCPruner, with_data_flow(tp.pruner.GroupNormPruner)], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("name", ["regnet", "vit", "swin"])
def test_what_a_model_states_of_its_features_is_true_step_by_step(kind, name):
    model = make(name)
    before = stated(model)
    pruner = kind(model, X, MAGNITUDE(), pruning_ratio=0.4, iterative_steps=2, ignored_layers=[head_of(model)])
    for _ in range(2):
        pruner.step()
        assert stated(model)[0] == stated(model)[1] == head_of(model).in_features < before[0]
        maps = model.forward_intermediates(X, intermediates_only=True)
        assert widths_of(maps) == stated(model)[3] != before[3]
        before = stated(model)
    model.reset_classifier(7)
    assert model(X).shape == (1, 7)


def test_nothing_is_said_where_torch_pruning_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner_for(make("vit"), pruning_ratio=0.1).step()
        pruner_for(Halves(), pruning_ratio=0.1).step()


def test_it_works_without_gradients():
    model = make("resnet")
    with torch.no_grad():
        pruner_for(model, DFPCImportance(), pruning_ratio=0.3).step()
    assert model.conv1.out_channels == 44


def test_no_steps_are_refused():
    with pytest.raises(PrunerSettingError, match=r"iterative_steps must be 1 or more, not 0"):
        pruner_for(make(ALL[0]), iterative_steps=0)
