"""What can be known of a run before it begins, so that nothing comes to light after hours."""

from __future__ import annotations

from dfpc_plugin.data import checked_workers
from dfpc_plugin.evaluation import probe
from dfpc_plugin.finetuning.batches import Plan
from dfpc_plugin.finetuning.optimiser import build_optimiser
from dfpc_plugin.finetuning.settings import FinetuneSettings
from dfpc_plugin.require import require
from dfpc_plugin.runtimes import runtime_of
from dfpc_plugin.workflow.opening import Opened, images_to_train
from dfpc_plugin.workflow.recipe import Recipe
from dfpc_plugin.workflow.sections import DataSection

__all__ = ["require_packages", "require_trainable"]


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
        Plan.of(len(images), 1, settings)
        build_optimiser(opened.model, settings)
        checked_workers(settings.workers)
