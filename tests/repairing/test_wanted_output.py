"""What a layer should return makes the sum at the end of its tail come out as in the unpruned model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch
from call_tools import random, randomised
from torch import Tensor, nn

from brute_force import Between
from dfpc_plugin.repairing.lockstep import Pair
from dfpc_plugin.repairing.targets import wanted_output

STAY = torch.tensor([0, 1, 3, 4])
KEPT = torch.zeros(6, dtype=torch.bool).index_fill(0, STAY, True)


def narrowed(model: nn.Module, dims: dict[str, tuple[int, ...]]) -> nn.Module:
    """Some channels out of every tensor that is named, by hand."""
    model = copy.deepcopy(model)
    for path, along in dims.items():
        owner, _, name = path.rpartition(".")
        module = model.get_submodule(owner)
        tensor = getattr(module, name)
        for dim in along:
            tensor = tensor.detach().index_select(dim, STAY)
        setattr(module, name, nn.Parameter(tensor) if isinstance(getattr(module, name), nn.Parameter) else tensor)
    return model


NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def image(run: Callable[[Any, Tensor], Tensor]) -> tuple[nn.Module, nn.Module, Tensor]:
    model = randomised(
        Between(run, stem=nn.Conv2d(3, 6, 3, padding=1), conv=nn.Conv2d(6, 6, 3, padding=1), bn=nn.BatchNorm2d(6))
    )
    dims = {"stem.weight": (0,), "stem.bias": (0,), "conv.weight": (0, 1), "conv.bias": (0,)}
    return model, narrowed(model, dims | dict.fromkeys(NORM, (0,))), random(1, 2, 3, 4, 5)


def tokens(run: Callable[[Any, Tensor], Tensor]) -> tuple[nn.Module, nn.Module, Tensor]:
    model = randomised(Between(run, stem=nn.Linear(3, 6), conv=nn.Linear(6, 6), bn=nn.BatchNorm1d(6)))
    dims = {"stem.weight": (0,), "stem.bias": (0,), "conv.weight": (0, 1), "conv.bias": (0,)}
    return model, narrowed(model, dims | dict.fromkeys(NORM, (0,))), random(1, 2, 5, 3)


def sum_plain(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).sin()
    return (x + m.conv(x)).exp()


def sum_norm(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).sin()
    return (m.bn(m.conv(x)) + x).exp()


def sum_in_place(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).sin()
    y = m.bn(m.conv(x))
    y += x
    return y.exp()


def sum_scaled(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).sin()
    y = m.bn(m.conv(x) * m.bn.weight.view(-1, 1, 1)) * -0.5
    return (x.permute(2, 0, 3, 1) + y.permute(2, 0, 3, 1)).exp()


def sum_tokens(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).sin()
    y = (m.conv(x) * m.bn.weight * 3).transpose(1, 2).unflatten(2, (5, 1))
    return (y + x.transpose(1, 2).unflatten(2, (5, 1))).exp()


def sum_rolled(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).sin()
    return (m.conv(x).roll((1, 2), (0, 1)) + x).exp()


CASES = [
    (image, sum_plain),
    (image, sum_norm),
    (image, sum_in_place),
    (image, sum_scaled),
    (tokens, sum_plain),
    (tokens, sum_tokens),
    (tokens, sum_rolled),
]


@pytest.mark.parametrize(("kind", "run"), CASES, ids=[f"{kind.__name__}-{run.__name__}" for kind, run in CASES])
@pytest.mark.parametrize("cut", [True, False])
def test_the_sum_comes_out_as_in_the_original(kind: Callable[..., Any], run: Callable[..., Any], cut: bool) -> None:
    original, pruned, inputs = kind(run)
    kept: Tensor | None = KEPT
    if not cut:
        kept, pruned = None, copy.deepcopy(original)
    pruned.stem.bias.data += random(8, *pruned.stem.bias.shape)  # so the stream, too, is another
    with closing(Pair(original, pruned, inputs, None)) as pair, torch.no_grad():
        pair.advance()
        pair.advance()
        first, second = pair.original, pair.pruned
        assert first.other is not None and second.other is not None
        wanted = wanted_output(first, second, kept)
        assert wanted.shape == second.output.shape
        made = second.through_tail(wanted) + second.other
        total = first.value + first.other
        if cut:
            axis = next(a for a in range(total.dim()) if total.shape[a] != made.shape[a])
            total = total.index_select(axis, STAY)
        torch.testing.assert_close(made, total, rtol=1e-10, atol=1e-10)
        assert (second.value + second.other - total).abs().max() > 0.01


def test_without_a_sum_it_is_what_is_kept_of_the_output() -> None:
    original, pruned, inputs = image(sum_norm)
    with closing(Pair(original, pruned, inputs, None)) as pair, torch.no_grad():
        pair.advance()
        found = wanted_output(pair.original, pair.pruned, KEPT)
        assert torch.equal(found, pair.original.output[:, STAY])
        factors = torch.tensor([[1.0, 2, 3, 4]], dtype=torch.float64)
        scaled = wanted_output(pair.original, pair.pruned, KEPT, factors)
        assert torch.equal(scaled, pair.original.output[:, STAY] * factors.view(4, 1, 1))
        assert wanted_output(pair.original, pair.original, None) is pair.original.output


def test_a_channel_that_hardly_counts_makes_nothing_good() -> None:
    original, pruned, inputs = image(sum_norm)
    for model, place in ((original, 3), (pruned, 2)):
        model.bn.weight.data[place] = 1e-7
    pruned.stem.bias.data += 0.3
    with closing(Pair(original, pruned, inputs, None)) as pair, torch.no_grad():
        pair.advance()
        pair.advance()
        found = wanted_output(pair.original, pair.pruned, KEPT)
        assert torch.equal(found[:, 2], pair.original.output[:, 3])
        assert not torch.allclose(found[:, 1], pair.original.output[:, 1])
