"""Noise in place of images, for rankings and repairs without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dfpc_plugin.errors import ForwardError
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.tracing.tree import map_tensors, tensors

_Result = TypeVar("_Result")

_PIXELS, _FEWEST, _MOST = 2**20, 4, 256
"""Approximate number of pixels of noise, and the fewest and most images.

At 224 x 224 that is 20 images. With four, `merge` loses three to seven more points of EfficientNet-Lite0's accuracy.
"""
_PLAIN = 3
"""Inputs with at most this many dimensions are not images but vectors or sequences."""


def pink_noise(shape: Sequence[int], generator: torch.Generator, power: float = 1.5) -> Tensor:
    """Return noise of `shape`, `(..., height, width)`, with amplitudes that fall as 1 / frequency^`power`.

    Every channel of every image has mean zero and standard deviation one. Photographs have a power of one to two
    (Field, "Relations between the statistics of natural images and the response properties of cortical cells", 1987).
    """
    height, width = shape[-2:]
    spectrum = torch.fft.rfft2(torch.randn(*shape, generator=generator))
    across, down = torch.fft.rfftfreq(width), torch.fft.fftfreq(height)
    frequency = (down[:, None].square() + across.square()).sqrt().clamp_min(1 / max(height, width))
    spectrum /= frequency**power
    spectrum[..., 0, 0] = 0
    noise = torch.fft.irfft2(spectrum, s=(height, width))
    correction = min(1, height * width - 1)
    return noise / noise.std((-2, -1), correction=correction, keepdim=True).clamp_min(1e-12)


def on_noise(
    example_inputs: ExampleInputs, seed: int, act: Callable[[ExampleInputs | None], _Result], one_in: int = 1
) -> tuple[_Result, str | None]:
    """Call `act` with many images of noise, or with as many as the example inputs if the model does not take more.

    `act` gets None if the inputs are not only images. With `one_in=8`, there are an eighth of the images. Returns the
    result of `act`, and a note for the user if there were few images; raises what `act` raises.
    """
    given = tensors(example_inputs)
    few = _noise_like(example_inputs, len(given[0]), seed)
    if few is None:
        return act(None), None
    count = max(_FEWEST, min(_MOST, _PIXELS // given[0][0, 0].numel()) // one_in)
    try:
        return act(_noise_like(example_inputs, count, seed)), None
    except ForwardError as error:
        note = f"Looked at {len(given[0])} images of noise only, as the model does not take {count}: {error.__cause__}"
        return act(few), note


def _noise_like(example_inputs: ExampleInputs, count: int, seed: int) -> ExampleInputs | None:
    """`count` images of noise; None if the inputs are not only images."""
    generator = torch.Generator().manual_seed(seed)
    if any(tensor.dim() <= _PLAIN or not tensor.is_floating_point() for tensor in tensors(example_inputs)):
        return None
    return map_tensors(lambda own: pink_noise((count, *own.shape[1:]), generator).to(own), example_inputs)
