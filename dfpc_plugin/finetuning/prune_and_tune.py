"""`prune_and_tune`: cut a little, tune a little, until the target holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from dfpc_plugin.criteria import as_importance
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.finetuning.checkpoints import Checkpoints
from dfpc_plugin.finetuning.course import train_course
from dfpc_plugin.finetuning.cuts import Cut, as_one
from dfpc_plugin.finetuning.cutting import Cutter
from dfpc_plugin.finetuning.goal import Goal
from dfpc_plugin.finetuning.run import Run
from dfpc_plugin.finetuning.schedule import ScheduleSettings
from dfpc_plugin.finetuning.schedule_result import ScheduleResult, iterations_of
from dfpc_plugin.finetuning.setup import finished, run_for
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.layers import layer_shapes, layer_table
from dfpc_plugin.option_names import checks_option_names
from dfpc_plugin.progress import Progress
from dfpc_plugin.pruning import Figures, PruneResult, PruneSettings
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.selection import Target
from dfpc_plugin.wrappers import HoldsModel, plain_model

__all__ = ["prune_and_tune"]


@checks_option_names
def prune_and_tune(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    target: str | Target,
    train: Dataset[tuple[Tensor, int]],
    val: Dataset[tuple[Tensor, int]] | None = None,
    *,
    settings: ScheduleSettings | None = None,
    pruning: PruneSettings | None = None,
    importance: Any = None,
    repair: Any = None,
    images: Any = None,
    forward_fn: ForwardFunction | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> ScheduleResult:
    """Prune a classifier in small steps with training in between, the paper's schedule for those who have the data.

    Args:
        model: The model. It is left as it is.
        example_inputs: As for `prune`.
        target: What is counted: "macs=0.5", "params=0.4", "ratio=0.3". The last cut takes no more than it needs.
        train: A map-style data set of pairs (image, label), such as `open_images` returns, with a transform for training.
        val: The same for evaluation, with a transform for that.
        settings: How much every cut takes, and how to tune; see `ScheduleSettings`. Where they distil, the model as it is
            given is the teacher.
        pruning: What may be pruned, and in which order; `max_ratio` is about all cuts together.
        importance: As for `prune`.
        repair: How to repair the pruned model after every cut, as for `prune`; None to leave that to tuning.
        images: For `repair="calibrate"`.
        forward_fn: As for `prune`.
        checkpoint: A directory to save the run to, as for `finetune`.
        resume: Take up the run that is saved there, as for `finetune`.
        progress: True for bars at once, False for none, or what to call with what is being done and the share of it that is
            done. By default bars after a few seconds, in a terminal or a notebook; `DFPC_PROGRESS=0` silences all calls.

    Raises:
        TargetError: The target makes no sense or cannot be reached.
        FinetuneError: The settings cannot be followed, or the loss is no number any more; the model is as it was.
        CheckpointError: The run cannot be saved, or is not the one that was saved.
        DataError: The images are not for this model.
        DFPCError: As `prune` raises.
    """
    model, example_inputs = plain_model(model), as_inputs(example_inputs)
    settings, wanted = settings or ScheduleSettings(), Goal.parse(target)
    mending, checkpoints = RepairSettings.or_none(repair, images), Checkpoints.at(checkpoint)
    cutter = Cutter(
        example_inputs, pruning or PruneSettings(), as_importance(importance), mending, forward_fn, settings.anchored
    )  # fmt: skip
    # In one go and without repair: an impossible target is better found now than after days.
    planned = dataclasses.replace(cutter, repair=None).prune(model, wanted)
    full, order = Cut.of(planned).before, [layer.layer for layer in planned.layers()]
    criterion = planned.criterion
    del planned  # and the model in it
    what = {
        "kind": "cutting and tuning", "target": str(wanted), "settings": settings.to_json(), **cutter.described(),
        "macs": full.macs, "parameters": full.parameters,
    }  # fmt: skip
    with run_for(
        model, train, val, model if settings.distilled else None, settings.tuning.mixed_precision, what,
        checkpoints, resume, progress,
    ) as run:  # fmt: skip
        cuts = _go(run, cutter, Goal(wanted, full), settings)
        tuned, last = finished(run), settings.final or settings.tuning
        evaluation = run.evaluate(tuned, last.batch_size, last.workers)
        return ScheduleResult(
            tuned, _summary(run, tuned, wanted, full, cuts, order, criterion), settings, iterations_of(cuts, run.state.history),
            tuple(run.state.history), run.state.steps, evaluation, run.seconds,
        )  # fmt: skip


def _go(run: Run, cutter: Cutter, goal: Goal, settings: ScheduleSettings) -> list[Cut]:
    """Cut and tune from where the run is to its end."""
    state, courses = run.state, settings.courses()
    cuts = state.cuts
    with run.phases("pruning and tuning") as tell:
        while True:
            while state.courses < len(courses) * len(cuts):
                train_course(run, courses[state.courses % len(courses)], "tuning", goes_on=True)
            now = cuts[-1].after if cuts else goal.full
            tell(goal.way(now))
            if goal.left(now) is None:
                break
            with run.phases("cutting"):
                cuts.append(cutter.cut(run, goal, settings.share, cuts))
            state.marks = {"cuts": len(cuts), "macs": cuts[-1].after.macs, "parameters": cuts[-1].after.parameters}
            run.save()
        if settings.final is not None and state.courses == len(courses) * len(cuts):
            state.marks = {**state.marks, "final": True}
            run.memory = run.memory if state.step else None
            train_course(run, settings.final, "final tuning")
    return cuts


def _summary(
    run: Run, model: nn.Module, target: Target, full: Figures, cuts: list[Cut], order: list[str], criterion: str
) -> PruneResult:
    """All cuts as the result of one pruning."""
    whole = as_one(cuts)
    notes = (f"Cut in {len(cuts)} steps, with {run.state.steps} steps of training between and after them.",)
    return PruneResult(
        model, target, Goal(target, full).reached(whole.after), whole.before, whole.after, whole.couplings, whole.removed,
        {**run.phases.seconds}, notes, widths=layer_table(layer_shapes(run.given), layer_shapes(model), order),
        criterion=criterion,
    )  # fmt: skip
