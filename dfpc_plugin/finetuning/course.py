"""One course of training: one optimiser, from its first step to its last, and the images of every step."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dfpc_plugin.advice import setting
from dfpc_plugin.data import DataError, checked_workers, collate_images
from dfpc_plugin.data.batches import label_of
from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.finetuning.optimiser import OptimiserState, build_optimiser, build_schedule, mixed, objective
from dfpc_plugin.finetuning.run import Run
from dfpc_plugin.finetuning.settings import FinetuneError, FinetuneSettings


@dataclass(frozen=True)
class CoursePlan:
    """How a course goes through `count` images, with `batch_size` of them in one step of one process."""

    count: int
    batch_size: int
    processes: int
    steps_per_epoch: int
    steps: int

    @classmethod
    def of(cls, count: int, processes: int, settings: FinetuneSettings) -> CoursePlan:
        """CoursePlan by the settings; raise a FinetuneError if there are fewer images than one step takes."""
        per_epoch = count // (settings.batch_size * processes)
        if per_epoch == 0:
            shared = f" in each of {processes} processes" if processes > 1 else ""
            raise FinetuneError(
                f"The training set has {count} images, and one step takes {settings.batch_size}{shared}; give a smaller batch_size."
            )
        steps = settings.steps or max(1, round(settings.epochs * per_epoch))
        return cls(count, settings.batch_size, processes, per_epoch, steps)

    def batches(self, seed: tuple[int, ...], start: int, rank: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of (epoch, image) of one process, from step `start` to the last; each epoch has its own order."""
        for step in range(start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if step == start or place == 0:
                generator = torch.Generator().manual_seed(_number(_ORDER, *seed, epoch))
                order = torch.randperm(self.count, generator=generator).tolist()
            first = (place * self.processes + rank) * self.batch_size
            yield [(epoch, image) for image in order[first : first + self.batch_size]]


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


_ORDER, _KEY = 1, 2


def seed_item(*key: int) -> None:
    """Seed the generators that transforms draw from by `key`.

    Those of CUDA are left alone: torch.manual_seed would wake them in processes that only read images.
    """
    number = _number(_KEY, *key)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  the one that transforms use
    torch.default_generator.manual_seed(number)


def seed_step(*key: int) -> None:
    """Seed all generators, that of the current CUDA device too, by `key`."""
    seed_item(*key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(_number(_KEY, *key))


def _number(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train_course(run: Run, settings: FinetuneSettings, name: str, *, goes_on: bool = False) -> None:
    """Train the model of `run`, in place, from where the run is to the end of this course.

    With `goes_on`, the optimiser of the next course continues with the state of this one.

    Raises:
        FinetuneError: The loss is no number any more.
    """
    course = _Course(run, settings)
    with run.phases(name) as tell:
        course.train(tell)
    run.state.courses, run.state.step = run.state.courses + 1, 0
    run.memory = course.memory() if goes_on else None
    run.save()


class _Course:
    """A course that is going on."""

    def __init__(self, run: Run, settings: FinetuneSettings) -> None:
        """Prepare the model of `run`, and take up its optimiser if this course was interrupted."""
        self._run, self._settings, self._state, engine = run, settings, run.state, run.engine
        self._plan = CoursePlan.of(len(run.train), engine.processes, settings)  # type: ignore[arg-type]
        self._seed = (settings.seed, run.state.courses)
        self._model = run.model.to(engine.device).train()
        self._optimiser = build_optimiser(self._model, settings)
        self._schedule = build_schedule(self._optimiser, settings, self._plan.steps)
        self._loader = DataLoader(
            _Seeded(run.train, self._seed, run.classes),
            batch_sampler=self._plan.batches(self._seed, run.state.step, engine.rank),
            num_workers=checked_workers(settings.workers),
            collate_fn=collate_images,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # not the user's, from which it would draw
        )
        # accelerate wraps and patches the container, and the model itself stays as it is
        self._student, self._stepper = engine.accelerator.prepare(nn.Sequential(self._model), self._optimiser)
        self._losses = torch.tensor(run.state.loss, dtype=torch.float64, device=engine.device)
        if run.memory is not None:
            if run.taken_up:
                trial = copy.deepcopy(self._model)
                run.memory.require_fits(build_optimiser(trial, settings), trial)
            run.memory.give_to(self._optimiser, self._model, groups=run.state.step > 0)
        if run.state.step > 0 and run.scale is not None:
            engine.accelerator.scaler.load_state_dict(dict(run.scale))
        run.taken_up = False

    def memory(self) -> OptimiserState:
        return OptimiserState.of(self._optimiser, self._model)

    def train(self, tell: Callable[[float], None]) -> None:
        """Train until the last step of the course."""
        try:
            for images, labels in self._loader:
                self._step(images, labels)
                self._after(tell)
        finally:
            self._run.engine.accelerator.free_memory()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimiser."""
        run, settings, engine = self._run, self._settings, self._run.engine
        self._schedule.step_update(self._state.step)
        seed_step(*self._seed, self._state.step, engine.rank)
        images, labels = (tensor.to(engine.device, non_blocking=True) for tensor in (images, labels))
        images, labels = mixed(images, labels, run.classes, settings)
        loss = objective(self._student(images), labels, self._taught(images), settings)
        engine.accelerator.backward(loss)
        if settings.gradient_clip is not None:
            engine.accelerator.clip_grad_norm_(self._model.parameters(), settings.gradient_clip)
        self._stepper.step()
        self._stepper.zero_grad()
        self._losses += loss.detach()
        self._state.losses += 1
        self._state.step += 1
        self._state.steps += 1

    def _taught(self, images: Tensor) -> Tensor | None:
        """The outputs of the teacher, if there is one to learn from."""
        if self._run.teacher is None or not self._settings.distill:
            return None
        with torch.no_grad(), self._run.engine.accelerator.autocast():
            return self._run.teacher(images).float()

    def _after(self, tell: Callable[[float], None]) -> None:
        """Log, evaluate and save a checkpoint, each at its interval."""
        settings, step = self._settings, self._state.step
        last = step == self._plan.steps
        evaluation: Evaluation | None = None
        if last or step % (settings.evaluate_every or self._plan.steps_per_epoch) == 0:
            evaluation = self._run.evaluate(self._model, settings)
        if last or evaluation is not None or step % settings.log_every == 0:
            self._note(evaluation)
        if not last and step % (settings.checkpoint_every or self._plan.steps_per_epoch) == 0:
            self._state.loss = self._loss()
            if self._run.checkpoints is not None:
                self._run.memory = self.memory()
                self._run.save()
        tell(step / self._plan.steps)

    def _loss(self) -> float:
        """Sum of the losses since the last row, as the mean of all processes."""
        loss = self._run.engine.summed(self._losses).item() / self._run.engine.processes
        if not math.isfinite(loss):
            raise FinetuneError(
                f"The loss is {loss} at step {self._state.steps}; give a smaller lr (it is {self._settings.lr}), more "
                f"warmup_steps, or {setting('gradient_clip', 1.0)}. The model is as it was."
            )
        return loss

    def _note(self, evaluation: Evaluation | None) -> None:
        """Add a row to the history."""
        state = self._state
        row: dict[str, Any] = {
            "step": state.steps,
            "epoch": state.step / self._plan.steps_per_epoch,
            "loss": self._loss() / state.losses,
            "lr": self._optimiser.param_groups[0]["lr"],
            "top1": None if evaluation is None else evaluation.top1,
            "seconds": self._run.seconds,
        }
        state.history.append(row | state.marks)
        self._losses.zero_()
        state.loss, state.losses = 0.0, 0
