"""Follow a recipe from a model to a directory with a smaller one, and all that is known of it."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dfpc_plugin.advice import setting
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.artifact import load_pruned, read_manifest, require_place, save_pruned
from dfpc_plugin.criteria import AUTO
from dfpc_plugin.display import Shown, as_html
from dfpc_plugin.errors import RepairError
from dfpc_plugin.finetuning import ScheduleResult, ScheduleSettings, prune_and_tune
from dfpc_plugin.layers import weight_bytes
from dfpc_plugin.models import build_model
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.progress import Progress, shown
from dfpc_plugin.pruning import PruneResult, PruneSettings, prune
from dfpc_plugin.pruning.summary import NOT_REPAIRED
from dfpc_plugin.record import TOTAL, Point, RunRecord
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.report.notebook import record_view
from dfpc_plugin.selection import Target
from dfpc_plugin.workflow.opening import Opened, device_of, images_to_train, is_checkpoint, open_model, prepared
from dfpc_plugin.workflow.outputs import require_images, write_outputs
from dfpc_plugin.workflow.recipe import Recipe, changes_text, recipe_text
from dfpc_plugin.workflow.run_directory import RunDirectory, is_main_process
from dfpc_plugin.workflow.sections import ExportSection
from dfpc_plugin.workflow.stages import Stages, require_packages
from dfpc_plugin.wrappers import HoldsModel


@dataclass(frozen=True, repr=False)
class Outcome(HoldsModel, Shown):
    """What came of a run.

    Attributes:
        directory: Where everything is.
        model: The smaller model.
        record: What was asked for, done and found, as JSON.
        pruning: What pruning did, for its table; None where that was done before the run was interrupted.
        notes: What was inferred from the checkpoint, in sentences.
    """

    directory: Path
    model: nn.Module
    record: dict[str, Any]
    pruning: PruneResult | None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Where it is, and what pruning did."""
        done = "pruned before the run was interrupted" if self.pruning is None else repr(self.pruning)
        return f"Outcome in {self.directory}: {done}"


@checks_arguments
def follow_recipe(
    recipe: Recipe,
    output: Path | str,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> Outcome:
    """Do what a recipe says, and write the artifact with its report, recipe and exports in one step.

    What can be checked is checked before anything takes long. A run that takes long keeps what it has done in a directory
    beside the output, and `resume` goes on from there.

    Args:
        recipe: What to do.
        output: The directory to make.
        overwrite: Replace an artifact that is there.
        resume: Go on with a run that was interrupted, if there is one.
        progress: As for `prune`.

    Raises:
        DFPCError: As every stage raises; nothing is written then but what is kept to resume.
    """
    with shown(progress) as tell:
        return _RecipeRun(recipe, Path(output), resume, tell or (lambda name, share: None), overwrite).outcome()


@as_html.register
def _(outcome: Outcome) -> str | None:
    return record_view(outcome.record)


class _RecipeRun:
    """One recipe on its way."""

    def __init__(self, recipe: Recipe, output: Path, resume: bool, tell: Progress, overwrite: bool) -> None:
        """Open everything, so that what is missing is found now rather than after an hour."""
        self._start = time.perf_counter()
        self.recipe, self.output, self._resume, self._overwrite = recipe, output, resume, overwrite
        require_place(output, overwrite=overwrite)
        require_packages(recipe)
        text = recipe_text(recipe)
        same = recipe_text(dataclasses.replace(recipe, export=ExportSection()))  # exports may change on the way
        self.place = RunDirectory(output, same, resume=resume)
        self.opened = open_model(recipe.model, device_of(recipe.device), recipe.seed)
        self.stages = Stages(self.opened, recipe.data, _begun(recipe, self.opened, text), tell, trains=recipe.tunes)
        if recipe.data.train is not None:
            images_to_train(recipe.data, self.opened.preprocessing)
        if recipe.tunes:
            self.stages.require_trainable(recipe.courses)
        require_images(recipe.export, recipe.data, self.opened.model)

    def outcome(self) -> Outcome:
        """Do what the recipe says, and write everything."""
        recipe, stages = self.recipe, self.stages
        with self.place.begun() if recipe.takes_long else nullcontext():
            model, pruning = self.pruned()
            if recipe.finetune is not None:
                result = stages.tune(
                    model, recipe.finetune, self.opened.model, self.place.checkpoints, resume=self._resume
                )
                model, stages.record.seconds["fine-tuning"] = result.model, result.seconds
            stages.record.sizes = {"before": weight_bytes(self.opened.model), "after": weight_bytes(model)}
            stages.record.seconds[TOTAL] = time.perf_counter() - self._start
            if not is_main_process():
                return Outcome(self.output, model, stages.record.to_json(), pruning, self.opened.notes)
            content = write_outputs(
                stages, model, self.output, recipe.export, overwrite=self._overwrite, latency=recipe.latency
            )
        self.place.remove()
        return Outcome(self.output, model, content, pruning, self.opened.notes)

    def pruned(self) -> tuple[nn.Module, PruneResult | None]:
        """Prune and repair, or take what was pruned before an interruption."""
        if self.place.cut.is_dir():
            return self._taken_up(), None
        self.stages.measure("before", self.opened.model)
        model, result = self._cut()
        if self.recipe.finetune is not None and is_main_process():
            spec, inputs, record = self.opened.spec, self.opened.inputs, self.stages.record.to_json()
            save_pruned(model, self.place.cut, model=spec, example_inputs=inputs, record=record)
        return model, result

    def _cut(self) -> tuple[nn.Module, PruneResult]:
        """At once or in turns with tuning, as the recipe says; with what accuracy is left."""
        recipe, section = self.recipe, self.recipe.repair
        checkpoint = self.place.repair if recipe.takes_long and recipe.schedule is None else None
        repair, record = self.stages.repair_settings(section, checkpoint), self.stages.record
        if recipe.schedule is None:
            result = self._prune_and_repair(repair)
            repair = None if result.repair is None else repair
            model, stage = result.model, "pruned" if repair is None else "repaired"
        else:
            tuned = self._prune_and_tune(recipe.schedule, repair)
            model, result, stage = tuned.model, tuned.pruning, "pruned and tuned"
            record.finetune = {key: value for key, value in tuned.to_json().items() if key != "pruning"}
        record.add_pruning(result.to_json() | {"notes": [*self.opened.notes, *result.notes]})
        if self.stages.images is not None:
            before, latency = result.before, result.before.latency
            milliseconds = None if latency is None else 1e3 * latency.median
            top1 = record.evaluations[-1]["top1"]
            record.add_point(Point("before", before.macs, before.parameters, top1, milliseconds))
            self.stages.measure(stage, model)
            self._add_curve(repair)
        return model, result

    def _prune(self, repair: RepairSettings | None, target: str | None = None) -> PruneResult:
        """Prune to the target of the recipe, or in the same way to another, for which latency is not measured."""
        recipe, asked = self.recipe, Target.parse(target or self.recipe.target)
        return prune(
            self.opened.model,
            self.opened.inputs,
            asked,
            importance=recipe.prune.importance,
            evaluate=None if asked.max_drop is None else lambda model: self.stages.evaluate(model).top1,
            repair=repair,
            latency=recipe.latency if target is None else None,
            progress=self.stages.tell,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        """What else `prune` is told."""
        return {entry.name: getattr(self.recipe.prune, entry.name) for entry in dataclasses.fields(PruneSettings)}

    def _prune_and_repair(self, repair: RepairSettings | None) -> PruneResult:
        """Prune and repair; a repair that the recipe does not ask for may be impossible, and then the result has a note."""
        try:
            result = self._prune(repair)
            if self.opened.trained or self.recipe.repair.method != AUTO:
                return result
            random = (
                f"{NOT_REPAIRED}, as its weights are random; load trained ones by {setting('model.pretrained', True)} or "
                f"{setting('model.weights', 'FILE')}."
            )
            notes = tuple(random if note.startswith(NOT_REPAIRED) else note for note in result.notes)
            return dataclasses.replace(result, notes=notes)
        except RepairError as error:
            if self.recipe.repair.method != AUTO:
                raise
            result = self._prune(None)
            note = f"The repair merge, which is the default, cannot repair this model: {error}"
            return dataclasses.replace(result, notes=(*result.notes, note))

    def _prune_and_tune(self, schedule: ScheduleSettings, repair: RepairSettings | None) -> ScheduleResult:
        """Prune in turns with tuning."""
        return prune_and_tune(
            self.opened.model,
            self.opened.inputs,
            self.recipe.target,
            images_to_train(self.recipe.data, self.opened.preprocessing),
            self.stages.images,
            settings=schedule,
            pruning=PruneSettings(**self._options()),
            importance=self.recipe.prune.importance,
            repair=repair,
            checkpoint=self.place.checkpoints,
            resume=self._resume,
            progress=self.stages.tell,
        )

    def _add_curve(self, repair: RepairSettings | None) -> None:
        """Prune to every share of the recipe's curve, and note cost and accuracy."""
        settings = None if repair is None else dataclasses.replace(repair, checkpoint=None)
        for number, share in enumerate(self.recipe.curve):
            self.stages.tell("curve", number / len(self.recipe.curve))
            result = self._prune(settings, f"macs={share}")
            top1, figures = self.stages.evaluate(result.model).top1, result.after
            self.stages.record.add_point(Point(f"macs={share:g}", figures.macs, figures.parameters, top1))

    def _taken_up(self) -> nn.Module:
        """The pruned model of a run that was interrupted, with its record."""
        known = RunRecord.from_json(read_manifest(self.place.cut).record or {})
        mine = self.stages.record
        self.stages.record = dataclasses.replace(known, recipe=mine.recipe, changes=mine.changes)
        spec, device = self.opened.spec, device_of(self.recipe.device)
        return load_pruned(
            self.place.cut, factory=(lambda: build_model(spec)) if spec.own_code else None, device=device
        )


def _begun(recipe: Recipe, opened: Opened, text: str) -> RunRecord:
    """The record of a run before anything is done."""
    section = recipe.model
    weights = Path(section.name) if is_checkpoint(section.name) else section.weights
    model = opened.spec.to_json() | {
        "weights": None if weights is None else weights.name,
        "pretrained": section.pretrained,
        "size": section.size,
    }
    preprocessing = to_plain(prepared(opened.preprocessing, recipe.data))
    return RunRecord(model, recipe=text, changes=changes_text(recipe), preprocessing=preprocessing)
