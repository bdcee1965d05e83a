"""What runs of recipes and of saved models have in common."""

from __future__ import annotations

import time
from pathlib import Path

from torch import nn

from dfpc_plugin.criteria import AUTO
from dfpc_plugin.data import checked_workers
from dfpc_plugin.evaluation import Evaluation, evaluate_model, probe, tally
from dfpc_plugin.finetuning import FinetuneResult, FinetuneSettings, finetune
from dfpc_plugin.finetuning.course import CoursePlan
from dfpc_plugin.finetuning.optimiser import build_optimiser
from dfpc_plugin.progress import Progress
from dfpc_plugin.record import Point, RunRecord
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.require import require
from dfpc_plugin.runtimes import runtime_of
from dfpc_plugin.workflow.opening import Opened, images_to_calibrate, images_to_train, images_to_validate
from dfpc_plugin.workflow.recipe import Recipe
from dfpc_plugin.workflow.sections import DataSection, RepairSection


class Stages:
    """The stages of a run on one model: measure, repair, fine-tune. They share the images and the record of the run.

    Attributes:
        images: Those that accuracy is measured on; None if there are none.
    """

    def __init__(
        self, opened: Opened, data: DataSection, record: RunRecord, tell: Progress, *, trains: bool = False
    ) -> None:
        """Open the images; a model that `trains` on their classes need not know them yet."""
        self.opened, self.data, self.record, self.tell, self._trains = opened, data, record, tell, trains
        self.images = images_to_validate(data, opened.preprocessing)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Evaluate a model on the images, which are there."""
        assert self.images is not None
        read = (self.images, self.data.batch_size, self.data.workers, self.tell)
        if not self._trains:
            return evaluate_model(model, *read)
        start = time.perf_counter()
        sums, _ = tally(model, *read)
        return Evaluation.of(sums, time.perf_counter() - start)

    def measure(self, stage: str, model: nn.Module, *, on_curve: bool = True) -> None:
        """Note the accuracy of a model, if there is something to measure it on; and a point of the curve, if its cost is known."""
        if self.images is None:
            return
        found, after = self.evaluate(model), (self.record.prune or {}).get("after")
        self.record.add_evaluation(stage, Path(str(self.data.val)).name, found)  # a report is no place for directories
        if on_curve and after is not None:
            self.record.add_point(Point(stage, after["macs"], after["parameters"], found.top1, after.get("latency_ms")))

    def repair_settings(self, section: RepairSection, checkpoint: Path | None) -> RepairSettings | None:
        """What a section asks for, with the images that it takes; None for no repair."""
        method = ("merge" if self.opened.trained else "none") if section.method == AUTO else section.method
        if method == "none":
            return None
        images = None
        if section.how.images == "given":
            images = images_to_calibrate(self.data, self.opened.preprocessing, section.count, section.seed)
        return RepairSettings(**(vars(section) | {"method": method}), images=images, checkpoint=checkpoint)

    def tune(
        self, model: nn.Module, settings: FinetuneSettings, teacher: nn.Module, checkpoint: Path, *, resume: bool
    ) -> FinetuneResult:
        """Fine-tune a model, with the teacher where there is to be one, and note what comes of it."""
        result = finetune(
            model,
            images_to_train(self.data, self.opened.preprocessing),
            self.images,
            settings=settings,
            teacher=teacher if settings.distill > 0 else None,
            checkpoint=checkpoint,
            resume=resume,
            progress=self.tell,
        )
        self.record.finetune = result.to_json()
        self.measure("fine-tuned", result.model)
        return result

    def require_trainable(self, courses: list[FinetuneSettings]) -> None:
        """Raise a DataError or a FinetuneError if the model cannot be trained on the images by these settings."""
        images = images_to_train(self.data, self.opened.preprocessing, varied=False)
        probe(self.opened.model, images)
        for settings in courses:
            CoursePlan.of(len(images), 1, settings)
            build_optimiser(self.opened.model, settings)
            checked_workers(settings.workers)


def require_packages(recipe: Recipe) -> None:
    """Raise a MissingDependencyError if a package is missing that will be needed at the end."""
    require("jinja2", "jinja2", "report")
    if recipe.tunes:
        require("accelerate", "accelerate", "finetune")
    if recipe.latency is not None:
        runtime_of(recipe.latency.runtime).require()
    for package in ("onnx", "onnxscript", "onnxruntime") if recipe.export.graph else ():
        require(package, package, "export")
