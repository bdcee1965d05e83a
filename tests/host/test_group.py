"""DataFlowGroup: what importances read, where items point after cuts, and cutting whole or not at all."""

import copy
import sys

import pytest
import torch
import torch_pruning as tp
from host_nets import IMPORTANCES, LAYERS, NETS, X, head_of, make, members, same_state, state_of, with_gradients
from torch import nn

import dfpc_plugin.host.group as group_module
from dfpc_plugin import DataFlowGraph, DFPCImportance, bgsc
from dfpc_plugin.errors import CutError, GroupError
from dfpc_plugin.host.group import UnitFunction
from dfpc_plugin.surgery import cut

ALL = sorted(NETS)


def graph_of(model):
    return DataFlowGraph().build_dependency(model, X)


def groups_of(graph):
    return list(graph.get_all_groups())


def prune_some(graph):
    """Cut the second, third and fifth unit of everything, one coupling after the other."""
    for group in groups_of(graph):
        few = [i for i in (1, 2, 4) if i < len(group[0].idxs) - 1]
        if few:
            group.prune(few)


@pytest.mark.parametrize("name", ALL)
def test_items_are_one_channel_per_unit_and_the_first_is_a_layer_that_writes(name):
    graph = graph_of(make(name))
    for group in groups_of(graph):
        (coupling,) = group.couplings
        units = list(range(coupling.channels))
        root = group[0]
        assert root.dep.role == "feed-in" and graph.is_out_channel_pruning_fn(root.dep.handler)
        assert root.root_idxs == units and len(root.idxs) == len(units)
        for item in group.items:
            assert item.root_idxs == units and len(item.idxs) == len(units) == len(set(item.idxs))
            assert item.dep.source is root.dep.target and item.dep.trigger == root.dep.handler


@pytest.mark.parametrize("name", ALL)
def test_items_name_every_index_of_every_slice(name):
    graph = graph_of(make(name))
    for group in groups_of(graph):
        found = {}
        for item in group.items:
            found.setdefault(item.dep.target.name, set()).update(zip(item.root_idxs, item.idxs, strict=True))
        for piece in group.couplings[0].slices:
            owner = graph.model.get_submodule(piece.tensor.rpartition(".")[0])
            if isinstance(owner, LAYERS) and piece.tensor.endswith(".weight"):
                expected = {(unit, i) for unit, row in enumerate(piece.indices.tolist()) for i in row}
                assert expected <= found[graph.module2node[owner].name]


@pytest.mark.parametrize("name", ALL)
def test_after_a_cut_items_point_to_where_a_new_graph_finds_them(name):
    graph = graph_of(make(name))
    prune_some(graph)
    graph.model(X)
    old = [(group.couplings[0].name, members(group, graph)) for group in groups_of(graph)]
    new_graph = graph_of(graph.model)
    assert old == [(group.couplings[0].name, members(group, new_graph)) for group in groups_of(new_graph)]


@pytest.mark.parametrize("kind", IMPORTANCES)
@pytest.mark.parametrize("name", ["vit", "swin", "shuffled", "torch_vit", "halves"])
def test_every_importance_of_torch_pruning_scores_units(name, kind):
    if (name, kind) == ("shuffled", "fpgm"):
        pytest.skip("Torch-Pruning's FPGM fails on inputs of grouped convolutions, on its own groups too")
    graph = graph_of(with_gradients(make(name)))
    for _ in range(2):
        importance = IMPORTANCES[kind](graph.model)
        for group in groups_of(graph):
            scores = importance(group)
            assert scores.shape == (len(group[0].idxs),) and torch.isfinite(scores).all()
        prune_some(graph)
        with_gradients(graph.model)


@pytest.mark.parametrize("kind", [kind for kind in IMPORTANCES if kind not in ("random", "fpgm")])
@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet_v2", "densenet"])
def test_scores_are_those_on_torch_prunings_own_groups(name, kind):
    model = with_gradients(make(name))
    importance = IMPORTANCES[kind](model)
    graph, traced = graph_of(model), tp.DependencyGraph().build_dependency(model, X)
    theirs = {members(group, traced): group for group in traced.get_all_groups([head_of(model)])}
    for group in groups_of(graph):
        own, reference = importance(group), importance(theirs[members(group, graph)])
        torch.testing.assert_close(own / own.mean(), reference / reference.mean(), rtol=2e-4, atol=1e-6)


def test_grouped_convolutions_are_averaged_over_their_groups_as_torch_pruning_does():
    model = make("regnet")
    graph, traced = graph_of(model), tp.DependencyGraph().build_dependency(model, X)
    theirs = {members(group, traced): group for group in traced.get_all_groups([head_of(model)])}
    importance = tp.importance.GroupMagnitudeImportance()
    compared = 0
    for group in groups_of(graph):
        blocks, units = group.couplings[0].blocks.shape
        if blocks > 1:
            reference = importance(theirs[members(group, graph)]).view(blocks, units).mean(0)
            torch.testing.assert_close(importance(group), reference, rtol=1e-4, atol=0)
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("name", ["resnet", "vit", "swin", "regnet", "torch_vit", "shuffled"])
def test_dfpc_scores_are_sums_over_everything_that_is_written(name):
    model = make(name)
    graph, saliency = graph_of(model), bgsc(model, X)
    total = 0
    for group in groups_of(graph):
        scores = DFPCImportance("published")(group)
        writers = [piece for piece in group.couplings[0].slices if piece.role == "feed-in" and piece.layer in saliency]
        torch.testing.assert_close(scores, sum(saliency[piece.layer][piece.indices].sum(1) for piece in writers))
        total += scores.sum()
    torch.testing.assert_close(total, sum(scores.sum() for scores in saliency.values()))


def test_recurrent_layers_are_scored_by_hidden_unit():
    model = make("recurrent")
    graph, saliency = graph_of(model), bgsc(model, X)
    # both directions have the same hidden size, so a unit is one of each
    group = next(group for group in groups_of(graph) if group.couplings[0].name == "rnn.weight_ih_l0")
    expected = saliency["rnn.weight_ih_l0"] + saliency["rnn.weight_ih_l0_reverse"]
    torch.testing.assert_close(DFPCImportance("published")(group), expected)
    for name in ("rnn.weight_ih_l0", "rnn.weight_ih_l0_reverse"):
        assert f"{name}: prune_out_channels in dimension 0, 28 channels" in str(group)


def test_dfpc_scores_are_new_after_a_cut():
    graph = graph_of(make("vit"))
    importance = DFPCImportance()
    first = [importance(group) for group in groups_of(graph)]
    prune_some(graph)
    second = [importance(group) for group in groups_of(graph)]
    fresh = graph_of(graph.model)
    for one, other, again in zip(first, second, groups_of(fresh), strict=True):
        assert len(other) < len(one)
        torch.testing.assert_close(other, importance(again))


def test_a_unit_function_is_equal_to_the_function_it_counts_for():
    function = UnitFunction(tp.prune_conv_out_channels, ())
    assert function == tp.prune_conv_out_channels and tp.prune_conv_out_channels == function
    assert function in [tp.prune_linear_in_channels, tp.prune_conv_out_channels]
    assert function in {tp.prune_conv_out_channels}
    assert function != tp.prune_conv_in_channels and function not in [tp.prune_linear_out_channels]
    assert function == UnitFunction(tp.prune_conv_out_channels, (None,)) != UnitFunction(max, ())
    assert function.__name__ == "prune_out_channels" and function.__self__ is tp.prune_conv_out_channels.__self__
    assert function(nn.Conv2d(1, 4, 1), [0]).out_channels == 3


def test_pruning_is_recorded_once_and_can_be_done_again():
    graph = graph_of(make("vit"))
    prune_some(graph)
    history = graph.pruning_history()
    assert [entry[:2] for entry in history] == [[group.couplings[0].name, True] for group in groups_of(graph)]
    assert history[1] == ["blocks.0.attn.qkv", True, [1, 2, 4]]
    groups_of(graph)[0].prune([0], record_history=False)
    assert len(graph.pruning_history()) == len(history) == 5
    again = graph_of(make("vit"))
    again.load_pruning_history(history)
    again.get_pruning_group(again.model.patch_embed.proj, tp.prune_conv_out_channels, [0]).prune()
    assert same_state(state_of(graph.model), state_of(again.model))
    assert len(history) == 5 and len(again.pruning_history()) == 6, "the list that was loaded is not written to"
    with pytest.raises(GroupError, match=r"The history cuts 'no\.layer', which this model lacks; load it on a copy"):
        again.load_pruning_history([["no.layer", True, [0]]])


def test_history_counts_from_the_model_as_it_is_when_pruned():
    graph = graph_of(make("halves"))
    groups = [group for group in groups_of(graph) if group[0].dep.target.module is graph.model.both]
    parts = [graph.get_pruning_group(g[0].dep.target.module, g[0].dep.handler, [0, 1]) for g in groups]
    for part in parts:  # the second was made before the first was cut
        part.prune()
    assert [entry[2] for entry in graph.pruning_history()] == [[0, 1], [8, 9]]


def test_groups_that_are_gone_or_would_leave_nothing_are_refused():
    graph = graph_of(make("vit"))
    group = groups_of(graph)[2]
    part = graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, [3])
    group.prune([3])
    before = state_of(graph.model)
    with pytest.raises(GroupError, match=r"group of 'blocks\.0\.mlp\.fc1' was made before a cut that took some"):
        part.prune()
    with pytest.raises(GroupError, match=r"Cutting 191 units would leave nothing of the coupling of 'blocks\.0\.mlp"):
        group.prune(range(191))
    with pytest.raises(GroupError, match=r"the coupling of 'blocks\.0\.mlp\.fc1' has 191 units, and index 191 is none"):
        group.prune([191])
    assert same_state(before, state_of(graph.model)) and len(graph.pruning_history()) == 1


@pytest.mark.parametrize("name", ["resnet", "vit", "swin"])
def test_a_cut_that_fails_changes_nothing(name, monkeypatch):
    model = with_gradients(make(name))
    graph = graph_of(model)
    before, output = state_of(model), model(X)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    calls = []

    def fails(module):
        calls.append(module)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(sys.modules[cut.__module__], "described", fails)
    with pytest.raises(KeyboardInterrupt):
        groups_of(graph)[0].prune([0, 1])
    assert same_state(before, state_of(model)) and torch.equal(output, model(X))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert not graph.pruning_history() and not graph.coupling_map.channels.removed.any()
    monkeypatch.undo()
    groups_of(graph)[0].prune([0, 1])
    assert len(graph.pruning_history()) == 1


def test_a_model_that_has_changed_is_left_as_it_is():
    graph = graph_of(make("resnet"))
    graph.model.layer4 = nn.Identity()
    before = state_of(graph.model)
    with pytest.raises(CutError, match="find its couplings again"):
        graph.get_pruning_group(graph.model.layer3[0].conv2, tp.prune_conv_out_channels, [0]).prune()
    assert same_state(before, state_of(graph.model))


def test_classifiers_behind_large_maps_have_one_item_and_the_same_scores(monkeypatch):
    model = make("vgg")
    reference = [tp.importance.GroupMagnitudeImportance()(group) for group in groups_of(graph_of(model))]
    many = max(len(group) for group in groups_of(graph_of(model)))
    monkeypatch.setattr(group_module, "_DEAR", 0)
    groups = groups_of(graph_of(model))
    for group, expected in zip(groups, reference, strict=True):
        torch.testing.assert_close(tp.importance.GroupMagnitudeImportance()(group), expected)
    assert many - max(len(group) for group in groups) == 3 * 3 - 1


def test_regularisers_get_columns_of_grouped_weights_once():
    graph = graph_of(make("shuffled"))
    convolution = graph.model.net[3]
    group = next(group for group in groups_of(graph) if "net.3" in group.couplings[0].feed_out)
    copied = group.by_weight()
    columns = [item.idxs for item in copied.items if item.dep.handler == tp.prune_conv_in_channels]
    assert columns == [[0, 1, 2, 3]] and convolution.weight.size(1) == 4
    assert sum(item.dep.handler == tp.prune_conv_in_channels for item in group.items) == convolution.groups


def test_groups_can_be_read():
    graph = graph_of(make("vit"))
    group = groups_of(graph)[1]
    assert str(group).splitlines()[0] == "16 units of blocks.0.attn.qkv"
    line = "  blocks.0.attn.qkv (Linear(in_features=48, out_features=144, bias=True)): prune_out_channels, 144 channels"
    assert str(group).splitlines()[1] == line
    assert "[9] blocks.0.attn.proj (Linear" in group.details() and "prune_in_channels [0, 1, 2" in group.details()
    assert repr(group[0].dep.handler) == "prune_out_channels by units of blocks.0.attn.qkv"
    assert str(groups_of(graph)[0][0].dep).startswith("prune_out_channels on patch_embed.proj")


def test_cutting_with_the_coupling_map_directly_is_seen_by_the_graph():
    graph = graph_of(make("resnet"))
    coupling = graph.couplings[0]
    cut(graph.model, graph.coupling_map, coupling.blocks[:, [3, 4]].reshape(-1))
    assert len(graph.units_left(coupling)) == 62 and len(groups_of(graph)[0][0].idxs) == 62
    assert copy.copy(groups_of(graph)[0]).channels.numel() == 62
