"""The stages of a run: each takes what the one before has made, and notes in the record what it found."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from torch import nn

from dfpc_plugin.criteria import AUTO
from dfpc_plugin.data import ImageDataset
from dfpc_plugin.errors import RepairError
from dfpc_plugin.evaluation import Evaluation, evaluate_model, tally
from dfpc_plugin.finetuning import FinetuneResult, FinetuneSettings, ScheduleResult, finetune, prune_and_tune
from dfpc_plugin.progress import Progress
from dfpc_plugin.pruning import PruneResult, PruneSettings, prune
from dfpc_plugin.record import Point, RunRecord
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.selection import Target
from dfpc_plugin.workflow.opening import Opened, images_to_calibrate, images_to_train
from dfpc_plugin.workflow.recipe import Recipe
from dfpc_plugin.workflow.sections import DataSection, PruneSection, RepairSection

__all__ = ["Validation", "add_curve", "cut", "cut_and_repair", "cut_and_tune", "repair_settings", "tune"]


@dataclasses.dataclass(frozen=True)
class Validation:
    """The images that accuracy is measured on.

    Attributes:
        images: What they are.
        data: Where they come from, and how they are read.
        progress: Told how far it is.
        trained_later: The model is fine-tuned on these classes, and need not know them yet.
    """

    images: ImageDataset
    data: DataSection
    progress: Progress
    trained_later: bool = False

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Evaluate a model."""
        if self.trained_later:
            start = time.perf_counter()
            sums = tally(model, self.images, self.data.batch_size, self.data.workers, self.progress)
            return Evaluation.of(sums, time.perf_counter() - start)
        return evaluate_model(model, self.images, self.data.batch_size, self.data.workers, self.progress)

    def note(self, record: RunRecord, stage: str, model: nn.Module) -> Evaluation:
        """Evaluate a model, and note the accuracy."""
        found = self.evaluate(model)
        record.add_evaluation(stage, Path(str(self.data.val)).name, found)  # a report is no place for directories
        return found


def repair_settings(
    section: RepairSection, data: DataSection, opened: Opened, checkpoint: Path | None
) -> RepairSettings | None:
    """What a section asks for, with the images that it takes; None for no repair."""
    method = ("merge" if opened.trained else "none") if section.method == AUTO else section.method
    if method == "none":
        return None
    values = dataclasses.asdict(section) | {"method": method}
    images = None
    if section.how.images == "given":
        images = images_to_calibrate(data, opened.preprocessing, section.count, section.seed)
    return RepairSettings(**values, images=images, checkpoint=checkpoint)


def cut(
    recipe: Recipe,
    opened: Opened,
    repair: RepairSettings | None,
    validation: Validation | None,
    progress: Progress,
    target: str | None = None,
) -> PruneResult:
    """Prune a model as a recipe says, or to another target in the same way."""
    asked = Target.parse(target or recipe.target)
    judge = validation if asked.max_drop is not None else None
    return prune(
        opened.model,
        opened.inputs,
        asked,
        importance=recipe.prune.importance,
        evaluate=None if judge is None else lambda model: judge.evaluate(model).top1,
        repair=repair,
        latency=recipe.latency if target is None else None,
        progress=progress,
        **_pruning(recipe.prune),
    )


def cut_and_repair(
    recipe: Recipe, opened: Opened, repair: RepairSettings | None, validation: Validation | None, progress: Progress
) -> PruneResult:
    """Prune and repair a model. A repair that nobody has asked for may be impossible; then the result has a note."""
    try:
        return cut(recipe, opened, repair, validation, progress)
    except RepairError as error:
        if recipe.repair.method != AUTO:
            raise
        result = cut(recipe, opened, None, validation, progress)
        note = f"The repair merge, which is the default, cannot repair this model: {error}"
        return dataclasses.replace(result, notes=(*result.notes, note))


def cut_and_tune(
    recipe: Recipe,
    opened: Opened,
    repair: RepairSettings | None,
    validation: Validation | None,
    checkpoint: Path,
    progress: Progress,
    *,
    resume: bool,
) -> ScheduleResult:
    """Prune a model in turns with tuning."""
    return prune_and_tune(
        opened.model,
        opened.inputs,
        recipe.target,
        images_to_train(recipe.data, opened.preprocessing),
        None if validation is None else validation.images,
        settings=recipe.schedule,
        pruning=PruneSettings(**_pruning(recipe.prune)),
        importance=recipe.prune.importance,
        repair=repair,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def tune(
    model: nn.Module,
    settings: FinetuneSettings,
    data: DataSection,
    opened: Opened,
    validation: Validation | None,
    checkpoint: Path | None,
    progress: Progress,
    *,
    resume: bool,
) -> FinetuneResult:
    """Fine-tune a model; what it was before it was pruned is the teacher, where there is to be one."""
    return finetune(
        model,
        images_to_train(data, opened.preprocessing),
        None if validation is None else validation.images,
        settings=settings,
        teacher=opened.model if settings.distill > 0 else None,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def add_curve(
    recipe: Recipe,
    opened: Opened,
    repair: RepairSettings | None,
    validation: Validation,
    record: RunRecord,
    progress: Progress,
) -> None:
    """Prune to every share of the recipe's curve, and note cost and accuracy."""
    settings = None if repair is None else dataclasses.replace(repair, checkpoint=None)
    for number, share in enumerate(recipe.curve):
        progress("curve", number / len(recipe.curve))
        result = cut(recipe, opened, settings, None, progress, f"macs={share}")
        found = validation.evaluate(result.model)
        record.add_point(Point(f"macs={share:g}", result.after.macs, result.after.parameters, found.top1))


def _pruning(section: PruneSection) -> dict[str, Any]:
    """What else `prune` is told."""
    return {entry.name: getattr(section, entry.name) for entry in dataclasses.fields(PruneSettings)}
