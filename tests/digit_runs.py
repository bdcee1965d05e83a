"""A small network on scikit-learn's digits, and runs of it, for tests that start, kill and compare processes."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from dfpc_plugin.data import AugmentSettings, evaluation_transform, open_images, training_transform
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings, finetune, prune_and_tune
from dfpc_plugin.models import Preprocessing

PREPROCESSING = Preprocessing((1, 8, 8), (0.3,), (0.35,))
INPUTS = torch.zeros(1, 1, 8, 8)


@functools.cache
def opened(split):
    return open_images("digits", split)


def train_digits():
    return opened("train").with_transform(training_transform(PREPROCESSING, AugmentSettings(padding=1, flip=0.0)))


def val_digits(limit=None):
    dataset = opened("val").with_transform(evaluation_transform(PREPROCESSING))
    return dataset if limit is None else dataset.limited(limit)


def digit_net(*, norms: bool = True, dropout: float = 0.1, seed: int = 0) -> nn.Module:
    """Three convolutions and a linear layer, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 12, 1), (12, 16, 2), (16, 24, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norms)]
            layers += [nn.BatchNorm2d(outputs)] if norms else []
            layers += [nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Flatten(), nn.Linear(96, 10))


SETTINGS = FinetuneSettings(
    steps=60, batch_size=8, lr=0.05, checkpoint_every=3, evaluate_every=30, label_smoothing=0.1, gradient_clip=5.0
)
SCHEDULE = ScheduleSettings(
    share=0.1,
    step_sizes=(0.02, 0.002),
    tuning=FinetuneSettings(steps=4, batch_size=8, schedule="constant", checkpoint_every=2),
    final=FinetuneSettings(steps=12, batch_size=8, lr=0.02, distill=0.5, checkpoint_every=4),
)


def tuned(checkpoint=None, **options):
    return finetune(
        digit_net(),
        train_digits(),
        val_digits(50),
        settings=SETTINGS,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
        **options,
    )


def scheduled(checkpoint=None, **options):
    return prune_and_tune(
        digit_net(), INPUTS, "macs=0.6", train_digits(), val_digits(50), settings=SCHEDULE, checkpoint=checkpoint,
        resume=checkpoint is not None, **options,
    )  # fmt: skip


def sharded(processes: int):
    """The same images in every step however many processes there are; no batch norms, which see their own process's only."""
    settings = FinetuneSettings(steps=12, batch_size=32 // processes, lr=0.05, seed=3, log_every=4)
    return finetune(digit_net(norms=False, dropout=0.0), train_digits(), val_digits(51), settings=settings)


def sharded_schedule(processes: int):
    settings = ScheduleSettings(
        share=0.2,
        step_sizes=(0.02,),
        tuning=FinetuneSettings(steps=3, batch_size=32 // processes, schedule="constant"),
        final=FinetuneSettings(steps=3, batch_size=32 // processes),
    )
    return prune_and_tune(
        digit_net(norms=False, dropout=0.0), INPUTS, "macs=0.7", train_digits(), val_digits(51), settings=settings
    )


def main(kind: str, target: str, checkpoint: str = "") -> None:
    """Run one in a process of its own, and write the final weights to a file; `{rank}` in its name is filled in."""
    torch.set_num_threads(1)
    if kind in ("tuned", "scheduled"):
        result = globals()[kind](Path(checkpoint) if checkpoint else None)
        rank = 0
    else:
        result, rank = globals()[kind](int(os.environ.get("WORLD_SIZE", 1))), int(os.environ.get("RANK", 0))
    tensors = {name: tensor.contiguous() for name, tensor in result.model.state_dict().items()}
    tensors["steps"] = torch.tensor([row["step"] for row in result.history])
    tensors["losses"] = torch.tensor([row["loss"] for row in result.history], dtype=torch.float64)
    tensors["top1"] = torch.tensor(result.evaluation.top1, dtype=torch.float64)
    temporary = Path(target.format(rank=rank) + ".part")
    save_file(tensors, temporary)
    temporary.rename(target.format(rank=rank))


if __name__ == "__main__":
    main(*sys.argv[1:])
