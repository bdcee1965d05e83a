"""Calls of layers as sums over rows: rows times the matrix is what torch itself returns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from call_tools import calls_of, random, randomised
from torch import Tensor, nn

from dfpc_plugin.repairing.calls import LayerCall, layer_call
from dfpc_plugin.tracing.names import ModelNames

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

LAYERS = [
    (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    (nn.Conv1d(4, 6, 4, padding="same", dilation=3, bias=False), (2, 4, 9)),
    (nn.Conv1d(4, 8, 3, stride=2, padding=(2,), groups=2), (4, 11)),
    (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2)), (2, 3, 6, 7)),
    (nn.Conv2d(3, 5, (2, 3), padding="same", bias=False), (2, 3, 6, 7)),
    (nn.Conv2d(3, 5, 3, stride=2, padding="valid", dilation=(2, 1)), (2, 3, 8, 7)),
    (nn.Conv2d(4, 6, 3, groups=2, padding=1, stride=2), (3, 4, 5, 6)),
    (nn.Conv2d(4, 4, 3, groups=4, padding=1), (2, 4, 5, 4)),
    (nn.Conv2d(4, 8, (1, 3), groups=4, bias=False), (4, 5, 4)),
    (nn.Conv2d(4, 6, 3, padding=(0, 2), padding_mode="circular"), (2, 4, 5, 6)),
    (nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 2), dilation=(1, 1, 2)), (2, 2, 3, 4, 5)),
    (nn.Conv3d(4, 6, 2, groups=2, padding="same", bias=False), (4, 3, 3, 4)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    (nn.ConvTranspose1d(4, 6, 4, stride=3, padding=5, dilation=2, groups=2, bias=False), (4, 6)),
    (nn.ConvTranspose2d(4, 6, 2, 2), (2, 4, 3, 3)),
    (nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2, dilation=(1, 2)), (2, 4, 3, 4)),
    (nn.ConvTranspose2d(3, 5, 3, padding=2, bias=False), (3, 6, 5)),
    (nn.ConvTranspose2d(4, 8, 3, 2, 1, groups=4), (2, 4, 3, 3)),
    (nn.ConvTranspose3d(2, 4, (2, 3, 1), (1, 2, 2), (0, 1, 0), (0, 1, 1), groups=2), (2, 2, 3, 2, 3)),
    (nn.ConvTranspose3d(2, 3, 2, dilation=2, bias=False), (2, 2, 3, 2)),
    (nn.Linear(5, 3), (5,)),
    (nn.Linear(5, 3, bias=False), (4, 5)),
    (nn.Linear(5, 3), (2, 4, 5)),
    (nn.Linear(5, 3), (2, 3, 4, 5)),
]
NAMES = [f"{number}-{type(layer).__name__}" for number, (layer, _) in enumerate(LAYERS)]


def made(layer: nn.Module, shape: tuple[int, ...]) -> LayerCall:
    """The call of a layer, and that the layer's own output is what the call returns."""
    inputs = random(1, *shape)
    (call,) = calls_of(nn.Sequential(randomised(layer)), inputs)
    assert call.name == "0" and call.rows_of == slice(None)
    with torch.no_grad():
        assert torch.equal(call.run(), layer(inputs))
    return call


def product(call: LayerCall, positions: Tensor, matrix: Tensor) -> Tensor:
    bias = 0 if call.bias is None else call.bias.detach().view(call.groups, -1)
    return torch.einsum("pge,goe->pgo", call.rows(positions), matrix) + bias


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_rows_times_the_matrix_is_the_output(layer: nn.Module, shape: tuple[int, ...]) -> None:
    call = made(layer, shape)
    output = call.run()
    positions = torch.arange(call.positions(output))
    assert len(positions) * call.matrix.shape[:2].numel() == output.numel()
    found = call.outputs(output, positions)
    torch.testing.assert_close(product(call, positions, call.matrix), found, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.flatten().sort().values, output.detach().flatten().sort().values)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_what_is_written_is_what_is_run(layer: nn.Module, shape: tuple[int, ...]) -> None:
    call = made(layer, shape)
    before, matrix = call.weight.detach().clone(), call.matrix
    call.write(matrix)
    assert torch.equal(call.weight, before)
    new = random(2, *matrix.shape)
    call.write(new)
    assert torch.equal(call.matrix, new) and call.weight is layer.weight
    output = call.run()
    positions = torch.tensor([0, call.positions(output) - 1, call.positions(output) // 2])
    torch.testing.assert_close(product(call, positions, new), call.outputs(output, positions), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_entries_know_their_channel(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """With the weight of each channel put to zero in turn, the matrix is zero where `by_entry` says so."""
    call = made(layer, shape)
    channels = call.input.shape[call.channel_axis]
    matrix = call.matrix.clone().fill_(1.0)
    assert call.taps() * channels == matrix.shape[0] * matrix.shape[2]
    for channel in range(channels):
        kept = torch.arange(channels) != channel
        call.write(matrix * call.by_entry(kept)[:, None])
        data = torch.zeros_like(call.input)
        data.select(call.channel_axis, channel).fill_(3.0)
        call.input, old = data, call.input
        bias = 0 if call.bias is None else call.bias.view(-1, *[1] * (-1 - call.channel_axis))
        assert torch.equal(call.run(), torch.zeros_like(call.run()) + bias)
        call.write(matrix)
        assert not torch.equal(call.run(), torch.zeros_like(call.run()) + bias)
        call.input = old


LAYERS_OF_CONSTANTS = [
    nn.Conv1d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2),
    nn.Conv2d(4, 4, 3, groups=4, dilation=2),
    nn.ConvTranspose1d(4, 6, 5, stride=3, padding=1),
    nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
    nn.ConvTranspose2d(4, 6, 4, stride=2, dilation=3),
    nn.ConvTranspose2d(4, 6, 2, stride=3),
    nn.Linear(4, 3),
]


@pytest.mark.parametrize("layer", LAYERS_OF_CONSTANTS, ids=lambda layer: type(layer).__name__)
def test_rows_of_constants(layer: nn.Module) -> None:
    """On average over all positions, those at the borders included, where a kernel sees padding."""
    values = random(3, 4)
    axes = max(0, layer.weight.dim() - 2)
    inputs = values.view(-1, *[1] * axes).expand(1, 4, *[12] * axes).clone() if axes else values.expand(7, 4)
    (call,) = calls_of(nn.Sequential(layer.double()), inputs)
    rows = call.rows(torch.arange(call.positions(call.run()))).mean(0)
    torch.testing.assert_close(call.constant_rows(values), rows, rtol=1e-12, atol=1e-12)


def test_other_weights_are_no_layers() -> None:
    model = nn.Module()
    model.matrix = nn.Parameter(random(0, 6, 6))
    model.stack = nn.Parameter(random(0, 2, 6, 6))
    model.kernel = nn.Parameter(random(0, 4, 4, 3, 3))
    names, x, image = ModelNames(model), random(1, 2, 6), random(1, 2, 4, 5, 5)
    with torch.no_grad():
        for weight in (
            random(2, 6, 6),
            model.matrix.t(),
            model.matrix.t()[:3],
            model.matrix[:, :6:2].contiguous(),
            model.matrix.clone(),
            model.matrix * 2,
            model.matrix[:, :4],
            model.matrix[::2],
            model.stack[1],
            model.matrix[0],
        ):
            data = x[:, : weight.shape[-1]]
            assert layer_call(F.linear, (data, weight), {}, names) is None
        assert layer_call(F.linear, (x,), {"weight": model.matrix.t()}, names) is None
        assert layer_call(F.conv2d, (image, random(2, 4, 4, 3, 3)), {}, names) is None
        assert layer_call(F.conv2d, (image, model.kernel.transpose(0, 1)), {}, names) is None
        assert layer_call(F.relu, (x,), {}, names) is None
        assert layer_call(torch.matmul, (x, model.matrix), {}, names) is None


def test_some_rows_of_a_weight() -> None:
    model = nn.Module()
    model.matrix, model.shift = nn.Parameter(random(0, 9, 4)), nn.Parameter(random(0, 9))
    model.kernel = nn.Parameter(random(0, 6, 2, 3))
    names, x, signal = ModelNames(model), random(1, 3, 4), random(1, 2, 2, 7)
    before = model.matrix.detach().clone()
    with torch.no_grad():
        parts = [model.matrix[:2], model.matrix[2:5], model.matrix[5:]]
        for weight, start, stop in zip(
            (*parts, *model.matrix.chunk(3)), (0, 2, 5, 0, 3, 6), (2, 5, 9, 3, 6, 9), strict=True
        ):
            call = layer_call(F.linear, (x, weight, model.shift[start:stop]), {}, names)
            assert call is not None and call.rows_of == slice(start, stop) and call.name == "matrix"
            assert call.bias_is_free
            call.write(torch.full_like(call.matrix, 7.0))
            expected = before.clone()
            expected[start:stop] = 7
            assert torch.equal(model.matrix, expected)
            model.matrix.copy_(before)
        call = layer_call(F.conv1d, (signal, model.kernel[4:]), {"padding": 1}, names)
        assert call is not None and call.rows_of == slice(4, 6) and call.name == "kernel"
        assert call.bias is None and not call.bias_is_free
        call = layer_call(F.linear, (x, model.matrix, random(2, 9)), {}, names)
        assert call is not None and not call.bias_is_free and call.rows_of == slice(None)


def test_arguments_by_keyword_and_position() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2))
    names, x = ModelNames(model), torch.randn(1, 4, 5, 5)
    layer = model[0]
    places = layer_call(F.conv_transpose2d, (x, layer.weight, layer.bias, (2, 2), (1, 1), (1, 1), 2, (1, 1)), {}, names)
    named = layer_call(
        torch.conv_transpose2d,
        (),
        {
            "input": x,
            "weight": layer.weight,
            "bias": layer.bias,
            "stride": 2,
            "padding": 1,
            "output_padding": 1,
            "groups": 2,
        },
        names,
    )
    assert places is not None and named is not None
    assert places.groups == named.groups == 2 and torch.equal(places.run(), named.run())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_are_float32_or_wider(dtype: torch.dtype) -> None:
    layer = nn.Conv2d(2, 3, 3).to(dtype)
    (call,) = calls_of(nn.Sequential(layer), torch.randn(1, 2, 5, 5).to(dtype))
    output = call.run()
    assert call.rows(torch.tensor([0])).dtype == call.outputs(output, torch.tensor([0])).dtype == torch.float32
    assert call.matrix.dtype == torch.float64
    call.write(call.matrix)
    assert layer.weight.dtype == dtype
