"""Attention in all spellings, products of matrices, rotations of pairs of channels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brute_force import Between, check, layer
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut, masked_statistics, random_units, randomise

ROWS = torch.rand(2, 5, 3, dtype=torch.float64) - 0.5
IMAGE = torch.rand(2, 2, 4, 4, dtype=torch.float64)
QK, V = [layer("q"), layer("k")], [layer("v")]


def attention(function: Any, q: int = 4, k: int = 4, v: int = 4, **parts: Any) -> nn.Module:
    """Queries, keys and values of two heads."""
    return Between(
        lambda m, x: m.out(function(m, m.q(x), m.k(x), m.v(x))),
        q=nn.Linear(3, q), k=nn.Linear(3, k), v=nn.Linear(3, v), out=nn.Linear(v, 2), heads=2, **parts,
    )  # fmt: skip


def heads(m: Any, t: Tensor) -> Tensor:
    return t.unflatten(-1, (m.heads, -1)).transpose(1, 2)


def joined(t: Tensor) -> Tensor:
    return t.transpose(1, 2).flatten(2)


def fused(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(heads(m, q), heads(m, k), heads(m, v), scale=0.5))


def written_out(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = heads(m, q) @ heads(m, k).transpose(-2, -1) * 0.5
    return joined(logits.softmax(-1) @ heads(m, v))


def by_einsum(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (m.heads, -1)) for t in (q, k, v))
    weights = torch.einsum("bqhc,bkhc->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhc->bqhc", weights, v).flatten(2)


def by_bmm(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (heads(m, t).flatten(0, 1) for t in (q, k, v))
    return joined(torch.bmm(torch.bmm(q, k.mT).softmax(-1), v).unflatten(0, (-1, m.heads)))


def linear_attention(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (heads(m, t) for t in (q, k, v))
    return joined(q @ (k.softmax(-2).mT @ v))


SPELLINGS = {
    "fused": fused, "written out": written_out, "einsum": by_einsum, "bmm": by_bmm,
    "linear": linear_attention,
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_queries_go_with_keys_and_values_go_by_themselves(name: str) -> None:
    """Two heads of two: a unit is a position of either head, for queries and keys alike, or for values."""
    model = attention(SPELLINGS[name])
    assert check(model, ROWS, QK) == 4
    assert check(model, ROWS, V) == 4


def talking(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = heads(m, q) @ heads(m, k).transpose(-2, -1)
    mixed = m.mix(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return joined(mixed.softmax(-1) @ heads(m, v))


def test_talking_heads_are_as_many_as_before() -> None:
    model = attention(talking, mix=nn.Linear(2, 2))
    assert check(model, ROWS, QK) == check(model, ROWS, V) == 4
    assert check(model, ROWS, [layer("mix")], exact=False) == 0


def test_a_bias_per_head_keeps_the_heads() -> None:
    model = attention(
        lambda m, q, k, v: joined(
            F.scaled_dot_product_attention(heads(m, q), heads(m, k), heads(m, v), attn_mask=m.bias, scale=0.5)
        ),
        bias=torch.rand(2, 5, 5),
    )
    assert check(model, ROWS, QK) == check(model, ROWS, V) == 4
    assert check(model, ROWS, [(("bias", 0),)], exact=False) == 0


def test_channel_attention_couples_queries_keys_and_values() -> None:
    """XCiT: the attention map is between channels, and its rows and columns follow them."""
    model = attention(lambda m, q, k, v: (q.mT @ k).softmax(-1).matmul(v.mT).mT, q=3, k=3, v=3)
    assert check(model, ROWS, [layer("k"), layer("v")]) == 6
    assert check(model, ROWS, [layer("q")]) == 6


def test_one_projection_for_queries_keys_and_values() -> None:
    """(3, heads, width) in one layer: a position of every head, and as many of values, freely chosen."""
    model = Between(
        lambda m, x: m.out(
            (lambda q, k, v: joined((q @ k.mT).softmax(-1) @ v))(
                *m.qkv(x).reshape(2, 5, 3, m.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            )
        ),
        qkv=nn.Linear(3, 12), out=nn.Linear(4, 2), heads=2,
    )  # fmt: skip
    assert check(model, ROWS, [layer("qkv")], exact=False) == 4 * 4


def half_rotation(t: Tensor) -> Tensor:
    first, second = t.chunk(2, -1)
    return torch.cat((-second, first), -1)


def pair_rotation(t: Tensor) -> Tensor:
    return torch.stack((-t[..., 1::2], t[..., ::2]), -1).flatten(-2)


ROTATIONS = {"halves": half_rotation, "pairs": pair_rotation}


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotated_channels_go_in_pairs(name: str) -> None:
    """As in rotary position embeddings, with one angle for all."""
    rotate = ROTATIONS[name]
    model = Between(
        lambda m, x: m.out(math.cos(0.3) * m.a(x) + math.sin(0.3) * rotate(m.a(x))),
        a=nn.Linear(3, 6),
        out=nn.Linear(6, 2),
    )
    assert check(model, ROWS, [layer("a")]) == 6


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotated_by_angles_of_fixed_size_stays(name: str) -> None:
    """Angles per channel that no parameter holds: as many channels as angles."""
    angles = torch.rand(5, 6, dtype=torch.float64)
    model = Between(
        lambda m, x: m.out(m.a(x) * angles.cos() + ROTATIONS[name](m.a(x)) * angles.sin()),
        a=nn.Linear(3, 6),
        out=nn.Linear(6, 2),
    )
    assert check(model, ROWS, [layer("a")]) == 0


PRODUCTS = {
    "outer": (lambda a, b: torch.einsum("bnc,bmc->bnm", a, b), 3, 3, 5, 6),
    "weighted sum": (lambda a, b: torch.einsum("bnc,bmd->bcd", a, b).flatten(1), 3, 2, 6, None),
    "gate": (lambda a, b: torch.einsum("bnc,bc->bnc", a, b.sum(1)), 3, 3, 3, 6),
    "mv": (lambda a, b: (a @ b[:, 0][..., None]) * torch.ones(3), 3, 3, 3, 6),
    "baddbmm": (lambda a, b: torch.baddbmm(a, a @ b.mT, b), 3, 3, 3, 6),
    "dot with tokens": (lambda a, b: (a @ a.mT) @ b, 3, 3, 3, 36 + 12),
    "inner": (lambda a, b: torch.inner(a[0], b[0]), 3, 3, 5, 6),
    "squares": (lambda a, b: (a * b).square().sum(-1, keepdim=True).sqrt() * a, 3, 3, 3, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_join_the_axis_they_sum(name: str) -> None:
    function, first, second, joint, count = PRODUCTS[name]
    model = Between(
        lambda m, x: m.out(function(m.a(x), m.b(x))),
        a=nn.Linear(3, first),
        b=nn.Linear(3, second),
        out=nn.Linear(joint, 2),
    )
    found = check(model, ROWS, [layer("a"), layer("b")], exact=count is not None)
    assert count is None or found == count


def test_a_layer_by_einsum_reads_and_writes() -> None:
    model = Between(
        lambda m, x: m.out(torch.einsum("bnc,cd->bnd", m.a(x), m.w)),
        a=nn.Linear(3, 3),
        w=torch.rand(3, 3),
        out=nn.Linear(3, 2),
    )
    assert check(model, ROWS, [layer("a"), (("w", 0),)]) == 6
    assert check(model, ROWS, [(("w", 1),)], exact=False) in (0, 6)


def test_a_selective_kernel_chooses_between_paths_channel_by_channel() -> None:
    def select(m: Any, x: Tensor) -> Tensor:
        paths = torch.stack((m.a(x), m.b(x)), 1)
        weights = m.choose(paths.sum(1).mean((2, 3))).unflatten(1, (2, -1)).softmax(1)
        return m.out((paths * weights[..., None, None]).sum(1))

    model = Between(select, a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 2, 1), choose=nn.Linear(2, 4), out=nn.Conv2d(2, 2, 1))
    assert check(model, IMAGE, [layer("a"), layer("b"), layer("choose")], ["choose", "out"]) == 2


class Attended(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": False}])
def test_multihead_attention_keeps_one_width_inside_and_outside(options: dict[str, Any]) -> None:
    """torch insists on heads as wide together as the stream: a unit has a position of both."""
    torch.manual_seed(0)
    model = randomise(Attended(**options).double().eval())
    couplings = map_couplings(model, ROWS)
    (stream,) = [c for c in couplings.couplings if c.protected is None]
    widths = {piece.tensor: piece.indices.numel() for piece in stream.slices if piece.dim == 0}
    assert widths["stem.weight"] == 8 and widths["attention.in_proj_weight"] == 24
    with masked_statistics():
        assert error_of_cut(model, couplings, ROWS, random_units(couplings, 0.5)) < 1e-9
    assert model.attention.embed_dim == model.stem.out_features == 4
    assert model.attention.head_dim == 2 and model.attention.num_heads == 2
