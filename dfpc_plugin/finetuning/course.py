"""One course of training: one optimiser, from its first step to its last."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.finetuning.batches import Plan, loader_from, seed_step
from dfpc_plugin.finetuning.engine import Student
from dfpc_plugin.finetuning.optimiser import OptimiserState, build_optimiser, build_schedule, mixed, objective
from dfpc_plugin.finetuning.run import Run
from dfpc_plugin.finetuning.settings import FinetuneError, FinetuneSettings

__all__ = ["train_course"]


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
        self._plan = Plan.of(len(run.train), engine.processes, settings)  # type: ignore[arg-type]
        self._seed = (settings.seed, run.state.courses)
        self._model = run.model.to(engine.device).train()
        self._optimiser = build_optimiser(self._model, settings)
        self._schedule = build_schedule(self._optimiser, settings, self._plan.steps)
        loader = loader_from(run.train, self._plan, self._seed, run.state.step, settings.workers, run.classes)
        self._student, self._stepper, self._loader = engine.accelerator.prepare(
            Student(self._model), self._optimiser, loader
        )
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
        """What the optimiser remembers."""
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
        """What the teacher makes of the images, if it is asked."""
        if self._run.teacher is None or not self._settings.distill:
            return None
        with torch.no_grad(), self._run.engine.accelerator.autocast():
            return self._run.teacher(images).float()

    def _after(self, tell: Callable[[float], None]) -> None:
        """Note, evaluate and save where it is time to."""
        settings, step = self._settings, self._state.step
        last = step == self._plan.steps
        evaluation: Evaluation | None = None
        if last or step % (settings.evaluate_every or self._plan.steps_per_epoch) == 0:
            evaluation = self._run.evaluate(self._model, settings.batch_size, settings.workers)
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
                f"warmup_steps, or gradient_clip=1.0. The model is as it was."
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
