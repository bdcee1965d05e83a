"""Row and column sums of convolution matrices against the matrices themselves."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dfpc_plugin.ops.geometry import convolution_axes, padding_sides, spell_out, spread, transposed_axes

SMALL = st.integers(1, 4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(size=st.integers(1, 9), kernel=SMALL, stride=SMALL, dilation=SMALL, padding=st.integers(0, 3))
def test_sums_of_a_convolution(size, kernel, stride, dilation, padding):
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        return
    weight = torch.rand(2, 1, kernel, dtype=torch.float64)
    matrix = F.conv1d(torch.eye(size, dtype=torch.float64)[:, None], weight, None, stride, padding, dilation)
    (axis,) = convolution_axes((1, 1, size), weight.shape, stride, padding, dilation)
    assert axis.out == matrix.shape[-1]
    torch.testing.assert_close(spread(weight[:, 0], [axis], over="outputs"), matrix.sum(0))
    torch.testing.assert_close(spread(weight[:, 0], [axis], over="inputs"), matrix.sum(2).T)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(size=st.integers(1, 6), kernel=SMALL, stride=SMALL, dilation=SMALL, padding=SMALL, extra=st.integers(0, 3))
def test_sums_of_a_transposed_convolution(size, kernel, stride, dilation, padding, extra):
    if extra >= max(stride, dilation) or (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra < 0:
        return
    weight = torch.rand(1, 2, kernel, dtype=torch.float64)
    eye = torch.eye(size, dtype=torch.float64)[:, None]
    matrix = F.conv_transpose1d(eye, weight, None, stride, padding, extra, 1, dilation)
    (axis,) = transposed_axes((1, 1, size), weight.shape, stride, padding, extra, dilation)
    assert axis.size == matrix.shape[-1]
    torch.testing.assert_close(spread(weight[0], [axis], over="inputs"), matrix.sum(0))
    torch.testing.assert_close(spread(weight[0], [axis], over="outputs"), matrix.sum(2).T)


def test_axes_are_independent():
    weight = torch.rand(3, 2, 3, dtype=torch.float64)
    axes = convolution_axes((1, 1, 5, 6), (3, 1, 2, 3), (1, 2), (0, 1), 1)
    ones = torch.ones(1, 1, 5, 6, dtype=torch.float64)
    expected = F.conv2d(ones, weight[:, None], None, (1, 2), (0, 1))[0]
    torch.testing.assert_close(spread(weight, axes, over="outputs"), expected)


def test_arguments_are_spelt_out():
    assert spell_out(3, 2) == (3, 3) and spell_out([4], 3) == (4, 4, 4) and spell_out((1, 2), 2) == (1, 2)
    assert padding_sides("same", [3, 2]) == [(1, 2), (1, 1)]
    assert padding_sides("valid", [3]) == [(0, 0)] and padding_sides((2, 1), [9, 9]) == [(2, 2), (1, 1)]
