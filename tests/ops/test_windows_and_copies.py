"""Kernels over channels protect them; copies and zeros of a computed size follow; NumPy's names of arguments are known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfpc_plugin as dfpc
from brute_force import Between
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut, random_units, randomise

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def net(run: Callable[[Any, Tensor], Tensor], **layers: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 16, 1), "out": nn.Conv2d(16, 3, 1)} | layers
    return randomise(Between(run, **layers).double().eval())


def free(model: nn.Module) -> dict[str, int]:
    """Channels of the couplings that can be pruned, after a cut of a third of them has been compared with zeros."""
    couplings = map_couplings(model, X)
    found = {own.name: own.blocks.numel() for own in couplings.couplings if own.protected is None}
    if found:
        error = error_of_cut(copy.deepcopy(model), couplings, X, random_units(couplings, 0.3, least=1))
        assert error < 1e-12
    dfpc.bgsc(model, X)
    return found


def reasons(model: nn.Module) -> str:
    return " ".join(str(own.protected) for own in map_couplings(model, X).couplings)


def gated(m: Any, x: Tensor) -> Tensor:
    """ECA: a gate from the means of neighbouring channels."""
    h = m.a(x)
    return m.out(h * m.gate(h.mean((2, 3))[:, None]).transpose(1, 2)[..., None].sigmoid())


def rotated(m: Any, x: Tensor) -> Tensor:
    """One branch of triplet attention: a kernel over channels and rows."""
    h = m.a(x).permute(0, 2, 1, 3)
    gate = m.gate(torch.cat((h.amax(1, True), h.mean(1, True)), 1)).sigmoid()
    return m.out((h * gate).permute(0, 2, 1, 3))


OVER_CHANNELS = {
    "a kernel of three dimensions": net(
        lambda m, x: m.out(m.c(m.a(x)[:, None])[:, 0]), c=nn.Conv3d(1, 1, 3, padding=1)
    ),
    "triplet attention": net(rotated, gate=nn.Conv2d(2, 1, 3, padding=1)),
    "average": net(lambda m, x: m.out(F.avg_pool1d(m.a(x).flatten(2).mT, 3, 1, 1).mT.unflatten(2, (8, 8)))),
    "largest": net(lambda m, x: m.out(F.max_pool2d(m.a(x).flatten(2), (3, 1), 1, (1, 0)).unflatten(2, (8, 8)))),
    "largest, with places": net(
        lambda m, x: m.out(F.max_pool2d(m.a(x).flatten(2), 3, 1, 1, return_indices=True)[0].unflatten(2, (8, 8)))
    ),
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_channels_in_one_window_are_protected(name: str) -> None:
    """Removing one would make others neighbours."""
    assert free(OVER_CHANNELS[name]) == {}
    assert "lies along an axis that" in reasons(OVER_CHANNELS[name])


ALONG_POSITIONS = {
    "a kernel of one row": net(
        lambda m, x: m.out(m.c(m.a(x)[:, None])[:, 0]), c=nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1))
    ),
    "average": net(lambda m, x: m.out(F.avg_pool2d(m.a(x), 3, 1, 1))),
    "largest": net(lambda m, x: m.out(F.max_pool2d(m.a(x).flatten(2), (1, 3), 1, (0, 1)).unflatten(2, (8, 8)))),
}


@pytest.mark.parametrize("name", ALONG_POSITIONS)
def test_windows_over_positions_leave_channels_free(name: str) -> None:
    assert free(ALONG_POSITIONS[name]) == {"a": 16}


def test_the_gate_of_eca_looks_at_the_neighbours_that_remain() -> None:
    """A documented approximation: without it, no network with such gates could be pruned."""
    model = net(gated, gate=nn.Conv1d(1, 1, 3, padding=1))
    assert [own.name for own in map_couplings(model, X).couplings if own.protected is None] == ["a"]


def fused(m: Any, x: Tensor) -> Tensor:
    """RepVGG's branches, put into one kernel in the forward."""
    identity = torch.zeros(m.width, m.width, 1, 1, dtype=x.dtype)
    for number in range(m.width):
        identity[number, number, 0, 0] = 1
    return m.out(F.conv2d(m.a(x), m.b.weight + identity * m.scale.view(-1, 1, 1, 1)).relu())


def shared(m: Any, x: Tensor) -> Tensor:
    """Swin v2's and BEiT's bias: none for the keys."""
    return m.head(F.linear(x.flatten(2).mT, m.w.weight, torch.cat((torch.zeros_like(m.bias), m.bias))).mean(1))


def normalised(m: Any, x: Tensor) -> Tensor:
    """T2T's Performer: the sum of a row, once for each of its entries."""
    h = m.a(x)
    return m.out(h / (h.abs().sum(1, keepdim=True) + 9).repeat(1, m.width, 1, 1))


COPIES = {
    "kernel of zeros": (net(fused, b=nn.Conv2d(16, 16, 1), scale=nn.Parameter(torch.rand(16)), width=16), {"a": 32}),
    "zeros in a bias": (net(shared, w=nn.Linear(3, 16), bias=nn.Parameter(torch.rand(8)), head=nn.Linear(16, 3)), {"w": 16}),
    "repeated by an attribute": (net(normalised, width=16), {"a": 16}),
    "repeated by a width": (
        net(lambda m, x: m.out(m.a(x) * m.a(x).sum(1, keepdim=True).repeat(1, m.a(x).shape[1], 1, 1))), {"a": 16}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_constants_and_copies_follow_the_width_they_are_made_for(name: str) -> None:
    model, expected = COPIES[name]
    assert {key: count for key, count in free(model).items() if key in expected} == expected


NUMPY = {
    "sum": (lambda h: torch.sum(h, axis=1, keepdims=True).expand_as(h), lambda h: torch.sum(h, dim=1, keepdim=True).expand_as(h)),
    "mean": (lambda h: h - h.mean(axis=(2, 3), keepdims=True), lambda h: h - h.mean(dim=(2, 3), keepdim=True)),
    "largest": (lambda h: h / h.abs().amax(axis=2, keepdims=True), lambda h: h / h.abs().amax(dim=2, keepdim=True)),
    "deviation": (lambda h: h / h.std(axis=3, keepdims=True), lambda h: h / h.std(dim=3, keepdim=True)),
    "softmax": (lambda h: h.softmax(axis=2), lambda h: h.softmax(dim=2)),
    "sorted": (lambda h: torch.sort(h, axis=1)[0], lambda h: torch.sort(h, dim=1)[0]),
    "chunks": (lambda h: torch.cat(torch.chunk(h, 2, axis=2), axis=2), lambda h: torch.cat(torch.chunk(h, 2, dim=2), dim=2)),
    "stack": (lambda h: torch.stack((h, -h), axis=1).sum(axis=1), lambda h: torch.stack((h, -h), dim=1).sum(dim=1)),
    "running": (lambda h: torch.cumsum(h, axis=3), lambda h: torch.cumsum(h, dim=3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
def test_numpys_names_of_arguments_are_those_of_pytorch(name: str) -> None:
    theirs, ours = (net(lambda m, x, act=act: m.out(act(m.a(x)))) for act in NUMPY[name])
    torch.testing.assert_close(theirs(X), ours(X))
    first, second = (
        [(own.name, own.protected and own.protected.partition(" by ")[0]) for own in map_couplings(m, X).couplings]
        for m in (theirs, ours)
    )
    assert first == second
    scores = [dfpc.bgsc(model, X) for model in (theirs, ours)]
    assert scores[0].keys() == scores[1].keys()
    assert all(torch.equal(own, scores[1][layer]) for layer, own in scores[0].items())


def test_the_description_of_a_depthwise_convolution_follows_its_weight() -> None:
    """The forward uses the module itself only in training."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.out(m.large(h) if m.training else F.conv2d(h, m.large.weight, None, 1, 1, 1, h.shape[1]))

    model = net(run, large=nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False))
    pruned = dfpc.prune(model, X, "macs=0.7", repair=None).model
    width = pruned.a.out_channels
    assert width < 16
    assert (pruned.large.groups, pruned.large.in_channels, pruned.large.out_channels) == (width,) * 3
    torch.testing.assert_close(pruned.train()(X), pruned.eval()(X))
