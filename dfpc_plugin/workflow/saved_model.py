"""Take a saved model up again: repair it, or fine-tune it, and save what comes of it with the record of both."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from torch import nn

from dfpc_plugin.artifact import require_place
from dfpc_plugin.criteria import AUTO
from dfpc_plugin.evaluation import model_device
from dfpc_plugin.finetuning import FinetuneSettings
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.models import build_model, load_weights
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.progress import Progress
from dfpc_plugin.pruning.summary import NOT_REPAIRED
from dfpc_plugin.record import RunRecord
from dfpc_plugin.repairing import METHODS, RepairResult, repair
from dfpc_plugin.repairing.settings import default_method
from dfpc_plugin.workflow.opening import Opened, prepared
from dfpc_plugin.workflow.outputs import write_outputs
from dfpc_plugin.workflow.recipe import yaml_text
from dfpc_plugin.workflow.run_directory import RunDirectory, is_main_process
from dfpc_plugin.workflow.sections import DataSection, ExportSection, RecipeError, RepairSection
from dfpc_plugin.workflow.stages import Stages


def unpruned(opened: Opened, *, weights: Path | None, pretrained: bool, ignore_surplus: bool = False) -> nn.Module:
    """Build the model that a saved one was pruned from; raise a RecipeError if nobody says where its weights are."""
    if weights is None and not pretrained:
        raise RecipeError(
            "The weights of the unpruned model are needed too; give the file they are in as weights, or pretrained for those "
            "of timm or torchvision."
        )
    with generators_kept():
        model = build_model(opened.spec, pretrained=pretrained)
    if weights is not None:
        load_weights(model, weights, ignore_surplus=ignore_surplus)
    return model.to(model_device(opened.model)).eval()


def repair_opened(
    opened: Opened,
    original: nn.Module,
    section: RepairSection,
    data: DataSection,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress,
) -> tuple[RepairResult, dict[str, Any]]:
    """Repair a saved model, and save it anew; return what the repair has done, and the record of it all."""
    start = time.perf_counter()
    require_place(output, overwrite=overwrite)
    method = default_method(data.train is not None) if section.method == AUTO else section.method
    stages = _resumed(opened, data, progress)
    settings = stages.repair_settings(dataclasses.replace(section, method=method), None)
    if settings is None:
        raise RecipeError(
            f"repair.method=none repairs nothing; choose {', '.join(name for name in METHODS if name != 'none')}."
        )
    record, pruning = stages.record, stages.record.prune or {}
    stages.measure("before repair", opened.model)
    result = repair(opened.model, original, opened.inputs, settings, removed=pruning.get("removed"), progress=progress)
    stages.measure("repaired", result.model)
    notes = [note for note in pruning.get("notes", ()) if not note.startswith(NOT_REPAIRED)]
    record.prune = pruning | {"repair": result.to_json(), "notes": notes}
    _add_comment(record, f"then repaired: {section}")
    record.add_seconds("repair", time.perf_counter() - start)
    return result, write_outputs(stages, result.model, output, ExportSection(), overwrite=overwrite)


def finetune_opened(
    opened: Opened,
    settings: FinetuneSettings,
    data: DataSection,
    output: Path,
    *,
    teacher: nn.Module | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Fine-tune a model, saved or not, and save it; return the record. `teacher` is for `settings.distill`."""
    start = time.perf_counter()
    require_place(output, overwrite=overwrite)
    if data.train is None:
        raise RecipeError("Fine-tuning needs images; say where they are in data.train.")
    identity = {"model": opened.spec.to_json(), "finetune": settings.to_json(), "data": data.to_json()}
    place = RunDirectory(output, yaml_text(identity), resume=resume)
    stages = _resumed(opened, data, progress, trains=True)
    stages.require_trainable([settings])
    with place.begun():
        stages.measure("before fine-tuning", opened.model)
        result = stages.tune(opened.model, settings, teacher or opened.model, place.checkpoints, resume=resume)
        record = stages.record
        _add_comment(record, f"then fine-tuned on {data.train}: {settings}")
        record.add_seconds("fine-tuning", time.perf_counter() - start)
        if not is_main_process():
            return record.to_json()
        content = write_outputs(stages, result.model, output, ExportSection(), overwrite=overwrite)
    place.remove()
    return content


def _add_comment(record: RunRecord, text: str) -> None:
    """Note in the recipe what was done after it."""
    comment = f"# {' '.join(text.split())}\n"  # on one line, as a comment is, whatever paths there are
    record.recipe = f"{record.recipe or ''}{comment}"
    record.changes = record.changes and f"{record.changes}{comment}"


def _resumed(opened: Opened, data: DataSection, progress: Progress, *, trains: bool = False) -> Stages:
    """A model to go on with, and what is known of it."""
    record = RunRecord.from_json(opened.record) if opened.record else RunRecord(opened.spec.to_json())
    record.exports = []  # files beside the saved model, which what comes of it does not have
    record.preprocessing = to_plain(prepared(opened.preprocessing, data))
    return Stages(opened, data, record, progress, trains=trains)
