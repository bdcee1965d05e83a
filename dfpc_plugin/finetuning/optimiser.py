"""The loss, and timm's optimisers and schedules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from dfpc_plugin.finetuning.settings import FinetuneError, FinetuneSettings

__all__ = ["build_optimiser", "build_schedule", "distillation_loss", "mixed", "objective"]

_DROPS = (0.5, 0.75)
"""Where the schedule "step" divides by ten, as the CIFAR ResNets were trained."""


def build_optimiser(model: nn.Module, settings: FinetuneSettings) -> Optimizer:
    """Build the optimiser of a model's parameters; raise a FinetuneError if it is unknown, or nothing is to be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FinetuneError("The model has no parameter that requires a gradient; set requires_grad of those to tune.")
    try:
        return create_optimizer_v2(
            model, settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise FinetuneError(
            f"timm has no optimizer={settings.optimizer!r} ({error}); timm.optim.list_optimizers() names all."
        ) from error


def build_schedule(optimiser: Optimizer, settings: FinetuneSettings, steps: int) -> Any:
    """Build timm's schedule of a whole course, which sets the learning rate of step `s` when told `step_update(s)`."""
    common: dict[str, Any] = {
        "warmup_t": settings.warmup_steps,
        "warmup_lr_init": 0.0,
        "warmup_prefix": False,
        "t_in_epochs": False,
    }
    if settings.schedule == "cosine":
        return CosineLRScheduler(optimiser, t_initial=steps, **common)
    # timm drops one step before the number it is given.
    drops = [round(share * steps) + 1 for share in _DROPS] if settings.schedule == "step" else []
    return MultiStepLRScheduler(optimiser, decay_t=drops, decay_rate=0.1, **common)


def objective(outputs: Tensor, labels: Tensor, taught: Tensor | None, settings: FinetuneSettings) -> Tensor:
    """Cross-entropy, and the distance from a teacher as far as it is asked for.

    `outputs` are `(N, classes)`; `labels` are `(N,)`, or shares `(N, classes)` of images that were mixed.
    """
    smoothing = 0.0 if labels.dim() == 2 else settings.label_smoothing  # timm's mixup has smoothed already
    loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    if taught is None:
        return loss
    return (1 - settings.distill) * loss + settings.distill * distillation_loss(outputs, taught, settings.temperature)


def distillation_loss(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return how far the student is from the teacher: Hinton's, the divergence of softened outputs.

    It is multiplied by the temperature's square, so that gradients are of one size whatever the temperature.
    """
    student, teacher = F.log_softmax(outputs / temperature, 1), F.log_softmax(taught / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def mixed(images: Tensor, labels: Tensor, classes: int, settings: FinetuneSettings) -> tuple[Tensor, Tensor]:
    """Mix images of one batch in pairs, by timm; as they are if the settings do not ask for it."""
    if not (settings.mixup or settings.cutmix):
        return images, labels
    mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.label_smoothing, num_classes=classes)
    with torch.no_grad():
        return mix(images, labels)
