"""What is measured of a network: accuracy, MACs, parameters."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dfpc_plugin.repairing.batchnorm import reestimated

__all__ = ["accuracy", "count_macs", "count_parameters", "with_reestimated_batchnorm"]

_BATCH = 256


@torch.inference_mode()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of `images` that `model`, which is in evaluation mode, classifies as `labels` say."""
    batches = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    correct = sum(int((model(batch).argmax(1) == target).sum()) for batch, target in batches)
    return correct / len(labels)


def count_macs(model: nn.Module, example_input: torch.Tensor) -> int:
    """Count the MACs of one forward, in convolutions and matrix products, with PyTorch's counter."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(example_input)
    return counter.get_total_flops() // 2  # the counter takes a MAC for two operations


def count_parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def with_reestimated_batchnorm(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a copy whose batch norms hold the statistics of `images`, which need no labels; weights are the same."""
    model = copy.deepcopy(model).eval()
    with reestimated(model, images.split(_BATCH), None) as keep:
        keep[0] = True
    return model
