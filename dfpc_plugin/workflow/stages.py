"""What runs of recipes and of saved models have in common: measure, repair, fine-tune, and what that needs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from torch import nn

from dfpc_plugin.criteria import AUTO
from dfpc_plugin.data import ImageDataset, checked_workers
from dfpc_plugin.evaluation import Evaluation, evaluate_model, probe, tally
from dfpc_plugin.finetuning import FinetuneResult, FinetuneSettings, finetune
from dfpc_plugin.finetuning.course import CoursePlan
from dfpc_plugin.finetuning.optimiser import build_optimiser
from dfpc_plugin.models import Preprocessing
from dfpc_plugin.progress import Progress
from dfpc_plugin.record import Point, RunRecord
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.require import require
from dfpc_plugin.runtimes import runtime_of
from dfpc_plugin.workflow.opening import Opened, images_to_calibrate, images_to_train, images_to_validate
from dfpc_plugin.workflow.recipe import Recipe
from dfpc_plugin.workflow.sections import DataSection, RepairSection


@dataclasses.dataclass(frozen=True)
class Validation:
    """The images that accuracy is measured on, and how they are read.

    Attributes:
        trained_later: The model is fine-tuned on these classes, and need not know them yet.
    """

    images: ImageDataset
    data: DataSection
    progress: Progress
    trained_later: bool = False

    @classmethod
    def of(
        cls, data: DataSection, preprocessing: Preprocessing, progress: Progress, trained_later: bool = False
    ) -> Validation | None:
        """Open the images; None if there are none."""
        images = images_to_validate(data, preprocessing)
        return None if images is None else cls(images, data, progress, trained_later)

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


def note_point(record: RunRecord, validation: Validation | None, stage: str, model: nn.Module) -> None:
    """Measure accuracy, if there is something to measure it on, and put it on the curve if the cost is known."""
    if validation is None:
        return
    found = validation.note(record, stage, model)
    after = (record.prune or {}).get("after")
    if after is not None:
        record.add_point(Point(stage, after["macs"], after["parameters"], found.top1, after.get("latency_ms")))


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


def require_packages(recipe: Recipe) -> None:
    """Raise a MissingDependencyError if a package is missing that will be needed at the end."""
    require("jinja2", "jinja2", "report")
    if recipe.tunes:
        require("accelerate", "accelerate", "finetune")
    if recipe.latency is not None:
        runtime_of(recipe.latency.runtime).require()
    for package in ("onnx", "onnxscript", "onnxruntime") if recipe.export.graph else ():
        require(package, package, "export")


def require_trainable(opened: Opened, data: DataSection, courses: list[FinetuneSettings]) -> None:
    """Raise a DataError or a FinetuneError if a model cannot be trained on these images by these settings."""
    images = images_to_train(data, opened.preprocessing, varied=False)
    probe(opened.model, images)
    for settings in courses:
        CoursePlan.of(len(images), 1, settings)
        build_optimiser(opened.model, settings)
        checked_workers(settings.workers)
