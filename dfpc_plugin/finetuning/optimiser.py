"""timm's optimisers and schedules."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from torch import nn
from torch.optim import Optimizer

from dfpc_plugin.finetuning.errors import FinetuneError
from dfpc_plugin.finetuning.settings import FinetuneSettings

__all__ = ["build_optimiser", "build_schedule"]

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
