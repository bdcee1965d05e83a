"""One function, however it is spelled: the same scores under every ranking, and the same couplings."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import DFPCError
from expected_oracle import filled

TOLERANCES = {"published": 1e-6, "relative": 1e-6, "expected": 1e-4, "output": 1e-4}


class Spelled(nn.Module):
    """A network with a function in it, spelled as code."""

    inputs: Tensor

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = compile(code, code, "eval")

    def spelled(self, **values: Tensor) -> Tensor:
        return eval(self.code, {"torch": torch, "F": F, "nn": nn, "math": math, "m": self, **values})


class Image(Spelled):
    """`x`, a batch norm behind a convolution, in front of another convolution."""

    inputs = torch.zeros(1, 3, 6, 6, dtype=torch.float64)

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 3)
        self.slope, self.slopes = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(6))

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.spelled(x=self.norm(self.first(image))))


class Normed(Image):
    """The batch norm is what is spelled."""

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.spelled(x=self.first(image)).relu())


class Cut(Image):
    """A ReLU follows, which tells different means apart."""

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.spelled(x=self.norm(self.first(image))).relu())


class Pooled(Image):
    """A picture behind a ReLU becomes one vector."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.middle, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.middle(self.spelled(x=self.norm(self.first(image)).relu())).relu())


class Flattened(Image):
    """A picture behind a ReLU becomes the vector of all of its entries."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.last = nn.Linear(6 * 16, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.spelled(x=self.norm(self.first(image)).relu()))


class Sum(Image):
    """`x` and `y` of two branches."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.second, self.other = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, image: Tensor) -> Tensor:
        x, y = self.norm(self.first(image)), self.other(self.second(image))
        return self.last(self.spelled(x=x, y=y).relu())


class Perceptron(Spelled):
    """`x`, in front of a linear layer with weight `w` and bias `b`."""

    inputs = torch.zeros(4, 3, dtype=torch.float64)

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.first, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)
        self.middle, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.last(self.spelled(x=x, w=self.middle.weight, b=self.middle.bias).relu())


class Attention(Spelled):
    """Queries `q`, keys `k` and values `v` of two heads that are 4 wide."""

    inputs = torch.zeros(1, 5, 3, dtype=torch.float64)

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.embed, self.norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.query, self.key, self.value = (nn.Linear(6, 8) for _ in range(3))
        self.project, self.last = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        q, k, v = (layer(x).view(1, 5, 2, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.last(self.project(self.attended(q, k, v).transpose(1, 2).flatten(2)).relu())

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.spelled(q=q, k=k, v=v)


class Weighted(Attention):
    """The softmax of logits `x`, with which values are weighted, is what is spelled."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.spelled(x=(q * 0.5) @ k.transpose(-2, -1)) @ v


GROUPS: dict[str, tuple[type[Spelled], list[str]]] = {
    "flatten": (Flattened, [
        "x.flatten(1)", "x.view(x.size(0), -1)", "x.reshape(len(x), -1)", "x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])",
        "x.flatten(2).view(x.size(0), -1)", "F.max_pool2d(x, 1).view(x.size(0), -1)",
    ]),
    "relu": (Image, ["F.relu(x)", "x.relu()", "torch.relu_(x)", "nn.ReLU(inplace=True)(x)"]),
    "relu as a clamp": (Image, ["F.relu(x)", "x.clamp(min=0)", "x.clamp_min(0)", "torch.clamp(x, 0)", "x.clamp_(min=0)"]),
    "relu as a threshold": (Image, ["F.relu(x)", "F.threshold(x, 0, 0)"]),
    "relu as a maximum": (Image, [
        "F.relu(x)", "torch.maximum(x, torch.zeros_like(x))", "torch.maximum(x, x.new_zeros(()))",
    ]),
    "relu as a choice": (Image, ["F.relu(x)", "torch.where(x > 0, x, 0)"]),
    "relu as a mask": (Image, ["F.relu(x)", "x * (x > 0)"]),
    "relu6": (Image, ["F.relu6(x)", "nn.ReLU6(inplace=True)(x)", "F.hardtanh(x, 0, 6)"]),
    "relu6 as a clamp": (Image, ["F.relu6(x)", "x.clamp(0, 6)", "torch.clamp(x, min=0, max=6)"]),
    "leaky_relu": (Image, ["F.leaky_relu(x, 0.2)", "F.leaky_relu_(x, 0.2)", "nn.LeakyReLU(0.2, inplace=True)(x)"]),
    "leaky_relu as prelu": (Image, ["F.leaky_relu(x, 0.2)", "F.prelu(x, m.slope)", "F.prelu(x, m.slopes)"]),
    "leaky_relu as a maximum": (Image, ["F.leaky_relu(x, 0.2)", "torch.maximum(x, 0.2 * x)"]),
    "silu": (Image, ["F.silu(x)", "F.silu(x, inplace=True)", "nn.SiLU(inplace=True)(x)"]),
    "silu as a product": (Image, ["F.silu(x)", "x * x.sigmoid()", "torch.sigmoid(x) * x"]),
    "hardswish": (Image, ["F.hardswish(x)", "nn.Hardswish(inplace=True)(x)"]),
    "hardswish as a product": (Image, ["F.hardswish(x)", "x * F.relu6(x + 3) / 6", "x * F.hardsigmoid(x)"]),
    "gelu": (Image, ["F.gelu(x)", "nn.GELU()(x)"]),
    "gelu as a product": (Image, ["F.gelu(x)", "x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))"]),
    "quotient": (Cut, ["x / 4", "x * (1 / 4)", "torch.div(x, 4)", "x.div_(4)", "x * torch.tensor(0.25)", "0.25 * x",
        "x * torch.full_like(x, 0.25)", "x * x.new_full(x.shape, torch.tensor(0.25))", "x * x.new_full((), m.slopes[0] * 0 + 0.25)",
    ]),
    "difference": (Sum, ["x - y", "x + (-y)", "torch.sub(x, y)", "torch.add(x, y, alpha=-1)", "x + y * -1", "-(y - x)"]),
    "difference in place": (Sum, ["x - y", "x.sub_(y)", "y.neg_().add_(x)"]),
    "sum with a factor": (Sum, [
        "torch.add(x, y, alpha=0.5)", "x + 0.5 * y", "x.add_(y, alpha=0.5)", "x + y / 2", "torch.add(x, y.mul_(0.5))",
    ]),
    "difference with a factor": (Sum, ["x - 0.5 * y", "torch.sub(x, y, alpha=0.5)", "torch.add(x, y, alpha=-0.5)"]),
    "average": (Pooled, [
        "x.mean((2, 3))", "F.adaptive_avg_pool2d(x, 1).flatten(1)", "F.avg_pool2d(x, 4).flatten(1)", "x.flatten(2).mean(-1)",
    ]),
    "minus the average": (Cut, ["x - x.mean()", "x - x.new_full((), x.mean())", "x - torch.full_like(x, x.mean())"]),
    "average as a sum": (Pooled, ["x.mean((2, 3))", "x.sum((2, 3)) / 16"]),
    "linear": (Perceptron, ["m.middle(x)", "F.linear(x, w, b)", "F.linear(x, w) + b"]),
    "linear as a product": (Perceptron, [
        "F.linear(x, w, b)", "x @ w.t() + b", "torch.addmm(b, x, w.t())", "torch.matmul(x, w.T).add_(b)",
    ]),
    "softmax": (Weighted, ["F.softmax(x, -1)", "x.softmax(-1)", "torch.softmax(x, dim=-1)", "nn.Softmax(-1)(x)"]),
    "softmax as a quotient": (Weighted, ["F.softmax(x, -1)", "x.exp() / x.exp().sum(-1, keepdim=True)"]),
    "attention with scaled queries": (Attention, [
        "F.scaled_dot_product_attention(q, k, v)", "((q * 0.5) @ k.mT).softmax(-1) @ v",
        "((q / 2) @ k.transpose(-2, -1)).softmax(-1) @ v",
    ]),
    "attention with scaled logits": (Attention, [
        "F.scaled_dot_product_attention(q, k, v)", "(q @ k.mT / 2).softmax(-1) @ v", "(q @ k.mT * 0.5).softmax(-1) @ v",
    ]),
    "attention with scaled keys": (Attention, ["F.scaled_dot_product_attention(q, k, v)", "(q @ (k * 0.5).mT).softmax(-1) @ v"]),
    "batch_norm": (Normed, [
        "m.norm(x)", "F.batch_norm(x, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias)",
    ]),
}  # fmt: skip
"""Spellings of one function, the usual one first."""

SCALE = "(m.norm.weight / (m.norm.running_var + m.norm.eps).sqrt())"
BY_HAND = f"x * {SCALE}[:, None, None] + (m.norm.bias - m.norm.running_mean * {SCALE})[:, None, None]"
GROUPS["batch_norm by hand"] = (Normed, ["m.norm(x)", BY_HAND])

CASES = [
    (group, ranking)
    for group in GROUPS
    for ranking in TOLERANCES
    if group != "softmax as a quotient"  # a power of e has no bound
    # a product of data counts the scale of the factor that has it, so only a scaled query is what the fused form counts
    and group not in ("attention with scaled logits", "attention with scaled keys")
    and (group, ranking)
    not in (
        ("batch_norm by hand", "expected"),
        ("batch_norm by hand", "output"),
    )  # constants do not say that they are statistics of their input
]


def built(kind: type[Spelled], code: str) -> Spelled:
    """The same weights for every spelling."""
    model = filled(kind(code))
    with torch.no_grad():
        for parameter in (getattr(model, "slope", None), getattr(model, "slopes", None)):
            if parameter is not None:
                parameter.fill_(0.2)
    return model


@cache
def scored(kind: type[Spelled], code: str, ranking: Any) -> dict[str, Tensor]:
    return dict(dfpc.bgsc(built(kind, code), kind.inputs, ranking=ranking))


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest relative difference of any channel's score; scores below a millionth of the largest count as that."""
    if found.keys() != wanted.keys():
        return math.inf
    scales = {layer: scores.clamp_min(1e-6 * float(scores.max())) for layer, scores in wanted.items()}
    return max(float(((found[layer] - own).abs() / scales[layer]).max()) for layer, own in wanted.items())


@pytest.mark.parametrize("group", GROUPS)
def test_spellings_are_of_one_function(group: str) -> None:
    """What the other tests assume."""
    kind, spellings = GROUPS[group]
    x = torch.randn(kind.inputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        wanted, *others = (built(kind, code)(x) for code in spellings)
    for found in others:
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("group", "ranking"), CASES)
def test_spellings_score_alike(group: str, ranking: str) -> None:
    kind, spellings = GROUPS[group]
    wanted = scored(kind, spellings[0], ranking)
    assert all(float(scores.max()) > 0 for scores in wanted.values())
    different = {}
    for code in spellings[1:]:
        try:
            error = distance(scored(kind, code, ranking), wanted)
        except DFPCError as problem:
            different[code] = repr(problem)
        else:
            if not error < max(TOLERANCES[ranking], 2e-4 if " as a " in group else 0):  # slopes are found on a grid
                different[code] = f"{error:.2g}"
    assert not different


def coupled(kind: type[Spelled], code: str) -> set[Any]:
    """Which entries of layers' weights go together, and whether they may go."""
    found = set()
    for coupling in dfpc.find_couplings(built(kind, code), kind.inputs):
        pieces = [piece for piece in coupling.slices if "slope" not in piece.tensor]
        places = [(piece.tensor, piece.dim, piece.role, str(piece.indices.tolist())) for piece in pieces]
        if places:
            found.add((coupling.protected is None, frozenset(places)))
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_spellings_couple_alike(group: str) -> None:
    kind, spellings = GROUPS[group]
    wanted = coupled(kind, spellings[0])
    assert any(free for free, _ in wanted)
    different = {}
    for code in spellings[1:]:
        try:
            found = coupled(kind, code)
        except DFPCError as problem:
            different[code] = repr(problem)
        else:
            if found != wanted:
                different[code] = str(found ^ wanted)
    assert not different
