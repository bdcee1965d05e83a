"""Constants that a forward makes and writes data into are scored and pruned as what `torch.cat` puts side by side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dfpc_plugin import bgsc, prune
from dfpc_plugin.couplings import find_couplings
from dfpc_plugin.errors import DFPCError, ValueDependentError
from zero_cut import randomise

X = torch.rand(1, 3, 4, 4, dtype=torch.float64)
RANKINGS = ("published", "relative", "expected", "output")


class Joined(nn.Module):
    """Two layers whose outputs a function brings together, and a layer that reads them."""

    def __init__(self, join: Callable[[Joined, Tensor, Tensor], Tensor], first: int = 5, second: int = 3) -> None:
        super().__init__()
        self.first, self.width, self.join = first, first + second, join
        self.a = nn.Sequential(nn.Conv2d(3, first, 1), nn.BatchNorm2d(first))
        self.b = nn.Sequential(nn.Conv2d(3, second, 1), nn.BatchNorm2d(second))
        self.head = nn.Conv2d(self.width, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(self, self.a(x).relu(), self.b(x).relu()).relu())


def built(join: Callable[..., Tensor]) -> Joined:
    torch.manual_seed(0)
    model = Joined(join).double().eval()
    randomise(model)
    return model


def side_by_side(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], 1)


def assigned(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(a.shape[0], model.width, *a.shape[2:], dtype=a.dtype)
    result[:, : model.first] = a
    result[:, model.first :] = b
    return result


def assigned_with_dots(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.empty(a.shape[0], model.width, *a.shape[2:], dtype=a.dtype)
    result[:, model.first :, ...] = b
    result[..., : model.first, :, :] = a
    return result


def assigned_to_new_zeros(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = a.new_zeros(a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
    result[:, : a.shape[1]] = a
    result[:, -b.shape[1] :] = b
    return result


def assigned_to_zeros_like(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros_like(torch.cat([b, a], 1))
    result[:, : a.shape[1]] = a
    result[:, a.shape[1] :] = b
    return result


def copied_to_slices(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(a.shape[0], model.width, *a.shape[2:], dtype=a.dtype)
    left, right = result[:, : model.first], result[:, model.first :]
    right.copy_(b)
    left.copy_(a)
    return result


def copied_to_narrow(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:], dtype=a.dtype)
    result.narrow(1, 0, a.shape[1]).copy_(a)
    result.narrow(1, a.shape[1], b.shape[1]).copy_(b)
    return result


def added_to_slices(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(a.shape[0], model.width, *a.shape[2:], dtype=a.dtype)
    result[:, : model.first] += a
    result[:, model.first :] += b
    return result


def pixel_by_pixel(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    both = torch.cat([a, b], 1)
    result = torch.zeros(both.shape, dtype=a.dtype)
    for row in range(4):
        result[:, :, row] = both[:, :, row]
    return result


FOLLOWED = (
    assigned, assigned_with_dots, assigned_to_new_zeros, assigned_to_zeros_like, copied_to_slices, copied_to_narrow, added_to_slices,
    pixel_by_pixel,
)  # fmt: skip
"""Both layers can lose channels, each by itself."""


def plain_sizes(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(1, 8, 4, 4, dtype=torch.float64)
    before = result[:, 5:]
    result[:, :5] = a
    result.data[:, 5:] = b
    return torch.cat([result[:, :5], before], 1)


def at_positions(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(1, 8, 4, 4, dtype=torch.float64)
    result.index_copy_(1, torch.arange(5), a)
    return result.index_copy(1, torch.arange(5, 8), b)


def scattered(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    result = torch.slice_scatter(torch.zeros(1, 8, 4, 4, dtype=torch.float64), a, 1, 0, 5)
    for number, channel in enumerate(b.unbind(1), start=5):
        result = result.select_scatter(channel, 1, number)
    return result


def without_tracking(model: Joined, a: Tensor, b: Tensor) -> Tensor:
    with torch.inference_mode():
        result = torch.zeros(1, 8, 4, 4, dtype=torch.float64)
        result[:, :5].copy_(a)
        torch.mul(b, 1, out=result[:, 5:])
        return result


FIXED = (plain_sizes, at_positions, scattered, without_tracking)
"""The sizes are plain numbers, so all channels stay."""


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("join", [*FOLLOWED, *FIXED], ids=lambda join: join.__name__)
def test_scores_are_those_of_tensors_put_side_by_side(join: Callable[..., Tensor], ranking: str) -> None:
    found, expected = (bgsc(built(function), X, ranking=ranking) for function in (join, side_by_side))
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores)


@pytest.mark.parametrize("join", FOLLOWED, ids=lambda join: join.__name__)
def test_couplings_and_cuts_are_those_of_tensors_put_side_by_side(join: Callable[..., Tensor]) -> None:
    found, expected = (find_couplings(built(function), X) for function in (join, side_by_side))
    assert [(c.feed_in, c.channels, c.protected is None) for c in found] == [
        (c.feed_in, c.channels, c.protected is None) for c in expected
    ]
    pruned, other = (prune(built(function), X, "ratio=0.4").model for function in (join, side_by_side))
    assert pruned.head.weight.shape == other.head.weight.shape != built(join).head.weight.shape
    with torch.no_grad():
        torch.testing.assert_close(pruned(X), other(X))


@pytest.mark.parametrize("join", FIXED, ids=lambda join: join.__name__)
def test_channels_that_are_written_to_plain_positions_stay(join: Callable[..., Tensor]) -> None:
    reasons = [c.protected for c in find_couplings(built(join), X) if c.feed_in and c.feed_in[0].startswith(("a", "b"))]
    assert len(reasons) == 2 and all(reasons)


def test_what_is_not_written_to_is_zero() -> None:
    def half(model: Joined, a: Tensor, b: Tensor) -> Tensor:
        result = torch.zeros(1, model.width, 4, 4, dtype=torch.float64)
        result[:, : model.first] = a
        return result

    def padded(model: Joined, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, torch.zeros(1, 3, 4, 4, dtype=torch.float64)], 1)

    for ranking in RANKINGS:
        found, expected = (bgsc(built(function), X, ranking=ranking) for function in (half, padded))
        assert list(found) == list(expected) == ["a.0"]
        torch.testing.assert_close(found["a.0"], expected["a.0"])
    pruned = prune(built(half), X, "ratio=0.4").model
    kept = pruned.a[0].out_channels
    assert kept < 5 and (pruned.first, pruned.width) == (kept, kept + 3) and pruned(X).shape == (1, 2, 4, 4)


def test_the_outputs_of_a_model_may_be_such_a_tensor() -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            result = torch.zeros(1, 5)
            result[:, 1:3] = self.b(self.a(x))
            return result

    model = Filled()
    assert bgsc(model, torch.ones(1, 3), ranking="output")["a"].sum() == pytest.approx(1)
    output = next(c for c in find_couplings(model, torch.ones(1, 3)) if c.feed_in == ("b",))
    assert output.protected is not None


def test_values_of_what_was_written_are_not_known() -> None:
    def asked(model: Joined, a: Tensor, b: Tensor) -> Tensor:
        result = torch.zeros(1, 8, 4, 4, dtype=torch.float64)
        result[:, :5] = a
        return torch.cat([a, b], 1) if result.sum() > 0 else torch.cat([a, 2 * b], 1)

    with pytest.raises(ValueDependentError):
        bgsc(built(asked), X)


def test_memory_that_cannot_hold_data_is_loud() -> None:
    def sparse(model: Joined, a: Tensor, b: Tensor) -> Tensor:
        return torch.zeros(1, 5, 4, 4, layout=torch.sparse_coo).add_(a)

    def as_integers(model: Joined, a: Tensor, b: Tensor) -> Tensor:
        result = torch.zeros(1, 8, 4, 4)
        integers = result.view(torch.int16)
        result[:, :5] = a
        return torch.cat([a, b], 1) + integers.sum()

    with pytest.raises(DFPCError, match=r"writes data into a Tensor of layout torch\.sparse_coo"):
        bgsc(built(sparse), X)
    with pytest.raises(DFPCError, match=r"reads a tensor of torch\.int16 from where it has written data"):
        bgsc(built(as_integers), X)
