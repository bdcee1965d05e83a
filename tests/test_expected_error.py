"""The ranking by expected error: against sums by hand, against samples, and what must and must not change it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
import torch.nn.functional as F
import torch_pruning as tp
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coupled_channels import Couplings
from dfpc_plugin import DFPCImportance, DFPCPruner, bgsc, rule, rule_scope
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.flow import run_flow
from expected_oracle import Chain, Oracle, Perceptron, Residual, Separable
from random_nets import graphs
from test_saliency_equivariance import alike, order, permuted
from tiny_nets import Net

SETTINGS = settings(max_examples=30, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**16)
IMAGE = torch.zeros(1, 3, 8, 8)


def expected(model, x=IMAGE):
    return bgsc(model, x.to(next(model.parameters()).dtype), ranking="expected")


def filled(model, seed=0):
    """Random weights, gammas of both signs, betas, biases and statistics; double precision, evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.double().eval().state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.3, 2, generator=generator)
            elif value.is_floating_point():
                value.normal_(generator=generator)
    return model


def assert_same(found, wanted, tolerance):
    assert set(found) == set(wanted)
    for layer, scores in found.items():
        torch.testing.assert_close(scores, wanted[layer].double(), rtol=tolerance, atol=1e-2 * tolerance, msg=layer)


def by_hand(model):
    oracle = Oracle(model)
    model.walk(oracle)
    return {name: torch.tensor(list(s.values()), dtype=torch.float64) for name, s in oracle.scores.items()}


NETWORKS = {
    "a chain": (Chain, IMAGE),
    "a chain with group norms": (lambda: Chain(norm=lambda width: nn.GroupNorm(2, width)), IMAGE),
    "basic blocks": (Residual, IMAGE),
    "a perceptron": (Perceptron, torch.zeros(2, 6)),
    "depthwise convolutions": (Separable, IMAGE),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_the_sums_done_by_hand(name, seed):
    make, x = NETWORKS[name]
    model = filled(make(), seed)
    assert_same(expected(model, x), by_hand(model), 1e-2)


def test_borders_matter_little():
    model = filled(Chain(kernel=3))
    assert_same(expected(model, torch.zeros(1, 3, 32, 32)), by_hand(model), 0.06)


@pytest.mark.parametrize("seed", range(2))
def test_shares_are_those_of_errors_measured_on_samples(seed):
    """Gaussian inputs, and statistics of what they make: what leaving out one channel costs its reader on average."""
    torch.manual_seed(seed)
    widths = (24, 32, 32, 8)
    convs = [nn.Conv2d(a, b, 1) for a, b in zip(widths, widths[1:], strict=False)]
    norms = [nn.BatchNorm2d(width, momentum=1.0) for width in widths[1:3]]
    model = nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), convs[2]).double()
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(20_000, widths[0], 1, 1, dtype=torch.float64)
    with torch.no_grad():
        model.train()(x)
        model.eval()
        for reader in (3, 6):
            read = model[:reader](x).squeeze()
            weight = model[reader].weight.flatten(1)
            errors = [
                ((read[:, c] - read[:, c].mean())[:, None] * weight[:, c]).square().sum(1).mean()
                for c in range(read.shape[1])
            ]
            measured = read.shape[1] * torch.stack(errors) / sum(errors)
            found = expected(model, x[:1])[str(reader - 3)]
            torch.testing.assert_close(found, measured, rtol=0.1, atol=0.03)


MEANS, DEVIATIONS = torch.cartesian_prod(torch.linspace(-3, 3, 7), torch.tensor([0.05, 0.4, 1.0, 2.5])).double().T


def moments(function, means=MEANS, deviations=DEVIATIONS):
    """The mean and the variance that a pass derives behind a batch norm, channel by channel."""
    norm = nn.BatchNorm2d(len(means)).to(means.dtype).eval()
    norm.weight.data.copy_(deviations)
    norm.bias.data.copy_(means)
    seen = []
    layer = nn.Conv2d(3, len(means), 1).to(means.dtype)

    def forward(model, x):
        seen.append(function(model[1](model[0](x))))

    run_flow(nn.Sequential(layer, norm), IMAGE.to(means.dtype), forward, expected=True)
    expectation = seen[0].expectation
    return expectation if expectation is None else expectation.flatten(), seen[0].bound.detach().mean((0, 2, 3))


def sampled(function, means=MEANS, deviations=DEVIATIONS):
    """The same from evenly spread quantiles."""
    count = 20_001
    z = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    y = function(means + deviations * z[:, None])
    return y.mean(0), y.var(0)


ACTIVATIONS = {
    "relu": (torch.relu, lambda x: x.relu_(), lambda x: F.relu(x, inplace=True), F.relu_, nn.ReLU(True)),
    "relu6": (F.relu6, nn.ReLU6(True), lambda x: F.relu6(x, True), lambda x: F.hardtanh_(x, 0, 6)),
    "leaky_relu": (nn.LeakyReLU(0.3), nn.LeakyReLU(0.3, True), lambda x: F.leaky_relu_(x, 0.3)),
    "gelu": (F.gelu, nn.GELU(), lambda x: torch._C._nn.gelu_(x)),
    "gelu by tanh": (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (F.silu, nn.SiLU(inplace=True), lambda x: F.silu(x, inplace=True)),
    "hardswish": (F.hardswish, nn.Hardswish(True)),
    "sigmoid": (torch.sigmoid, lambda x: x.sigmoid_(), nn.Sigmoid()),
    "tanh": (torch.tanh, lambda x: x.tanh_(), nn.Tanh()),
    "elu": (lambda x: F.elu(x, 0.5), nn.ELU(0.5, True)),
    "softplus": (lambda x: F.softplus(x, 3, 10), lambda x: F.softplus(x, threshold=10, beta=3), nn.Softplus(3, 10)),
    "mish": (F.mish, nn.Mish(True)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 2), nn.Hardtanh(-0.5, 2, True), lambda x: F.hardtanh(x, max_val=2, min_val=-0.5)),
    "a sum and a difference of constants": (lambda x: F.relu(x + 1), lambda x: (1 + x).relu_(), lambda x: x.add_(1).relu()),
    "a product with a constant": (lambda x: F.relu(-2 * x), lambda x: x.mul_(-2).relu_(), lambda x: (x / -0.5).relu()),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_behind_activations_are_those_of_samples(name):
    function, *others = ACTIVATIONS[name]
    mean, variance = moments(function)
    sampled_mean, sampled_variance = sampled(function)
    torch.testing.assert_close(mean, sampled_mean, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(variance, sampled_variance, rtol=6e-3, atol=1e-4)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(moments(other), (mean, variance), strict=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_are_the_same_in_single_precision(name):
    function = ACTIVATIONS[name][0]
    for single, double in zip(moments(function, MEANS.float(), DEVIATIONS.float()), moments(function), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-5)


def test_slopes_act_by_their_squares_where_the_mean_is_not_known():
    def forget(x):
        return x.flatten(2).unflatten(2, x.shape[2:])

    assert moments(forget)[0] is None
    for function, slope in ((torch.sigmoid, 1 / 4), (nn.LeakyReLU(3.0), 3), (torch.relu, 1)):
        mean, variance = moments(lambda x, function=function: function(forget(x)))
        assert mean is None
        torch.testing.assert_close(variance, DEVIATIONS.square() * slope**2)


def test_means_along_other_axes_are_not_taken_for_those_of_channels():
    """A layer norm over columns, as many of them as channels: neither pooling nor a convolution knows means per channel."""
    shift = torch.arange(8.0).double()
    columns, eight = (lambda x: F.layer_norm(x, (8,), bias=shift)), (torch.ones(8).double(), torch.ones(8).double())
    weight = torch.ones(2, 8, 1, 1).double()
    assert torch.equal(moments(columns, *eight)[0], shift)
    for function in (lambda x: F.max_pool2d(x, 2).relu(), lambda x: F.conv2d(x, weight).relu()):
        assert moments(lambda x, f=function: f(columns(x)), *eight)[0] is None


class Two(nn.Module):
    """One layer reads the sum of two; the second one goes through `function`."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)) for _ in range(2))
        self.function, self.last = function, nn.Conv2d(5, 2, 1)
        self.scale = nn.Parameter(torch.ones(5, 1, 1))

    def forward(self, x):
        return self.last(self.function(self, self.a(x), self.b(x)))


CONSTANTS = {
    "factor": (0.5, lambda net, a, b: a + b * 0.5),
    "reversed factor": (0.5, lambda net, a, b: a + 0.5 * b),
    "in place": (-0.5, lambda net, a, b: a.add_(b.mul_(-0.5))),
    "quotient": (0.5, lambda net, a, b: a + b / 2),
    "tensor": (0.5, lambda net, a, b: a + torch.tensor(0.5).double() * b),
    "integer tensor": (3.0, lambda net, a, b: a + b * torch.tensor(3)),
    "quotient by an integer tensor": (1 / 3, lambda net, a, b: a + b / torch.tensor([3])),
    "alpha": (0.5, lambda net, a, b: torch.add(a, b, alpha=0.5)),
    "layer scale": (0.3, lambda net, a, b: a + b * (net.scale * 0.3)),
    "layer scale in place": (0.3, lambda net, a, b: a + b.mul_(net.scale * 0.3)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_factor_counts_by_its_square(name):
    factor, function = CONSTANTS[name]
    model = filled(Two(function))
    model.scale.data.fill_(1)
    found = expected(model)
    gammas = [layer[1].weight.detach().square() for layer in (model.a, model.b)]
    torch.testing.assert_close(found["b.0"] / found["a.0"], factor**2 * gammas[1] / gammas[0])


def test_a_rule_of_the_users_own_is_followed():
    """Whatever it calls its arguments: here a batch norm that halves, and a convolution that passes its input on."""
    with rule_scope():
        rule(F.batch_norm)(lambda x, *rest: x / 2)
        rule(F.conv2d)(lambda x, w, *rest: x)
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
        seen = []
        run_flow(model, IMAGE, lambda model, x: seen.append(model(x)), expected=True)
    assert seen[0].bound.eq(0.5).all() and seen[0].expectation is None


@SETTINGS
@given(graphs(groups=False), seeds)
def test_permuting_channels_permutes_scores(graph, seed):
    net, couplings = Net(graph, seed), Couplings(graph)
    kinds = [roots for roots in alike(couplings.groups) if len(roots) > 1]
    assume(kinds)
    roots = kinds[seed % len(kinds)]
    moves = dict(zip(roots, roots[1:] + roots[:1], strict=True))
    before, after = (expected(x, net.example()) for x in (net, permuted(net, couplings, moves)))
    for node in filter(graph.is_feed, graph.nodes):
        if node.layer in before:
            wanted = before[node.layer][order(couplings.labels[node.name], moves)]
            torch.testing.assert_close(after[node.layer], wanted, rtol=1e-9, atol=1e-12)


@SETTINGS
@given(graphs(), seeds)
def test_every_reader_gives_out_shares_that_add_up_to_one(graph, seed):
    net = Net(graph, seed)
    found = expected(net, net.example())
    readers = {name for coupling in found.couplings for name in coupling.feed_out}
    assert all((scores >= 0).all() for scores in found.values())
    assert sum(float(scores.mean()) for scores in found.values()) == pytest.approx(len(readers), rel=1e-9)


def test_scores_of_a_coupling_add_up_to_its_channels_times_its_readers():
    found = expected(filled(timm.create_model("test_resnet")), torch.zeros(1, 3, 32, 32))
    readers = [name for coupling in found.couplings for name in coupling.feed_out]
    for coupling in found.couplings:
        scores, alone = found.scores(coupling), [name for name in coupling.feed_out if readers.count(name) == 1]
        assert len(alone) == len(coupling.feed_out)
        assert float(scores.sum()) == pytest.approx(len(scores) * len(alone), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [1e-8, 0.3, 1e8])
def test_a_factor_in_front_of_a_batch_norm_changes_nothing(factor, dtype):
    model = filled(Residual()).to(dtype)
    before = expected(model)
    with torch.no_grad():
        for conv, norm in ((model.stem, model.bn), (model.blocks[1].conv2, model.blocks[1].bn2)):
            conv.weight.mul_(factor)
            norm.running_mean.mul_(factor)
            norm.running_var.mul_(factor**2)
    after = expected(model)
    assert_same(after, before, 1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dead", ["constant", "cut off", "disconnected"])
def test_channels_that_do_not_vary_score_nothing(dead):
    model = filled(Chain())
    gamma, beta = {"constant": (0.0, 3.0), "cut off": (0.1, -0.8), "disconnected": (1.0, 1.0)}[dead]
    with torch.no_grad():
        model.body[1].weight[2], model.body[1].bias[2] = gamma, beta
        if dead == "disconnected":
            model.body[0].weight[2] = 0
    scores = expected(model)["body.0"]
    assert scores[2] == 0 if dead != "cut off" else scores[2] < 1e-9
    assert scores[[0, 1, 3]].min() > 1e-4


def test_nothing_of_the_model_changes():
    model = filled(Residual()).train()
    model.stem.weight.requires_grad_(False)
    twin, state = deepcopy(model), torch.get_rng_state()
    expected(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in twin.parameters()]
    assert all(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_and_double_precision_agree(name):
    make, x = NETWORKS[name]
    model = filled(make()).float()
    single = expected(model, x)
    assert_same(single, dict(expected(model.double(), x)), 1e-3)


ZOO = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet", "squeezenet1_0")


@pytest.mark.parametrize("name", ZOO)
def test_scores_of_real_architectures_are_finite_and_tell_channels_apart(name):
    torch.manual_seed(0)
    size = 64 if name == "squeezenet1_0" else 160 if name == "test_vit" else 32
    model = torchvision.models.squeezenet1_0() if size == 64 else timm.create_model(name)
    found = expected(model, torch.zeros(1, 3, size, size))
    assert found
    for layer, scores in found.items():
        assert torch.isfinite(scores).all() and (scores >= 0).all() and scores.max() > 0, layer
    assert not all(torch.allclose(found[layer], value) for layer, value in bgsc(
        model, torch.zeros(1, 3, size, size), ranking="relative").items())  # fmt: skip


@pytest.mark.parametrize("kind", [tp.MetaPruner, DFPCPruner])
def test_it_is_what_pruners_are_given_by_default(kind):
    model, x = filled(timm.create_model("test_resnet")).float(), torch.zeros(1, 3, 32, 32)
    importance = DFPCImportance()
    assert importance.ranking == "expected"
    fresh = {name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")}
    pruner = kind(model, x, importance=importance, ignored_layers=[model.fc], **fresh)
    found, names, compared = expected(model, x), {module: name for name, module in model.named_modules()}, set()
    for group in pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers):
        layers = {
            names[item.dep.target.module] for item in group.items
            if group._DG.is_out_channel_pruning_fn(item.dep.handler)
            and names.get(item.dep.target.module) in found
        }  # fmt: skip
        torch.testing.assert_close(importance(group), sum(found[layer] for layer in layers))
        compared |= layers
    assert compared == set(found)


def test_an_unknown_ranking_is_told_the_ones_there_are():
    with pytest.raises(DFPCError, match="one of expected, relative, coupling-mean, published, not 'mean'"):
        DFPCImportance("mean")
    with pytest.raises(DFPCError, match="one of published, relative, expected, not 'coupling-mean'"):
        bgsc(Chain(), IMAGE, ranking="coupling-mean")
