"""Generate images from a model: optimise noise until the inputs of its batch norms match the stored statistics.

The idea is from "Dreaming to distill: data-free knowledge transfer via DeepInversion" (Yin et al., CVPR 2020). Two
things differ. The loss is the divergence of each channel's distribution instead of squared differences, which makes
layers of different scales comparable. And there are no labels, as the repair of layers needs only statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.errors import RepairError
from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import entered
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.repairing.batch_norms import NormInputs, divergence
from dfpc_plugin.repairing.noise import pink_noise

_RATE = 0.1
_GOOD = 0.005
"""Optimisation stops at this divergence (nats per channel), that of a hundred photographs from thousands."""


@dataclass(frozen=True, eq=False)
class SyntheticImages:
    """Images for a model.

    Attributes:
        batches: Each `(images, channels, height, width)`; each batch by itself matches the model's statistics.
        before: Divergence of the initial noise in nats, averaged over channels and layers.
        divergence: The same of the images.
    """

    batches: list[Tensor]
    before: float
    divergence: float


def synthesise(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    count: int | None = None,
    steps: int = 40,
    seed: int = 0,
    forward_fn: ForwardFunction | None = None,
    progress: Callable[[float], None] | None = None,
) -> SyntheticImages:
    """Generate images that match the statistics stored in the batch norms of `model`.

    Args:
        model: Any model with batch norms; it is not changed.
        example_inputs: `(images, channels, height, width)`; gives the size.
        count: Number of images; by default about two million pixels, at least 32 images (at 224 x 224, where they take
            minutes on two cores) and at most 256.
        steps: Largest number of optimisation steps; it stops early at a good match.
        seed: Random seed of the noise.
        forward_fn: Called as `forward_fn(model, images)` instead of the model.
        progress: Called with the share of the steps that is done.

    Raises:
        RepairError: The model has no batch norms with statistics, or does not take one tensor of images.
    """
    if not (isinstance(example_inputs, Tensor) and example_inputs.dim() == 4 and example_inputs.is_floating_point()):
        raise RepairError(
            f"Synthetic images are for models that take one tensor of images; repair with {setting('method', 'calibrate')} and inputs of "
            "your own, or with 'merge' or 'mean'."
        )
    channels, height, width = example_inputs.shape[1:]
    if count is None:
        count = max(32, min(256, 2**21 // (height * width)))
    size = max(16, min(count, 2**19 // (height * width)))
    parts = max(1, round(count / size))
    sizes = [count // parts + (number < count % parts) for number in range(parts)]
    generator = torch.Generator().manual_seed(seed)
    made, before, after = [], 0.0, 0.0
    tell = progress or (lambda share: None)
    for number, images in enumerate(sizes):
        with torch.inference_mode(False):
            noise = pink_noise((images, channels, height, width), generator).to(example_inputs.device)

        def told(share: float, done: int = number) -> None:
            tell((done + share) / len(sizes))

        batch, first, last = _matched(model, noise, steps, forward_fn, told)
        made.append(batch.to(example_inputs.dtype))
        before, after = before + first / len(sizes), after + last / len(sizes)
    return SyntheticImages(made, before, after)


def _matched(
    model: nn.Module, images: Tensor, steps: int, forward_fn: ForwardFunction | None, progress: Callable[[float], None]
) -> tuple[Tensor, float, float]:
    """Optimise images; return them with the divergences before and after.

    Raises RepairError if the model has no batch norms with statistics, or if its outputs on noise are not finite.
    """
    images = images.float().requires_grad_()
    first = last = math.inf
    best = images.detach().clone()
    optimiser = torch.optim.Adam([images], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for step in range(steps + 1):
            with entered(NormInputs()) as norms:
                run_forward(model, images.to(kind), forward_fn)
            if not norms.found:
                raise RepairError(
                    f"The model has no batch norm with stored statistics, from which images could be made; repair with "
                    f"{setting('method', 'calibrate')} and images of your own, or with 'merge' or 'mean'."
                )
            terms = torch.stack([divergence(found).to(images.device) for found in norms.found])
            now = float(terms.detach().mean())
            if not math.isfinite(now):
                break
            first = now if step == 0 else first
            if now < last:
                last, best = now, images.detach().clone()
            if step == steps or now < _GOOD:
                break
            (images.grad,) = torch.autograd.grad(terms.sum(), images)
            optimiser.step()
            schedule.step()
            progress((step + 1) / steps)
    progress(1.0)
    if not math.isfinite(first):
        raise RepairError("What the model makes of noise is not finite; check its weights and running statistics.")
    return best, first, last
