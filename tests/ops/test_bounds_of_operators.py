"""Rules against what they claim: exact ones equal |Jacobian| x, bounds hold, maps are linear where they must be."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import get_testing_overrides

from dfpc_plugin import registered_rules
from dfpc_plugin.tracing.operator import Convention, find_operator
from traced_runs import bound_run

torch.manual_seed(0)
RUN = bound_run(nn.Linear(1, 1).double())


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def apply(function, bound):
    """Apply rules to whatever `function` does to its data."""
    data = RUN.input(torch.empty(bound.shape, dtype=torch.float64))
    data.set_bound(bound, frozenset({"source"}))
    return function(data).bound


# What a rule marked exact does to data of the given shape, weights drawn at random.
EXACT = {
    "depthwise": ((2, 3, 5, 5), lambda w: lambda x: F.conv2d(x, w[0], None, 2, 1, 1, 3), [(3, 1, 3, 3)]),
    "depthwise_multiplier": ((1, 2, 5, 5), lambda w: lambda x: F.conv2d(x, w[0], groups=2), [(4, 1, 3, 3)]),
    "depthwise_1d": ((1, 3, 9), lambda w: lambda x: F.conv1d(x, w[0], None, 1, "same", 2, 3), [(3, 1, 3)]),
    "depthwise_transposed": (
        (1, 3, 4, 4),
        lambda w: lambda x: F.conv_transpose2d(x, w[0], None, 2, 1, 1, 3),
        [(3, 1, 3, 3)],
    ),
    "batch_norm": (
        (1, 3, 4, 4),
        lambda w: lambda x: F.batch_norm(x, w[0], w[1].square() + 0.1, w[2], w[3]),
        [(3,)] * 4,
    ),
    "add_constant": ((2, 3), lambda w: lambda x: x + w[0], [(2, 3)]),
    "add_alpha": ((2, 3), lambda w: lambda x: torch.add(x, x.flip(1), alpha=-2), []),
    "subtract": ((2, 3), lambda w: lambda x: w[0] - x.flip(0) - 3, [(2, 3)]),
    "residual": ((2, 3, 4), lambda w: lambda x: x + x.mean(-1, keepdim=True), []),
    "centred": ((2, 3, 4), lambda w: lambda x: x - x.mean(-1, keepdim=True), []),
    "multiply_constant": ((2, 3), lambda w: lambda x: w[0] * x * -2.0, [(3,)]),
    "divide_constant": ((2, 3), lambda w: lambda x: x / w[0], [(3,)]),
    "matmul_constant": ((2, 4, 3), lambda w: lambda x: x @ w[0], [(3, 5)]),
    "constant_matmul": ((2, 4, 3), lambda w: lambda x: w[0] @ x, [(5, 4)]),
    "einsum_constant": ((2, 4, 3), lambda w: lambda x: torch.einsum("bnc,cd->bdn", x, w[0]), [(3, 5)]),
    "avg_pool": ((1, 2, 6, 6), lambda w: lambda x: F.avg_pool2d(x, 3, 2, 1), []),
    "adaptive_avg_pool": ((1, 2, 5, 5), lambda w: lambda x: F.adaptive_avg_pool2d(x, 3), []),
    "mean": ((1, 2, 5, 5), lambda w: lambda x: x.mean((2, 3)), []),
    "cumsum": ((2, 5), lambda w: lambda x: x.cumsum(1), []),
    "bilinear": ((1, 2, 4, 4), lambda w: lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), []),
    "nearest": ((1, 2, 4, 4), lambda w: lambda x: F.interpolate(x, size=(7, 7)), []),
    "cat_constant": ((2, 3), lambda w: lambda x: torch.cat([w[0], x, x], 1), [(2, 1)]),
    "stack": ((2, 3), lambda w: lambda x: torch.stack([x, x.roll(1, 1)], 0), []),
    "shapes": (
        (2, 4, 6),
        lambda w: lambda x: x.permute(0, 2, 1).reshape(2, 3, 2, 4).flatten(1, 2).unbind(0)[1].flip(0),
        [],
    ),
    "getitem": ((2, 4, 6), lambda w: lambda x: x[:, None, 1:3, torch.tensor([5, 0])], []),
    "pad": ((1, 2, 4, 4), lambda w: lambda x: F.pad(x, (1, 2, 0, 1), value=7.0), []),
    "reflect": ((1, 2, 4, 4), lambda w: lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), []),
    "unfold": ((1, 2, 4, 4), lambda w: lambda x: F.unfold(x, 3, padding=1), []),
    "window": ((1, 8), lambda w: lambda x: x.unfold(1, 4, 2), []),
    "pixel_shuffle": ((1, 4, 3, 3), lambda w: lambda x: F.pixel_shuffle(x, 2), []),
    "where": ((4,), lambda w: lambda x: torch.where(w[0] > 0, x, w[0]), [(4,)]),
    "masked_fill": ((4,), lambda w: lambda x: x.masked_fill(w[0] > 0, -1e9), [(4,)]),
    "lerp": ((4,), lambda w: lambda x: torch.lerp(x, x.flip(0), 0.3), []),
}

# Summands of data that meets itself: absolute values add summand by summand, and nothing cancels.
OPERANDS = {
    "add_alpha": [lambda x: x, lambda x: -2 * x.flip(1)],
    "residual": [lambda x: x, lambda x: x.mean(-1, keepdim=True).expand_as(x)],
    "centred": [lambda x: x, lambda x: -x.mean(-1, keepdim=True).expand_as(x)],
}


def times_absolute_jacobian(function, bound):
    """|J| x, from the Jacobian of a linear function."""
    jacobian = torch.autograd.functional.jacobian(function, torch.zeros_like(bound))
    return torch.tensordot(jacobian.abs(), bound, bound.dim())


@pytest.mark.parametrize("case", EXACT)
def test_exact_rules_equal_the_absolute_jacobian(case):
    shape, build, weights = EXACT[case]
    function = build([random(*size) for size in weights])
    bound = random(*shape).abs()
    operands = OPERANDS.get(case, [function])
    expected = sum(times_absolute_jacobian(operand, bound) for operand in operands)
    torch.testing.assert_close(apply(function, bound), expected)


LIPSCHITZ = [
    F.relu,
    F.relu6,
    F.hardtanh,
    torch.tanh,
    F.softsign,
    F.logsigmoid,
    F.celu,
    torch.abs,
    torch.neg,
    torch.sigmoid,
    F.hardsigmoid,
    F.hardswish,
    F.silu,
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.mish,
    F.selu,
    torch.erf,
    torch.sin,
    torch.cos,
    torch.atan,
    F.softshrink,
    F.softplus,
    lambda x: F.softplus(x, 3.0),
    F.elu,
    lambda x: F.elu(x, 2.0),
    F.leaky_relu,
    lambda x: F.leaky_relu(x, -1.7),
    lambda x: F.prelu(x, SLOPES),
    lambda x: x.clamp(-0.5, 0.2),
    lambda x: torch.maximum(x, x.flip(0)),
    lambda x: F.max_pool1d(x, 3, 2, 1),
    lambda x: x.amax((1, 2)),
    lambda x: x.max(2).values,
    lambda x: torch.linalg.vector_norm(x, 2, 2),
    lambda x: x.norm(p=2, dim=1),
    lambda x: torch.max(x, x.roll(1, 2)),
    lambda x: F.rrelu(x),
    lambda x: torch.logsumexp(x, 2),
    lambda x: torch.logsumexp(x, (1, 2)),
    lambda x: torch.min(x, torch.zeros_like(x)),
]
SLOPES = torch.tensor([0.3, -2.0, 1.4], dtype=torch.float64)


@pytest.mark.parametrize("index", range(len(LIPSCHITZ)))
def test_no_change_exceeds_a_bound(index):
    function = LIPSCHITZ[index]
    generator = torch.Generator().manual_seed(index)
    for scale in (0.01, 0.3, 3.0, 30.0):
        x = scale * torch.randn(64, 3, 8, dtype=torch.float64, generator=generator)
        step = torch.rand(64, 3, 8, dtype=torch.float64, generator=generator)
        y = x + step * torch.randn(64, 3, 8, dtype=torch.float64, generator=generator).clamp(-1, 1)
        change = (function(x) - function(y)).abs()
        limit = apply(function, (x - y).abs())
        assert (change <= limit * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("function", [F.silu, F.gelu, F.mish, F.hardswish, torch.sigmoid, F.selu, F.hardsigmoid])
def test_lipschitz_constants_are_tight(function):
    x = torch.linspace(-8, 8, 200001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    claimed = apply(function, torch.ones(1, dtype=torch.float64)).item()
    assert slope.abs().max().item() == pytest.approx(claimed, rel=1e-3)


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
SIGNATURES_OF_TWO_OVERLOADS = {
    torch.lstm,
    torch.gru,
    torch.rnn_tanh,
    torch.rnn_relu,
    torch.Tensor.__rpow__,
    torch.max,
    torch.min,
    torch.Tensor.max,
    torch.Tensor.min,
    torch.where,
    torch.Tensor.where,
    torch.dsmm,
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
    torch.logsumexp,
    torch.Tensor.logsumexp,
}  # torch's own table of stand-ins lists one overload, or other names than the operator takes

ACROSS_CHANNELS = {
    "amax": lambda x: x.amax(1),
    "max": lambda x: x.max(1).values,
    "norm": lambda x: x.norm(dim=1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
}


@pytest.mark.parametrize("case", ACROSS_CHANNELS)
def test_reductions_over_channels_credit_every_channel_with_its_share(case):
    function = ACROSS_CHANNELS[case]
    x = 3 * random(256, 4, 3, 3)
    bound = torch.ones(1, 4, 3, 3, dtype=torch.float64).requires_grad_()
    (shares,) = torch.autograd.grad(apply(function, bound).sum(), bound)
    for channel in range(4):
        without = x.clone()
        without[:, channel] -= random(256, 3, 3).clamp(-1, 1)
        change = (function(x) - function(without)).abs().sum((1, 2))
        assert (change <= (shares * bound)[:, channel].sum() + 1e-9).all()


CONVENTIONS = {
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "quotient": lambda x: x / x.sum(1, keepdim=True),
    "softmax": lambda x: x.softmax(-1),
    "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, x.flip(2)),
    "product": lambda x: x @ x.transpose(-1, -2),
    "einsum": lambda x: torch.einsum("bhid,bhjd->bhij", x, x),
    "power": lambda x: x.pow(3).sqrt(),
    "variance": lambda x: x.var(1, keepdim=True) + x,
}


@pytest.mark.parametrize("case", CONVENTIONS)
def test_conventions_are_linear_monotone_and_not_negative(case):
    function, x, y = CONVENTIONS[case], random(2, 3, 4, 4).abs(), random(2, 3, 4, 4).abs()
    torch.testing.assert_close(apply(function, 3 * x), 3 * apply(function, x))
    torch.testing.assert_close(apply(function, x + y), apply(function, x) + apply(function, y))
    assert (apply(function, x) >= 0).all()


NORMS = {
    "layer_norm": lambda x: F.layer_norm(x, (4,), torch.linspace(-1, 1, 4).double(), None, 0.0),
    "group_norm": lambda x: F.group_norm(x, 3, None, None, 0.0),
    "instance_norm": lambda x: F.instance_norm(x, eps=0.0),
    "rms_norm": lambda x: F.rms_norm(x, (4,), None, 1e-30),
    "normalize": lambda x: F.normalize(x, dim=1),
    "batch_norm_of_the_batch": lambda x: F.batch_norm(x, None, None, training=True, eps=0.0),
}


@pytest.mark.parametrize("case", NORMS)
def test_norms_of_the_data_cancel_its_scale_and_keep_zeros(case):
    function, x = NORMS[case], random(2, 3, 4, 4).abs() + 0.1
    torch.testing.assert_close(apply(function, 7 * x), apply(function, x))
    assert apply(function, torch.zeros_like(x)).eq(0).all()


@pytest.mark.parametrize("dim", [-1, 1])
def test_written_out_attention_equals_the_fused_one(dim):
    q, k, v = (nn.Linear(4, 8) for _ in range(3))

    def written_out(x):
        logits = (q(x) * 8**-0.5) @ k(x).transpose(-2, -1)
        return logits.softmax(dim=-1) @ v(x)

    x = torch.ones(1, 5, 4)
    run = bound_run(nn.ModuleList([q, k, v]))
    data = run.input(x)
    fused = F.scaled_dot_product_attention(q(data), k(data), v(data)).bound
    torch.testing.assert_close(written_out(data).bound, fused)


def test_rules_take_the_arguments_of_their_operators_in_order_and_by_name():
    """torch hands arguments over by position or by their public names, so a rule needs both right."""
    checked = 0
    for function, stand_in in get_testing_overrides().items():
        entry = find_operator(function)
        if entry is None or function in SIGNATURES_OF_TWO_OVERLOADS:
            continue
        theirs = [p.name for p in inspect.signature(stand_in).parameters.values() if p.kind in NAMED]
        mine = list(inspect.signature(entry.bound).parameters.values())[entry.context :]
        if theirs[:1] == ["self"]:  # a method's own tensor always comes first and by position
            theirs, mine = theirs[1:], mine[1:]
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in mine):
            continue
        positional = [p.name for p in mine if p.kind is p.POSITIONAL_OR_KEYWORD]
        shared = [name for name in theirs if name in positional]
        assert shared == positional[: len(shared)], function
        assert not set(theirs) - {p.name for p in mine} - {"out", "out_dtype", "cudnn_enabled", "esp"}, function
        checked += 1
    assert checked > 100


def test_the_paper_s_operators_are_exact():
    for operator in (torch.conv2d, F.linear, F.batch_norm, F.adaptive_avg_pool2d, torch.add, torch.cat):
        assert registered_rules()[operator].convention is Convention.EXACT
