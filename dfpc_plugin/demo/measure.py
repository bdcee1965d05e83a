"""Accuracy of a network on images in memory."""

from __future__ import annotations

import torch
from torch import nn

_BATCH = 256


@torch.inference_mode()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of `images` for which `model`, in evaluation mode, predicts the label."""
    batches = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    correct = sum(int((model(batch).argmax(1) == target).sum()) for batch, target in batches)
    return correct / len(labels)
