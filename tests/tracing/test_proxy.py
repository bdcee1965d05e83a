"""The data-flow tensor: metadata, in-place changes, views, constants, loud failure below the Python API."""

import pytest
import torch
from torch import nn

from dfpc_plugin import bgsc
from dfpc_plugin.errors import DFPCError
from traced_runs import bound_run


class Between(nn.Module):
    """Two linear layers around a function, so that its effect shows in the scores."""

    def __init__(self, function, width=6, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, width), nn.Linear(after or width, 2)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def scores(function, **kwargs):
    return bgsc(Between(function, **kwargs).double(), torch.ones(2, 3, dtype=torch.float64))["first"]


def flow(*shape, dtype=torch.float32):
    return bound_run().input(torch.ones(shape, dtype=dtype))


def test_metadata_is_that_of_the_data():
    x = flow(2, 3, 4, dtype=torch.bfloat16)
    assert x.shape == (2, 3, 4) and x.size(1) == 3 and x.dim() == x.ndim == 3 and len(x) == 2
    assert x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.numel() == 24
    assert x.is_floating_point() and not x.requires_grad and not x.is_cuda
    b, c, n = x.shape
    assert x.reshape(b, c * n).shape == (2, 12)


@pytest.mark.parametrize(
    ("in_place", "functional"),
    [
        (lambda x: x.mul_(3), lambda x: x * 3),
        (lambda x: x.relu_(), lambda x: x.relu()),
        (lambda x: nn.functional.silu(x, inplace=True), nn.functional.silu),
        (lambda x: x.add_(x.clone(), alpha=2), lambda x: x + 2 * x),
    ],
)
def test_in_place_equals_functional(in_place, functional):
    torch.testing.assert_close(scores(in_place), scores(functional))


def test_augmented_assignment_changes_every_name_of_a_tensor():
    def aliased(x):
        kept = x
        x += x.clone()
        return kept

    torch.testing.assert_close(scores(aliased), 2 * scores(lambda x: x))


def test_a_change_of_a_view_shows_in_its_base():
    def through_view(x):
        x[:, :2].mul_(10)
        return x

    def through_two_views(x):
        x.view(2, 3, 2)[:, 0].mul_(10)
        return x

    factor = torch.tensor([10.0, 10, 1, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(scores(through_view), factor * scores(lambda x: x))
    torch.testing.assert_close(scores(through_two_views), factor * scores(lambda x: x))


def test_a_change_of_the_base_shows_in_its_views():
    def late_base(x):
        left, right = x.chunk(2, 1)
        x.mul_(5)
        return torch.cat([left, right], 1)

    torch.testing.assert_close(scores(late_base), 5 * scores(lambda x: x))


def test_a_change_of_one_view_leaves_its_sibling_alone():
    def sibling(x):
        left, right = x.split(3, 1)
        left *= 7
        return torch.cat([left, right], 1)

    factor = torch.tensor([7.0, 7, 7, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(scores(sibling), factor * scores(lambda x: x))


def test_indexing_by_a_tensor_copies():
    def copied(x):
        picked = x[:, torch.arange(6)]
        picked.mul_(100)
        return x

    torch.testing.assert_close(scores(copied), scores(lambda x: x))


def test_assignment_to_a_slice_replaces_it():
    def partial(x):
        x[:, 2:4] = 2 * x[:, 0:2]
        return x

    base = scores(lambda x: x)
    replaced = scores(partial)
    assert replaced[2:4].eq(0).all(), "nothing reads what was overwritten"
    torch.testing.assert_close(replaced[4:], base[4:])
    assert (replaced[:2] > base[:2]).all()


def test_data_written_into_a_constant_becomes_data():
    def filled(x):
        canvas = x.new_zeros(x.shape[0], 8)
        canvas[:, 1:7] = x
        return canvas[:, 1:7] + canvas.new_ones(1)

    def copied_into_a_view(x):
        canvas = torch.zeros_like(x)
        canvas[:, :3].copy_(x[:, :3])
        canvas[:, 3:].copy_(x[:, 3:])
        return canvas

    torch.testing.assert_close(scores(filled), scores(lambda x: x))
    torch.testing.assert_close(scores(copied_into_a_view), scores(lambda x: x))


@pytest.mark.parametrize("draw", [torch.rand_like, torch.randn_like])
def test_random_numbers_are_constants(draw):
    """As variational autoencoders draw them. They are the same every time, and the caller's own are as they were."""
    state = torch.get_rng_state()
    found = scores(lambda x: x + draw(x) * x.exp())
    assert torch.equal(found, scores(lambda x: x + draw(x) * x.exp())) and (found > 0).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_constants_made_from_a_shape_keep_their_values():
    def masked(x):
        mask = x.new_zeros(6)
        mask[::2] = 1
        if mask.sum() != 3:
            raise AssertionError
        return x.masked_fill(mask != 0, -100.0)

    expected = scores(lambda x: x) * torch.tensor([0.0, 1] * 3, dtype=torch.float64)
    torch.testing.assert_close(scores(masked), expected)


def test_what_slips_below_the_python_api_is_loud():
    x = flow(2, 3)
    with pytest.raises(DFPCError, match="below torch's Python API"), torch._C.DisableTorchFunctionSubclass():
        torch.erfinv(x)


def test_an_autograd_function_of_the_user_is_followed():
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 4

        @staticmethod
        def backward(ctx, grad):
            return grad * 4

    torch.testing.assert_close(scores(Scale.apply), 4 * scores(lambda x: x))
