"""Pink noise: images without content whose spectrum falls off as that of photographs does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pink_noise"]


def pink_noise(shape: Sequence[int], generator: torch.Generator, power: float = 1.5) -> Tensor:
    """Return noise of `shape`, channels before the last two axes, with amplitudes that fall as 1 / frequency^`power`.

    Every channel of every image has mean zero and standard deviation one. Photographs have a power of one to two (Field,
    "Relations between the statistics of natural images and the response properties of cortical cells", 1987).
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
