"""DataFlowGraph: groups as Torch-Pruning has them where it is right, requests by layer and index, errors."""

import warnings

import pytest
import torch
import torch_pruning as tp
from host_nets import NETS, Bare, Halves, X, head_of, make, members, same_state, state_of
from torch import nn

from dfpc_plugin import DataFlowGraph, DFPCImportance
from dfpc_plugin.errors import GroupError
from dfpc_plugin.host import DataFlowGroup
from dfpc_plugin.traced_call import traced_call

TRACEABLE = ["resnet", "vgg", "mobilenet_v2", "mobilenet_v3", "regnet", "densenet", "convnext"]


def graph_of(name, **kwargs):
    model = make(name)
    return model, DataFlowGraph().build_dependency(model, X, **kwargs)


def names_of(group):
    return [coupling.name for coupling in group.couplings]


@pytest.mark.parametrize("name", TRACEABLE)
def test_groups_are_those_of_torch_pruning(name):
    model, graph = graph_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Torch-Pruning warns of operators that it does not know
        traced = tp.DependencyGraph().build_dependency(model, X)
    ignored = [head_of(model)]
    theirs = {members(group, traced) for group in traced.get_all_groups(ignored)}
    ours = [members(group, graph) for group in graph.get_all_groups(ignored)]
    assert theirs == set(ours) and len(ours) == len(set(ours)) > 1


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_graph_needs_no_gradients_and_leaves_the_model_alone(name):
    model = make(name).train()
    before = state_of(model)
    with torch.no_grad():
        graph = DataFlowGraph().build_dependency(model, X)
    assert same_state(before, state_of(model)) and model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(list(graph.get_all_groups())) == sum(coupling.protected is None for coupling in graph.couplings) > 0
    assert traced_call(graph).example_inputs.shape == X.shape


def test_every_module_that_holds_channels_has_a_node():
    model, graph = graph_of("vit")
    for coupling in graph.couplings:
        for piece in coupling.slices:
            owner = piece.tensor.rpartition(".")[0]
            assert graph.module2node[model.get_submodule(owner)].name.startswith(owner)
    assert graph.get_out_channels(model.blocks[0].attn.qkv) == 144
    assert graph.get_in_channels(model.blocks[0].mlp.fc2) == 192
    assert graph.get_out_channels(model.pos_embed) == 48, "by the dimension that is prunable"
    unwrapped = {graph._param_to_name[known.parameters] for known in graph.unwrapped_parameters}
    assert unwrapped >= {"pos_embed", "cls_token", "blocks.0.ls1.gamma"}


def test_the_forward_function_and_keywords_are_used():
    model = Bare()
    graph = DataFlowGraph().build_dependency(model, {"rows": torch.zeros(2, 12)}, lambda m, inputs: m(inputs["rows"]))
    assert names_of(next(graph.get_all_groups())) == ["first"]
    assert traced_call(graph).forward_fn is not None


def test_bare_parameters_are_nodes_and_can_be_pruned_and_scored():
    model = Bare()
    x = torch.randn(2, 12)
    graph = DataFlowGraph().build_dependency(model, x)
    (group,) = graph.get_all_groups()
    assert [item.dep.target.type.name for item in group.items] == ["PARAMETER"] * 3
    scores = DFPCImportance("published")(group)
    torch.testing.assert_close(
        scores,
        (model.first.abs().sum(0) * model.scale * model.second.abs().sum(1)).double().detach() * 2, rtol=1e-5, atol=0
    )  # fmt: skip
    kept = [i for i in range(16) if i not in (1, 5)]
    expected = (x @ model.first[:, kept] * model.scale[kept]).relu() @ model.second[kept]
    graph.get_pruning_group(model.first, tp.prune_parameter_out_channels, [1, 5]).prune()
    torch.testing.assert_close(model(x), expected)
    copy = Bare()
    DataFlowGraph().build_dependency(copy, x).load_pruning_history(graph.pruning_history())
    assert copy.first.shape == (12, 14)


def test_ignored_layers_keep_what_they_write_and_transform_but_not_what_they_read():
    model, graph = graph_of("resnet")
    everything = len(list(graph.get_all_groups()))
    block = model.layer1[0]
    for ignored in (block.conv1, block.bn1):
        groups = [names_of(group) for group in graph.get_all_groups([ignored])]
        assert len(groups) == everything - 1 and ["layer1.0.conv1"] not in groups
    assert len(list(graph.get_all_groups([model.fc]))) == everything, "it writes nothing that could be pruned"
    assert len(list(graph.get_all_groups([model.conv1, block.conv2]))) == everything - 1, "they share one"


def test_layers_and_parameters_can_be_ignored_for_good():
    model = make("vit")
    graph = DataFlowGraph().build_dependency(
        model, X, ignored_layers=[model.blocks[0].mlp.fc1], ignored_params=[model.pos_embed]
    )
    left = [names_of(group)[0] for group in graph.get_all_groups()]
    assert left == ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.1.mlp.fc1"]


@pytest.mark.parametrize(("name", "types", "roots"), [
    ("resnet", [nn.Linear], 0), ("vit", [nn.Linear], 5), ("vit", [nn.Conv2d], 1), ("torch_vit", [nn.Linear], 3),
])  # fmt: skip
def test_root_types_choose_couplings_by_the_layers_that_write_them(name, types, roots):
    assert len(list(graph_of(name)[1].get_all_groups(root_module_types=types))) == roots


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_channels_that_only_an_embedding_writes_are_scored(kind):
    """Torch-Pruning starts no group at an embedding, so nothing asked for a score of them."""
    model = nn.Sequential(nn.Embedding(9, 6), kind(6, 4)).double()
    graph = DataFlowGraph().build_dependency(model, torch.arange(5))
    group = next(graph.get_all_groups())
    assert [item.dep.target.name.split()[0] for item in group.items] == ["0", "1.weight_ih_l0"]
    table, matrix = model[0].weight.abs().amax(0), model[1].weight_ih_l0.abs().sum(0)
    torch.testing.assert_close(DFPCImportance("published")(group), 5 * table * matrix, check_dtype=False)
    with torch.no_grad():
        model[0].weight[:, 2] = 0
    wanted = model(torch.arange(5))[0]
    graph.get_pruning_group(model[0], tp.prune_embedding_out_channels, [2]).prune()
    assert model[0].embedding_dim == model[1].input_size == 5
    torch.testing.assert_close(model(torch.arange(5))[0], wanted)


def test_a_request_is_by_indices_of_the_layer():
    model, graph = graph_of("resnet")
    block = model.layer1[0]
    requests = [
        (block.conv1, tp.prune_conv_out_channels), (block.bn1, tp.prune_batchnorm_out_channels),
        (block.conv2, tp.prune_conv_in_channels),
    ]  # fmt: skip
    groups = [graph.get_pruning_group(module, function, [6, 2]) for module, function in requests]
    for group, (module, function) in zip(groups, requests, strict=True):
        assert isinstance(group, DataFlowGroup) and names_of(group) == ["layer1.0.conv1"]
        assert group[0].dep.target.module is module and group[0].dep.handler == function
        assert sorted(group[0].idxs) == [2, 6] and sorted(group.channels) == sorted(groups[0].channels)
    groups[0].prune()
    assert (block.conv1.out_channels, block.bn1.num_features, block.conv2.in_channels) == (62, 62, 62)
    one = graph.get_pruning_group(block.conv1, tp.prune_conv_out_channels, torch.tensor(61))
    assert one[0].idxs == [61] and one.units[0].tolist() == [63], "indices are of the layer as it is now"
    with pytest.raises(GroupError, match=r"'layer1\.0\.conv1' has 62 outputs, and index 62 is none of them"):
        graph.get_pruning_group(block.conv1, tp.prune_conv_out_channels, [62])


def test_a_request_takes_whole_units():
    model, graph = graph_of("vit")
    group = graph.get_pruning_group(model.blocks[0].attn.qkv, tp.prune_linear_out_channels, [0, 16, 5])
    assert [units.tolist() for units in group.units] == [[0, 5]], "channel 16 is channel 0 of the next head"
    group.prune()
    assert model.blocks[0].attn.qkv.out_features == 144 - 2 * 9 and model(X).shape == (1, 10)


def test_a_request_may_touch_several_couplings():
    model, graph = graph_of("halves")
    group = graph.get_pruning_group(model.both, tp.prune_conv_out_channels, [1, 12, 13])
    assert len(group.couplings) == 2 and group[0].idxs == [1, 12, 13] and group[0].root_idxs == [0, 1, 2]
    assert tp.importance.GroupMagnitudeImportance()(group).shape == (3,)
    group.prune([0])  # a unit of the couplings, not of this group
    assert (model.both.out_channels, model.left.in_channels, model.right.in_channels) == (19, 9, 10)
    graph.get_pruning_group(model.both, tp.prune_conv_out_channels, [0, 10]).prune()
    assert (model.both.out_channels, model.left.in_channels, model.right.in_channels) == (17, 8, 9)
    assert model(X).shape == (1, 4)


def test_depthwise_and_attention_layers_can_be_named():
    model, graph = graph_of("mobilenet_v2")
    depthwise = model.features[1].conv[0][0]
    for function in (tp.prune_depthwise_conv_out_channels, tp.prune_conv_out_channels, tp.prune_conv_in_channels):
        assert graph.get_pruning_group(depthwise, function, [3]).channels.numel() == 1
    model, graph = graph_of("torch_vit")
    attention = model.encoder.layers[0].self_attention
    graph.get_pruning_group(attention, tp.prune_multihead_attention_out_channels, [3]).prune()
    assert (attention.embed_dim, attention.head_dim) == (45, 15) and model(X).shape == (1, 10)
    model, graph = graph_of("recurrent")
    graph.get_pruning_group(model.rnn, tp.pruner.function.prune_lstm_out_channels, [3]).prune()
    graph.get_pruning_group(model.rnn, tp.pruner.function.prune_lstm_in_channels, [3]).prune()
    assert (model.rnn.hidden_size, model.rnn.input_size, model.stem.out_features) == (6, 5, 5)


@pytest.mark.parametrize(("pick", "function", "idxs", "message"), [
    (lambda m: m.fc, tp.prune_linear_out_channels, [0], r"Channels of 'fc' must stay: .*\. Leave that layer's outputs"),
    (lambda m: m.conv1, tp.prune_conv_in_channels, [0], r"Channels of 'conv1' must stay: .*fixed by the input of"),
    (lambda m: m.conv1, tp.prune_conv_out_channels, [], r"No outputs of 'conv1' were named; name at least one"),
    (lambda m: m.conv1, tp.prune_conv_out_channels, [-1], r"'conv1' has 64 outputs, and index -1 is none of them"),
    (lambda m: m.conv1, max, [0], r"max> is no function of this graph; use tp.prune_conv_out_channels"),
    (lambda m: m.relu, tp.prune_conv_out_channels, [0], r"ReLU holds no channels of this graph's model; name one"),
    (lambda m: nn.Conv2d(1, 1, 1), tp.prune_conv_out_channels, [0], r"Conv2d holds no channels of this graph's model"),
])  # fmt: skip
def test_wrong_requests_say_what_is_wrong(pick, function, idxs, message):
    model, graph = graph_of("resnet")
    with pytest.raises(GroupError, match=message):
        graph.get_pruning_group(pick(model), function, idxs)


def test_layers_without_a_side_that_can_be_named_say_so():
    model, graph = graph_of("vit")
    with pytest.raises(GroupError, match=r"The outputs of 'blocks\.0\.ls1' are no channels that can be named"):
        graph.get_pruning_group(model.blocks[0].ls1, tp.prune_linear_out_channels, [0])


def test_checking_a_group_counts_units():
    model, graph = graph_of("vit")
    qkv = model.blocks[0].attn.qkv
    assert graph.check_pruning_group(graph.get_pruning_group(qkv, tp.prune_linear_out_channels, range(15)))
    assert not graph.check_pruning_group(graph.get_pruning_group(qkv, tp.prune_linear_out_channels, range(16)))


def test_shares_of_what_can_be_pruned():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2), nn.Sigmoid())
            self.apart = nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.layers(x) + self.apart(x)

    graph = DataFlowGraph().build_dependency(Chain(), torch.zeros(1, 4))
    assert graph.prunable_parameters == pytest.approx((24 + 12) / (24 + 12 + 2 + 8))
    assert graph.prunable_macs == pytest.approx((24 + 12) / (24 + 12 + 8))
    graph = graph_of("regnet")[1]
    assert graph.prunable_macs == 1 and 0.999 < graph.prunable_parameters < 1, "with grouped convolutions"


def test_a_pruner_of_the_users_own_is_what_groups_name():
    class Own(type(tp.pruner.function.PrunerBox[tp.ops.OPTYPE.LINEAR])):
        pass

    own = Own()
    graph = DataFlowGraph().build_dependency(Halves(), X, customized_pruners={nn.Conv2d: own})
    group = next(graph.get_all_groups())
    assert [item.dep.handler for item in group.items] == [own.prune_out_channels, own.prune_in_channels]
    assert graph.is_out_channel_pruning_fn(own.prune_out_channels)
