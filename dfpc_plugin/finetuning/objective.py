"""What is made small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor

from dfpc_plugin.finetuning.settings import FinetuneSettings

__all__ = ["distillation_loss", "mixed", "objective"]


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
