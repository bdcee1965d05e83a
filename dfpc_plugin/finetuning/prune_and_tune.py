"""`prune_and_tune`: cut a little, tune a little, until the target holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.criteria import as_importance
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.finetuning.checkpoints import Checkpoints
from dfpc_plugin.finetuning.course import train_course
from dfpc_plugin.finetuning.cuts import Cut, Goal, as_one
from dfpc_plugin.finetuning.cutter import Cutter
from dfpc_plugin.finetuning.result import ScheduleResult, iterations_of
from dfpc_plugin.finetuning.run import Run, run_for
from dfpc_plugin.finetuning.settings import ScheduleSettings
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.layers import layer_shapes, layer_table
from dfpc_plugin.progress import Progress
from dfpc_plugin.pruning import PruneResult, PruneSettings
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.selection import Target
from dfpc_plugin.wrappers import HoldsModel, plain_model


@checks_arguments
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
        settings: How much every cut takes, and how to tune. Where they distil, the model as it is given is the teacher.
        pruning: What may be pruned, and in which order; `max_ratio` is about all cuts together.
        importance: As for `prune`.
        repair: How to repair the pruned model after every cut, as for `prune`; None to leave that to tuning.
        images: For `repair="calibrate"`.
        forward_fn: As for `prune`.
        checkpoint: A directory to save the run to, as for `finetune`.
        resume: Take up the run that is saved there, as for `finetune`.
        progress: As for `prune`.

    Raises:
        TargetError: The target makes no sense or cannot be reached.
        DFPCError: As `prune` and `finetune` raise; the model is as it was.
    """
    model, example_inputs = plain_model(model), as_inputs(example_inputs)
    settings, wanted = settings or ScheduleSettings(), Goal.parse(target)
    repairing, checkpoints = RepairSettings.or_none(repair, images), Checkpoints.at(checkpoint)
    pruning, teacher = pruning or PruneSettings(), model if settings.distilled else None
    cutter = Cutter(example_inputs, pruning, as_importance(importance), repairing, forward_fn, settings.anchored)
    # in one go and without repair: an impossible target is better found now than after days
    planned = dataclasses.replace(cutter, repair=None).prune(model, wanted)
    goal = Goal(wanted, Cut.of(planned).before)
    what = {
        "kind": "cutting and tuning",
        "target": str(wanted),
        "macs": goal.full.macs,
        "parameters": goal.full.parameters,
        "settings": settings.to_json(),
        **cutter.described(),
    }
    precision = settings.tuning.mixed_precision
    with run_for(model, train, val, teacher, precision, what, checkpoints, resume, progress) as run:
        cuts = _go(run, cutter, goal, settings)
        return _result(run, planned, cuts, goal, settings)


def _result(run: Run, planned: PruneResult, cuts: list[Cut], goal: Goal, settings: ScheduleSettings) -> ScheduleResult:
    """What a run has come to; `planned` is the result of the same target in one cut."""
    (tuned, evaluation), state = run.finished(settings.final or settings.tuning), run.state
    whole, order = as_one(cuts), [layer.layer for layer in planned.layers()]
    pruned = dataclasses.replace(
        planned, model=tuned, reached=goal.reached(whole.after), after=whole.after, couplings=whole.couplings,
        removed=whole.removed, seconds={**run.phases.seconds}, protected=(),
        notes=(f"Cut in {len(cuts)} steps, with {state.steps} steps of training between and after them.",),
        widths=layer_table(layer_shapes(run.given), layer_shapes(tuned), order),
    )  # fmt: skip
    history = tuple(state.history)
    return ScheduleResult(
        tuned, pruned, settings, iterations_of(cuts, state.history), history, state.steps, evaluation, run.seconds
    )


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
