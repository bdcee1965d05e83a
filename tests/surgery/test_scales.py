"""Numbers that depend on widths and multiply data: after a cut the remaining channels compute what they did."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut, masked_statistics, random_units, randomise

TOKENS = torch.rand(2, 5, 6, dtype=torch.float64)
NOTE = "multiplies by numbers that depend on layer widths"


class Attention(nn.Module):
    """Four heads of eight channels; `scale` is what it does to the logits, of a width and the logits."""

    def __init__(self, scale: Callable[[Any, Tensor], Tensor], norm: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.scale, self.heads, self.head_dim = scale, 4, 8
        self.a, self.head = nn.Linear(6, 24), nn.Linear(32, 3)
        self.q, self.k, self.v = (nn.Linear(24, 32) for _ in range(3))
        self.q_norm, self.k_norm = (nn.Identity() if norm is None else norm(8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, n, _ = x.shape
        q, k, v = (part(x).view(b, n, self.heads, self.head_dim).transpose(1, 2) for part in (self.q, self.k, self.v))
        logits = self.scale(self.head_dim, self.q_norm(q) @ self.k_norm(k).transpose(-1, -2))
        return self.head((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, self.heads * self.head_dim))


SCALES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "power": lambda d, x: x * d**-0.5,
    "square root": lambda d, x: x / math.sqrt(d),
    "inverse root": lambda d, x: x * (1 / math.sqrt(d)),
    "numpy": lambda d, x: x / float(np.sqrt(d)),
    "float": lambda d, x: x / float(d) ** 0.5,
    "tensor": lambda d, x: x / torch.sqrt(torch.tensor(d, dtype=x.dtype)),
    "tensor of integers": lambda d, x: x / torch.tensor(d).to(x).sqrt(),
    "tensor in single precision": lambda d, x: x * torch.tensor(d).rsqrt(),
    "filled tensor": lambda d, x: x / torch.full((), d, dtype=x.dtype).sqrt(),
    "behind a reshape": lambda d, x: x.flatten(1).div(math.sqrt(d)).view(x.shape),
    "tensor in place": lambda d, x: x.div_(math.sqrt(d)),
    "width itself": lambda d, x: x / d,
    "cast width": lambda d, x: x / int(d),
    "reversed": lambda d, x: (1 / math.sqrt(d)) * x,
}


def error(model: nn.Module, inputs: Any) -> float:
    """The difference between zeroing channels and cutting them."""
    torch.manual_seed(0)
    model = randomise(model.double().eval())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    couplings = map_couplings(model, inputs)
    assert any(c.protected is None and c.channels == 8 for c in couplings.couplings)
    with masked_statistics():
        return error_of_cut(model, couplings, inputs, random_units(couplings, 0.5))


@pytest.mark.parametrize("name", SCALES)
def test_attention_keeps_its_temperature(name: str) -> None:
    assert error(Attention(SCALES[name]), TOKENS) < (1e-7 if "single" in name else 1e-12)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_behind_a_norm_its_weight_takes_the_scale(norm: Callable[[int], nn.Module]) -> None:
    """In front of the norm a factor would be divided out again."""
    assert error(Attention(SCALES["square root"], norm), TOKENS) < 1e-12


class Pooled(nn.Module):
    """Attention that a parameter queries."""

    def __init__(self, kdim: int, normed: bool) -> None:
        super().__init__()
        self.a, self.query = nn.Linear(6, kdim), nn.Parameter(torch.randn(5, 32))
        self.norm = nn.LayerNorm(32) if normed else nn.Identity()
        self.attn = nn.MultiheadAttention(32, 4, kdim=kdim, vdim=kdim, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.a(x)
        query = self.norm(self.query.expand(x.shape[0], -1, -1))
        return self.head(self.attn(query, keys, keys, need_weights=False)[0])


@pytest.mark.parametrize("kdim", [24, 32])
@pytest.mark.parametrize("normed", [False, True])
def test_a_parameter_that_queries_is_projected_by_scaled_rows(kdim: int, normed: bool) -> None:
    assert error(Pooled(kdim, normed), TOKENS) < 1e-12


class LowRank(nn.Module):
    """A linear layer with a low-rank adapter beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 3, bias=False), nn.Linear(3, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


class Adapted(Attention):
    """Queries with an adapter."""

    def __init__(self) -> None:
        super().__init__(SCALES["square root"])
        self.q = LowRank(self.q)  # type: ignore[assignment]


def test_base_and_adapter_are_scaled_alike() -> None:
    assert error(Adapted(), TOKENS) < 1e-12


def test_a_scale_that_no_rows_can_take_is_noted() -> None:
    def normalised(d: Any, x: Tensor) -> Tensor:
        return x * math.sqrt(d)

    class Cosine(Attention):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            q, k, v = (
                part(x).view(2, 5, self.heads, self.head_dim).transpose(1, 2) for part in (self.q, self.k, self.v)
            )
            logits = self.scale(self.head_dim, F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT)
            return self.head((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    result = dfpc.prune(Cosine(normalised).double().eval(), TOKENS, "ratio=0.6", max_ratio=0.7)
    assert any(cut.name == "q" for cut in result.couplings if cut.after < cut.before)
    assert any(NOTE in note for note in result.notes)
    plain = dfpc.prune(Attention(SCALES["square root"]).double().eval(), TOKENS, "ratio=0.5")
    assert not any(NOTE in note for note in plain.notes)
