"""Operators that move entries about: reshapes to heads and back, shuffles, windows, flips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brute_force import Between, check, layer

ROWS = torch.rand(2, 5, 3, dtype=torch.float64)
IMAGE = torch.rand(2, 2, 4, 4, dtype=torch.float64)
A = [layer("a")]
FACTORS = torch.tensor([[1.0], [2.0]])
"""One per head, so that the heads are told apart."""


def net(function: Any, channels: int, joint: int, **parts: Any) -> nn.Module:
    return Between(lambda m, x: m.out(function(m, m.a(x))), a=nn.Linear(3, channels), out=nn.Linear(joint, 2), **parts)


def image_net(function: Any, width: int, joint: int, **parts: Any) -> nn.Module:
    first, last = nn.Conv2d(2, width, 1), nn.Conv2d(joint, 2, 1)
    return Between(lambda m, x: m.out(function(m, m.a(x))), a=first, out=last, **parts)


HEADS = {
    "reshape": lambda m, h: (h.reshape(*h.shape[:-1], m.heads, m.width) * FACTORS).reshape(2, 5, -1),
    "view with an unknown size": lambda m, h: (h.view(2, 5, m.heads, -1) * FACTORS).flatten(2),
    "unflatten": lambda m, h: (h.unflatten(-1, (m.heads, -1)) * FACTORS).flatten(2),
    "width from the shape": lambda m, h: (h.reshape(2, 5, m.heads, h.shape[-1] // m.heads) * FACTORS).reshape(
        2, 5, h.shape[-1]
    ),
    "transposed and back": lambda m, h: (
        (h.reshape(2, 5, m.heads, -1).transpose(1, 2) * FACTORS[:, None]).transpose(1, 2).reshape(2, 5, -1)
    ),
    "permuted and back": lambda m, h: (
        (h.reshape(2, 5, m.heads, m.width).permute(2, 0, 3, 1) * FACTORS[:, None, None])
        .permute(1, 3, 0, 2)
        .reshape(2, 5, m.heads * m.width)
    ),
    "flipped": lambda m, h: h.reshape(2, 5, m.heads, -1).flip(2).flatten(2),
    "chunks of heads": lambda m, h: torch.cat([p * f for p, f in zip(h.chunk(m.heads, -1), (1, 2), strict=True)], -1),
    "unbound": lambda m, h: (lambda p, q: torch.cat((2 * p, q), -1))(*h.view(2, 5, m.heads, -1).unbind(2)),
    "split by width": lambda m, h: (lambda p, q: torch.cat((p, q), -1))(*h.split(m.width, -1)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_keep_equally_many_channels_wherever_in_the_head(name: str) -> None:
    """Of two heads with three channels: one or two from each, 9 + 9 ways."""
    model = net(HEADS[name], 6, 6, heads=2, width=3)
    same = name in ("chunks of heads", "split by width")  # torch also splits unevenly
    assert check(model, ROWS, A, ["out"], ["width"], exact=not same) == 18


def test_heads_inside_go_in_step_with_heads_outside() -> None:
    """Channels laid out (width, heads): the axis that is left to torch is not the innermost."""
    for function in (lambda h: h * torch.tensor([1.0, 2.0]), lambda h: h.flip(-1)):
        model = net(lambda m, h, f=function: f(h.reshape(2, 5, -1, m.heads)).flatten(2), 6, 6, heads=2)
        check(model, ROWS, A, ["out"], ["heads"], exact=False)


LAID_AMONG_POSITIONS = {
    "summed": lambda m, h: h.reshape(2, m.heads, -1, 2).sum(2),
    "summed after two steps": lambda m, h: h.flatten(2).view(2, m.heads, -1, 2).sum(2),
    "largest": lambda m, h: h.reshape(2, m.heads, -1, 2).square().amax(2),
}


@pytest.mark.parametrize("name", LAID_AMONG_POSITIONS)
def test_channels_of_heads_are_not_regrouped_with_positions(name: str) -> None:
    """Every head's 2 positions of 3 channels are taken for rows of 2; one channel less would shift all entries behind it."""
    function = LAID_AMONG_POSITIONS[name]
    model = net(lambda m, h: function(m, h.view(2, 2, m.heads, -1).transpose(1, 2)), 6, 2, heads=2)
    check(model, ROWS[:, :2], A, exact=False)


SUMMED = {
    "sum of heads": (lambda m, h: h.reshape(2, 5, m.heads, -1).sum(2), 3, 6),
    "mean of heads": (lambda m, h: h.reshape(2, 5, m.heads, -1).mean(2), 3, 6),
    "largest of heads": (lambda m, h: h.reshape(2, 5, m.heads, -1).square().amax(2), 3, 6),
    "softmax of heads": (lambda m, h: h.reshape(2, 5, m.heads, -1).softmax(2).flatten(2), 6, 6),
    "running sum of heads": (lambda m, h: h.reshape(2, 5, m.heads, -1).cumsum(2).flatten(2), 6, 6),
}


@pytest.mark.parametrize("name", SUMMED)
def test_heads_that_are_mixed_lose_the_same_positions(name: str) -> None:
    function, joint, count = SUMMED[name]
    assert check(net(function, 6, joint, heads=2), ROWS, A, exact="largest" not in name) == count


MOVED = {
    "flipped": lambda m, h: h.flip(-1),
    "flipped along tokens": lambda m, h: h.flip(1),
    "rolled along tokens": lambda m, h: h.roll(1, 1),
    "transposed twice": lambda m, h: h.mT.contiguous().mT,
    "a view of its own": lambda m, h: h.clone().view_as(h).to(torch.float64),
    "squeezed": lambda m, h: h[:, :, None].squeeze(2),
    "flattened and back": lambda m, h: h.reshape(10, -1).reshape(2, 5, -1),
    "moved axis": lambda m, h: h.movedim(-1, 0).movedim(0, -1),
    "expanded": lambda m, h: h[:, None].expand(-1, 3, -1, -1)[:, 1],
}


@pytest.mark.parametrize("name", MOVED)
def test_moved_channels_keep_their_columns(name: str) -> None:
    assert check(net(MOVED[name], 4, 4), ROWS, A) == 14


def test_a_roll_along_channels_does_not_wrap_another_channel_around() -> None:
    check(net(lambda m, h: h.roll(1, -1), 4, 4), ROWS, A, exact=False)
    check(net(lambda m, h: h.roll(-1, -1), 4, 4), ROWS, A, exact=False)
    check(net(lambda m, h: h.reshape(2, 5, m.heads, -1).roll(1, 3).flatten(2), 6, 6, heads=2), ROWS, A, exact=False)


COPIED = {
    "repeated": lambda m, h: h.repeat(1, 1, 2),
    "repeated one by one": lambda m, h: h.repeat_interleave(2, -1),
    "joined with itself": lambda m, h: torch.cat((h, h), -1),
    "joined with its flip": lambda m, h: torch.cat((h, h.flip(-1)), -1),
}


@pytest.mark.parametrize("name", COPIED)
def test_copies_go_with_their_channel(name: str) -> None:
    assert check(net(COPIED[name], 3, 6), ROWS, A) == 6


WINDOWS = {
    "space to depth": (lambda m, h: F.pixel_unshuffle(h, 2), 3, 12, 6, True),
    "depth to space": (lambda m, h: F.pixel_shuffle(h, 2), 8, 2, 2, True),
    "unfolded": (lambda m, h: F.unfold(h, 2, stride=2).unflatten(-1, (2, 2)), 3, 12, 6, True),
    "unfolded and folded": (
        lambda m, h: F.fold(F.unfold(h, 2, stride=2), (4, 4), 2, stride=2), 3, 3, 6, True,
    ),
    "windows": (
        lambda m, h: h.view(2, -1, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).flip(-1).permute(0, 3, 1, 4, 2, 5)
        .reshape(2, -1, 4, 4), 3, 3, 6, True,
    ),
    "patches by a sliding window": (
        lambda m, h: h.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).sum(-1), 3, 3, 6, True,
    ),
    "patch merging": (
        lambda m, h: torch.cat([h[:, :, i::2, j::2] for j in range(2) for i in range(2)], 1), 3, 12, 6, True,
    ),
    "merged and permuted": (
        lambda m, h: h.permute(0, 2, 3, 1).reshape(2, 2, 2, 2, 2, -1).permute(0, 1, 3, 4, 2, 5).flatten(3)
        .permute(0, 3, 1, 2), 3, 12, 6, True,
    ),
    "padded and cropped": (lambda m, h: F.pad(h, (1, 1, 1, 1))[:, :, 1:-1, 1:-1], 3, 3, 6, True),
    "pooled and resized": (lambda m, h: F.interpolate(F.avg_pool2d(h, 2), scale_factor=2), 3, 3, 6, True),
    "channel shuffle": (lambda m, h: F.channel_shuffle(h, m.groups), 6, 6, 6, False),
    "channel shuffle by hand": (
        lambda m, h: h.view(2, m.groups, h.shape[1] // m.groups, 4, 4).transpose(1, 2).reshape(2, -1, 4, 4),
        6, 6, 6, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_channels_are_followed_through_windows_and_shuffles(name: str) -> None:
    function, width, joint, count, exact = WINDOWS[name]
    assert check(image_net(function, width, joint, groups=2), IMAGE, A, exact=exact) == count


def test_flattened_positions_go_with_their_channel() -> None:
    model = Between(lambda m, x: m.out(m.a(x).flatten(1)), a=nn.Conv2d(2, 3, 1), out=nn.Linear(48, 2))
    assert check(model, IMAGE, A) == 6


def test_shifted_groups_of_channels_keep_equally_many() -> None:
    """Spatial shift: every quarter of the channels moves another way."""
    model = image_net(lambda m, h: torch.cat([part.roll(n, 2) for n, part in enumerate(h.chunk(2, 1))], 1), 4, 4)
    assert check(model, IMAGE, A, exact=False) == 4
