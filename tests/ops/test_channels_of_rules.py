"""Operators that bring channels together, put them side by side or pick some, checked by brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brute_force import Between, check, layer, norm

ROWS = torch.rand(2, 5, 3, dtype=torch.float64)
IMAGE = torch.rand(2, 2, 4, 4, dtype=torch.float64)
ONE, TWO = [layer("a")], [layer("a"), layer("b")]


def linear(width: int, into: int = 3) -> nn.Linear:
    return nn.Linear(into, width)


def conv(width: int, into: int = 2, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(into, width, 1, **options)


def of_two(function: Callable[[Tensor, Tensor], Tensor], first: int, second: int, joint: int) -> nn.Module:
    """Two linear layers meet in `function`."""
    return Between(
        lambda m, x: m.out(function(m.a(x), m.b(x))), a=linear(first), b=linear(second), out=linear(2, joint)
    )


MEETING = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "reversed": lambda a, b: Tensor.__rsub__(a, b),
    "in place": lambda a, b: a.add_(b),
    "where": lambda a, b: torch.where(torch.arange(5)[:, None] > 2, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.25),
    "gate": lambda a, b: a * b.tanh(),
    "mean over tokens as gate": lambda a, b: a * b.mean(1, keepdim=True),
    "largest over tokens as gate": lambda a, b: a * b.amax(1, keepdim=True),
    "bias from the first token": lambda a, b: a + b[:, :1],
    "without a batch axis": lambda a, b: a + b[0],
    "addcmul": lambda a, b: torch.addcmul(a, b, b, value=0.5),
    "stacked and summed": lambda a, b: torch.stack((a, b), 1).sum(1),
    "along tokens": lambda a, b: torch.cat((a, b), 1),
    "stacked as tokens": lambda a, b: torch.stack((a, b), 2).flatten(1, 2),
    "written over": lambda a, b: a.mul(2).copy_(b) + a,
}


@pytest.mark.parametrize("name", MEETING)
def test_channels_that_meet_go_together(name: str) -> None:
    assert check(of_two(MEETING[name], 3, 3, 3), ROWS, TWO) == 6


def test_channels_of_different_sizes_that_broadcast_are_free() -> None:
    """One gate for all channels: a spatial attention map has a single channel, which stays."""
    model = of_two(lambda a, b: a * b.sum(-1, keepdim=True).tanh(), 3, 3, 3)
    assert check(model, ROWS, ONE) == 6


def test_each_producer_of_a_concatenation_keeps_its_columns() -> None:
    assert check(of_two(lambda a, b: torch.cat((a, b), -1), 3, 2, 5), ROWS, TWO) == 7 * 3 - 1


def test_a_concatenation_that_meets_a_sum_couples_across_positions() -> None:
    """cat(a, b) + cat(b, a) + c: a's and b's channels at one position go together, wherever c has them."""
    model = Between(
        lambda m, x: m.out(torch.cat((m.a(x), m.b(x)), -1) + m.c(x)),
        a=linear(2), b=linear(3), c=linear(5), out=linear(2, 5),
    )  # fmt: skip
    assert check(model, ROWS, [*TWO, layer("c")]) == 3 * 7 - 1
    model = of_two(lambda a, b: torch.cat((a, b), -1) + torch.cat((b, a), -1), 3, 3, 6)
    assert check(model, ROWS, TWO) == 6


SPLIT = {
    "halves multiplied": (lambda m, h: (lambda a, b: a * b)(*h.chunk(2, -1)), 3),
    "halves gated": (lambda m, h: F.glu(h), 3),
    "halves joined again": (lambda m, h: torch.cat(h.chunk(2, -1), -1), 6),
    "halves exchanged": (lambda m, h: torch.cat(h.chunk(2, -1)[::-1], -1), 6),
    "one half": (lambda m, h: h.chunk(2, -1)[1], 3),
    "tensor_split": (lambda m, h: torch.tensor_split(h, 2, -1)[0] * torch.tensor_split(h, 2, -1)[1], 3),
    "unflatten and unbind": (lambda m, h: (lambda a, b: a + b)(*h.unflatten(-1, (2, -1)).unbind(-2)), 3),
    "thirds": (lambda m, h: (lambda t: t[0] * t[1] + t[2])(h.chunk(3, -1)), 2),
}


@pytest.mark.parametrize("name", SPLIT)
def test_parts_of_a_split_keep_equally_many(name: str) -> None:
    function, width = SPLIT[name]
    model = Between(lambda m, x: m.out(function(m, m.a(x))), a=linear(6), out=linear(2, width))
    joined = "joined" in name or "exchanged" in name or "one half" in name
    assert check(model, ROWS, ONE, exact=not joined) >= 2


SIZED = {
    "split": (
        lambda m, h: (lambda a, b: torch.cat((b, a), -1))(*h.split(m.sizes, -1)), 6, ("sizes[0]", "sizes[1]")
    ),
    "slice": (lambda m, h: h[..., : m.sizes[0]], 2, ("sizes[0]",)),
    "slice to the end": (
        lambda m, h: torch.cat((h[..., m.sizes[0] :], h[..., : m.sizes[0]]), -1), 6, ("sizes[0]",)
    ),
    "negative slice": (lambda m, h: h[..., : -m.sizes[1]], 2, ("sizes[1]",)),
    "narrow": (lambda m, h: h.narrow(-1, 0, m.sizes[0]), 2, ("sizes[0]",)),
    "slice and rest": (
        lambda m, h: torch.cat((h[..., : m.sizes[0]].tanh(), h[..., m.sizes[0] :]), -1), 6, ("sizes[0]",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZED)
def test_sizes_kept_in_attributes_follow_what_is_cut(name: str) -> None:
    function, width, attributes = SIZED[name]
    model = Between(lambda m, x: m.out(function(m, m.a(x))), a=linear(6), out=linear(2, width), sizes=[2, 4])
    assert check(model, ROWS, ONE, ["out"], attributes, exact=False) >= 2


def test_sizes_written_in_code_stay() -> None:
    """The first two channels are picked by a number that no attribute holds: two must stay in front."""
    model = Between(lambda m, x: m.out(m.a(x)[..., :2]), a=linear(5), out=linear(2, 2))
    assert check(model, ROWS, ONE, exact=False) in (0, 6)


def test_a_single_channel_that_is_picked_stays() -> None:
    model = Between(lambda m, x: m.out(m.a(x) * m.a(x)[..., 1:2]), a=linear(3), out=linear(2, 3))
    check(model, ROWS, ONE, exact=False)


def test_every_other_channel_goes_in_pairs() -> None:
    model = Between(lambda m, x: m.out(m.a(x)[..., ::2] * m.a(x)[..., 1::2]), a=linear(6), out=linear(2, 3))
    assert check(model, ROWS, ONE) == 6


REDUCED = {
    "squeeze and excite": lambda m, h: h * m.up(m.down(h.mean((2, 3), keepdim=True)).sin()).tanh(),
    "squeeze and excite by linear layers": lambda m, h: h * m.fc2(m.fc1(h.mean((2, 3))).sin())[..., None, None].tanh(),
    "spatial attention": lambda m, h: h * m.map(torch.cat((h.mean(1, keepdim=True), h.square().amax(1, True)), 1)),
    "normalised": lambda m, h: F.normalize(h, dim=1),
    "softmax over positions": lambda m, h: h.flatten(2).softmax(-1).view_as(h),
    "divided by a norm": lambda m, h: h / h.norm(dim=(2, 3), keepdim=True).mean(1, keepdim=True),
    "centred": lambda m, h: h - h.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", REDUCED)
def test_gates_and_statistics_follow_their_channels(name: str) -> None:
    parts = {
        "a": conv(3),
        "down": conv(2, 3),
        "up": conv(3, 2),
        "fc1": linear(2),
        "fc2": linear(3, 2),
        "map": conv(1, 2),
    }
    used = {"squeeze and excite": "up", "squeeze and excite by linear layers": "fc2"}.get(name)
    readers = {"up": ["down"], "fc2": ["fc1"]}.get(used or "", [])
    model = Between(lambda m, x: m.out(REDUCED[name](m, m.a(x))), **parts, out=conv(2, 3))
    axes = ONE if used is None else [layer("a"), layer(used)]
    assert check(model, IMAGE, axes, [*readers, "out"]) == 6


VECTORS = {
    "layer scale": lambda h, v: h * v,
    "bias": lambda h, v: h + v.view(1, 1, -1),
    "position embedding": lambda h, v: h + v.expand(5, -1) * torch.arange(5.0)[:, None],
    "class token": lambda h, v: torch.cat((v.expand(2, 1, -1), h), 1),
    "slopes": F.prelu,
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_the_model_lose_the_channels_they_meet(name: str) -> None:
    rows = ROWS.transpose(1, 2).contiguous() if name == "slopes" else ROWS
    if name == "slopes":
        model = Between(
            lambda m, x: m.out(F.prelu(m.a(x), m.v)), a=nn.Conv1d(3, 3, 1), v=torch.rand(3), out=nn.Conv1d(3, 2, 1)
        )
    else:
        model = Between(lambda m, x: m.out(VECTORS[name](m.a(x), m.v)), a=linear(3), v=torch.rand(3), out=linear(2))
    assert check(model, rows, [layer("a"), (("v", 0),)], exact=name != "slopes") == 6


def test_batch_norm_goes_with_the_channels_it_normalises() -> None:
    model = Between(lambda m, x: m.out(m.n(m.a(x))), a=conv(3), n=nn.BatchNorm2d(3), out=conv(2, 3))
    assert check(model, IMAGE, [layer("a"), norm("n")]) == 6


def test_an_option_a_shortcut_pads_channels_that_only_one_branch_has() -> None:
    """ResNet's shortcut without parameters: padded channels belong to the branch alone."""
    model = Between(
        lambda m, x: m.out(F.pad(m.a(x), (0, 0, 0, 0, 1, 1)) + m.b(x)), a=conv(3), b=conv(5), out=conv(2, 5)
    )
    check(model, IMAGE, TWO, exact=False)
