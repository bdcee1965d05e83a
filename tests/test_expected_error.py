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
from torch import nn

from coupled_channels import Couplings
from dfpc_plugin import DFPCImportance, DFPCPruner, bgsc, rule, rule_scope
from dfpc_plugin.errors import DFPCError
from expected_oracle import Chain, Perceptron, Residual, Separable, by_hand, filled
from random_nets import graphs
from test_saliency_equivariance import alike, order, permuted
from tiny_nets import Net
from traced_runs import traced_bounds

SETTINGS = settings(max_examples=30, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**16)
IMAGE = torch.zeros(1, 3, 8, 8)
ZOO = "test_resnet test_vit test_convnext test_efficientnet test_byobnet squeezenet1_0".split()


def expected(model, x=IMAGE):
    return bgsc(model, x.to(next(model.parameters()).dtype), ranking="expected")


def assert_same(found, wanted, tolerance):
    assert set(found) == set(wanted)
    for layer, scores in found.items():
        torch.testing.assert_close(scores, wanted[layer].double(), rtol=tolerance, atol=1e-2 * tolerance, msg=layer)


NETWORKS = {
    "a chain": (Chain, IMAGE, 0.01),
    "a chain with group norms": (lambda: Chain(norm=lambda width: nn.GroupNorm(2, width)), IMAGE, 0.01),
    "a chain where borders matter little": (lambda: Chain(kernel=3), torch.zeros(1, 3, 32, 32), 0.06),
    "basic blocks": (Residual, IMAGE, 0.01),
    "a perceptron": (Perceptron, torch.zeros(2, 6), 0.01),
    "depthwise convolutions": (Separable, IMAGE, 0.01),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_the_sums_done_by_hand_in_either_precision(name, seed):
    make, x, tolerance = NETWORKS[name]
    model = filled(make(), seed)
    found = expected(model, x)
    assert_same(found, by_hand(model), tolerance)
    assert_same(expected(model.float(), x), found, 1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_shares_are_those_of_errors_measured_on_samples(seed):
    """Gaussian inputs, and statistics of what they make: what leaving out one channel costs its reader on average."""
    torch.manual_seed(seed)
    convs = [nn.Conv2d(64, width, 1) for width in (64, 64, 8)]
    norms = [nn.BatchNorm2d(64, momentum=1.0) for _ in range(2)]
    model = nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), convs[2]).double()
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.2, 1.5)
        nn.init.uniform_(norm.bias, -0.7, 1)
    x = torch.randn(20_000, 64, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        model.train()(x)
        model.eval()
        for reader, tolerance in ((3, 0.05), (6, 0.25)):  # behind the second norm nothing is quite normal
            read, weight = model[:reader](x).squeeze(), model[reader].weight.flatten(1)
            read -= read.mean(0)
            errors = [(read[:, c, None] * weight[:, c]).square().sum(1).mean() for c in range(64)]
            measured = 64 * torch.stack(errors) / sum(errors)
            found = expected(model, x[:1])[str(reader - 3)]
            torch.testing.assert_close(found, measured, rtol=tolerance, atol=0.01)


MEANS, DEVIATIONS = torch.cartesian_prod(torch.linspace(-3, 3, 7), torch.tensor([0.05, 0.4, 1.0, 2.5])).double().T


def flow(model, x, function=lambda x: x):
    seen = []
    traced_bounds(model, x, lambda model, x: seen.append(function(model(x))), expected=True)
    return seen[0]


def moments(function, means=MEANS, deviations=DEVIATIONS):
    """The mean and the variance that a pass derives behind a batch norm, channel by channel."""
    model = nn.Sequential(nn.Conv2d(3, len(means), 1), nn.BatchNorm2d(len(means))).to(means.dtype).eval()
    model[1].weight.data.copy_(deviations)
    model[1].bias.data.copy_(means)
    seen = flow(model, IMAGE.to(means.dtype), function)
    variance = seen.bound.detach().mean((0, 2, 3))
    return None if seen.expectation is None else seen.expectation.flatten(), variance


def sampled(function, means=MEANS, deviations=DEVIATIONS):
    z = torch.special.ndtri((torch.arange(20_001).double() + 0.5) / 20_001)
    return torch.var_mean(function(means + deviations * z[:, None]), 0)[::-1]


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
    "a sum with a constant": (lambda x: F.relu(x + 1), lambda x: (1 + x).relu_(), lambda x: x.add_(1).relu()),
    "a product with a constant": (lambda x: F.relu(-2 * x), lambda x: x.mul_(-2).relu_(), lambda x: (x / -0.5).relu()),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_behind_activations_are_those_of_samples(name):
    function, *others = ACTIVATIONS[name]
    (mean, variance), (wanted_mean, wanted_variance) = moments(function), sampled(function)
    torch.testing.assert_close(mean, wanted_mean, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(variance, wanted_variance, rtol=6e-3, atol=1e-4)
    for other in others:
        torch.testing.assert_close(moments(other), (mean, variance), rtol=1e-12, atol=1e-12)
    single = [x.double() for x in moments(function, MEANS.float(), DEVIATIONS.float())]
    torch.testing.assert_close(single, [mean, variance], rtol=2e-4, atol=2e-5)


def test_slopes_act_by_their_squares_where_the_mean_is_not_known():
    forget = torch.reciprocal  # of which only the slope is known
    for function, slope in ((torch.sigmoid, 1 / 4), (nn.LeakyReLU(3.0), 3), (torch.relu, 1)):
        mean, variance = moments(lambda x, function=function: function(forget(x)))
        assert mean is None
        torch.testing.assert_close(variance, DEVIATIONS.square() * slope**2)


def test_activations_see_a_channels_variance_averaged_over_positions():
    """A depthwise convolution with borders: of its taps' rows and columns, 22 of 24 are within the picture."""
    spread = torch.full((len(MEANS), 1, 3, 3), 1 / 3).double()
    found = moments(lambda x: F.conv2d(x, spread, padding=1, groups=len(MEANS)).relu())
    wanted = sampled(torch.relu, 3 * MEANS, DEVIATIONS * 22 / 24)
    torch.testing.assert_close(found, wanted, rtol=6e-3, atol=2e-3)


def test_means_along_other_axes_are_not_taken_for_those_of_channels():
    """A layer norm over columns, as many of them as channels: neither pooling nor a convolution knows means per channel."""
    shift = torch.arange(8.0).double()
    columns, eight = (lambda x: F.layer_norm(x, (8,), bias=shift)), (torch.ones(8).double(), torch.ones(8).double())
    assert torch.equal(moments(columns, *eight)[0], shift)
    for function in (
        lambda x: F.max_pool2d(x, 2).relu(),
        lambda x: F.conv2d(x, torch.ones(2, 8, 1, 1).double()).relu(),
    ):
        assert moments(lambda x, f=function: f(columns(x)), *eight)[0] is None


class Two(nn.Module):
    """One layer reads the sum of two; the second one goes through `function`."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)) for _ in range(2))
        self.function, self.last = function, nn.Conv2d(5, 2, 1)
        self.scale = nn.Parameter(torch.full((5, 1, 1), 0.3))

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
    "layer scale": (0.3, lambda net, a, b: a + b * net.scale),
    "layer scale in place": (0.3, lambda net, a, b: a + b.mul_(net.scale)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_factor_counts_by_its_square(name):
    factor, function = CONSTANTS[name]
    found = expected(Two(function).double())
    torch.testing.assert_close(found["b.0"], factor**2 * found["a.0"])


def test_a_rule_of_the_users_own_is_followed():
    """Whatever it calls its arguments: here a batch norm that halves, and a convolution that passes its input on."""
    with rule_scope():
        rule(F.batch_norm)(lambda x, *rest, **options: x / 2)
        rule(F.conv2d)(lambda x, w, *rest: x)
        seen = flow(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval(), IMAGE)
    assert seen.bound.eq(0.5).all() and seen.expectation is None


@SETTINGS
@given(graphs(groups=False), seeds)
def test_permuting_channels_permutes_scores(graph, seed):
    net, couplings = Net(graph, seed), Couplings(graph)
    kinds = [roots for roots in alike(couplings.groups) if len(roots) > 1]
    assume(kinds)
    roots = kinds[seed % len(kinds)]
    moves = dict(zip(roots, roots[1:] + roots[:1], strict=True))
    before, after = (expected(x, net.example()) for x in (net, permuted(net, couplings, moves)))
    for node in (node for node in graph.nodes if node.layer in before):
        wanted = before[node.layer][order(couplings.labels[node.name], moves)]
        torch.testing.assert_close(after[node.layer], wanted, rtol=1e-9, atol=1e-12)


@SETTINGS
@given(graphs(), seeds)
def test_every_reader_gives_out_shares_that_add_up_to_one(graph, seed):
    net = Net(graph, seed)
    found = expected(net, net.example())
    readers = {name for coupling in found.couplings for name in coupling.feed_out}
    assert sum(float(scores.mean()) for scores in found.values()) == pytest.approx(len(readers), rel=1e-9)


def test_scores_of_a_coupling_add_up_to_its_channels_times_its_readers():
    found = expected(filled(timm.create_model("test_resnet")), torch.zeros(1, 3, 32, 32))
    for coupling in found.couplings:  # which no reader of theirs reads anything else beside
        scores = found.scores(coupling)
        assert float(scores.sum()) == pytest.approx(len(scores) * len(coupling.feed_out), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [1e-8, 0.3, 1e10])
def test_a_factor_in_front_of_a_batch_norm_changes_nothing(factor, dtype):
    model = filled(Residual()).to(dtype)
    before = expected(model)
    for conv, norm in ((model.stem, model.bn), (model.blocks[1].conv2, model.blocks[1].bn2)):
        for value in (conv.weight.data, norm.running_mean, norm.running_var.mul_(factor)):
            value.mul_(factor)
    assert_same(expected(model), before, 1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dead", ["constant", "cut off", "disconnected"])
def test_channels_that_do_not_vary_score_nothing(dead):
    model = filled(Chain())
    model.body[0].weight.data[2] *= dead != "disconnected"
    model.body[1].weight.data[2] = 0.0 if dead == "constant" else 0.1
    model.body[1].bias.data[2] = -0.8 if dead == "cut off" else 3.0
    scores = expected(model)["body.0"]
    assert scores[2] <= (1e-9 if dead == "cut off" else 0) and scores[[0, 1, 3]].min() > 1e-4


def test_nothing_of_the_model_changes():
    model = filled(Residual()).train()
    model.stem.weight.requires_grad_(False)
    twin, state = deepcopy(model), torch.get_rng_state()
    expected(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in twin.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert all(m.training for m in model.modules()) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ZOO)
def test_scores_of_real_architectures_are_finite(name):
    torch.manual_seed(0)
    size = 64 if name == "squeezenet1_0" else 160 if name == "test_vit" else 32
    model = torchvision.models.squeezenet1_0() if size == 64 else timm.create_model(name)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # the last ones of branches are zero
    for layer, scores in expected(model, torch.zeros(1, 3, size, size)).items():
        assert torch.isfinite(scores).all() and (scores >= 0).all() and scores.max() > 0, layer


@pytest.mark.parametrize("kind", [tp.MetaPruner, DFPCPruner])
def test_it_is_what_pruners_are_given_by_default(kind):
    model, x = filled(timm.create_model("test_resnet")).float(), torch.zeros(1, 3, 32, 32)
    fresh = {name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")}
    pruner = kind(model, x, importance=DFPCImportance(), ignored_layers=[model.fc], **fresh)
    found, names, compared = expected(model, x), {module: name for name, module in model.named_modules()}, set()
    for group in pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers):
        items = [item for item in group.items if group._DG.is_out_channel_pruning_fn(item.dep.handler)]
        layers = {names.get(item.dep.target.module) for item in items} & set(found)
        torch.testing.assert_close(pruner.importance(group), sum(found[layer] for layer in layers))
        compared |= layers
    assert compared == set(found)


def test_an_unknown_ranking_is_told_the_ones_there_are():
    with pytest.raises(DFPCError, match="one of output, expected, relative, coupling-mean, published, not 'mean'"):
        DFPCImportance("mean")
    with pytest.raises(DFPCError, match="one of published, relative, expected, output, not 'coupling-mean'"):
        bgsc(Chain(), IMAGE, ranking="coupling-mean")


def test_means_go_along_with_what_is_moved_averaged_multiplied_or_attended_to():
    torch.manual_seed(0)
    gain, shift = torch.rand(8) + 0.5, torch.randn(8)
    norm = nn.BatchNorm2d(8)
    norm.weight.data, norm.bias.data = gain, shift
    head = nn.Linear(8, 8)

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head, self.end = norm, head, nn.Linear(16, 2)

        def forward(self, x):
            x = self.norm(x)
            tokens = x.flatten(2).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            gated = x.mean((2, 3)) * torch.cat([x, x], 1).mean((2, 3))[:, :8]
            return self.end(torch.cat([self.head(mixed).mean(1), gated], 1))

    run = traced_bounds(Attends().eval(), torch.zeros(1, 8, 4, 4), expected=True)
    torch.testing.assert_close(run.arriving["head"].flatten(0, 1)[0], shift)
    wanted = torch.cat([head(shift), shift.square()])
    torch.testing.assert_close(run.arriving["end"].flatten(), wanted.detach())
