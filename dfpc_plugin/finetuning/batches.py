"""Which images make up which step, from any step on, and random numbers that depend on the step alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dfpc_plugin.data import DataError, checked_workers, collate_images
from dfpc_plugin.data.collate import label_of
from dfpc_plugin.finetuning.settings import FinetuneError, FinetuneSettings

__all__ = ["Plan", "loader_from", "order_of", "seed_item", "seed_step"]


@dataclass(frozen=True)
class Plan:
    """How a course goes through `count` images, with `batch_size` of them in one step of one process."""

    count: int
    batch_size: int
    processes: int
    steps_per_epoch: int
    steps: int

    @classmethod
    def of(cls, count: int, processes: int, settings: FinetuneSettings) -> Plan:
        """Plan by the settings; raise a FinetuneError if there are fewer images than one step takes."""
        per_epoch = count // (settings.batch_size * processes)
        if per_epoch == 0:
            shared = f" in each of {processes} processes" if processes > 1 else ""
            raise FinetuneError(
                f"The training set has {count} images, and one step takes {settings.batch_size}{shared}; give a smaller batch_size."
            )
        steps = settings.steps or max(1, round(settings.epochs * per_epoch))
        return cls(count, settings.batch_size, processes, per_epoch, steps)


class _Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, image), those of the processes in turns, as accelerate deals them out.

    Attributes:
        batch_size: Images of a batch; accelerate asks.
        drop_last: There are whole batches only; accelerate asks.
    """

    drop_last = True

    def __init__(self, plan: Plan, seed: tuple[int, ...], start: int) -> None:
        """Start with the batches of step `start`."""
        self._plan, self._seed, self._start, self.batch_size = plan, seed, start, plan.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        plan, known, order = self._plan, -1, list[int]()
        for step in range(self._start, plan.steps):
            epoch, place = divmod(step, plan.steps_per_epoch)
            if epoch != known:
                known, order = epoch, order_of(plan.count, *self._seed, epoch)
            for process in range(plan.processes):
                first = (place * plan.processes + process) * plan.batch_size
                yield [(epoch, image) for image in order[first : first + plan.batch_size]]

    def __len__(self) -> int:
        return (self._plan.steps - self._start) * self._plan.processes


class _Seeded(Dataset[Any]):
    """A data set whose augmentation depends on the epoch and the image alone, not on the worker or the order of reading."""

    def __init__(self, dataset: Dataset[Any], seed: tuple[int, ...], classes: int) -> None:
        self._dataset, self._seed, self._classes = dataset, seed, classes

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, image = key
        seed_item(*self._seed, epoch, image)
        pixels, label = self._dataset[image]
        number = label_of(label)
        if not 0 <= number < self._classes:
            raise DataError(
                f"Image {image} of the training set has the label {number}, and the model {self._classes} outputs."
            )
        return pixels, label


def loader_from(
    dataset: Dataset[Any], plan: Plan, seed: tuple[int, ...], start: int, workers: int, classes: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Load the batches of all processes from step `start` on, to the last; a label without an output is a DataError."""
    return DataLoader(
        _Seeded(dataset, seed, classes),
        batch_sampler=_Batches(plan, seed, start),
        num_workers=checked_workers(workers),
        collate_fn=collate_images,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # not the user's, from which it would draw
    )


_ORDER, _KEY = 1, 2


def order_of(count: int, *key: int) -> list[int]:
    """The order in which to go through `count` images, as `key` says."""
    generator = torch.Generator().manual_seed(_number(_ORDER, *key))
    return torch.randperm(count, generator=generator).tolist()


def seed_item(*key: int) -> None:
    """Let the generators that transforms draw from start from what `key` says.

    Those of CUDA are left alone: torch.manual_seed would wake them in processes that only read images.
    """
    number = _number(_KEY, *key)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  the one that transforms use
    torch.default_generator.manual_seed(number)


def seed_step(*key: int) -> None:
    """Let all generators, the current CUDA device's too, start from what `key` says."""
    seed_item(*key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(_number(_KEY, *key))


def _number(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
