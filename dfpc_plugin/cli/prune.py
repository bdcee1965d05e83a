"""`dfpc prune`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.output import print_json, print_outcome, say
from dfpc_plugin.workflow import Recipe, follow_recipe
from dfpc_plugin.workflow.outputs import LAYERS
from dfpc_plugin.workflow.run_directory import is_main_process

_LAYERS_SHOWN = 40
"""Layers up to which the table has all of them."""


@dataclass(frozen=True)
class PruneConfig(Recipe):
    """Options of `dfpc prune`.

    Attributes:
        output: The directory to make, with the model, its report, the widths of its layers and the resolved recipe.
        overwrite: Replace an artifact that is there.
        resume: Go on with a run that was interrupted.
        json: Print the record as JSON instead of tables.
        quiet: Print nothing, and show no progress.
    """

    output: Path = field(default=Path("dfpc-pruned"), metadata={"metavar": "DIR"})
    overwrite: bool = False
    resume: bool = False
    json: bool = False
    quiet: bool = False

    @property
    def recipe(self) -> Recipe:
        """What to do, without where to write it."""
        return Recipe(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Recipe)})


def run(config: PruneConfig, consoles: Consoles) -> None:
    """Prune a model to a budget, repair and fine-tune it if asked for, and save it with a report: a recipe from end to end."""
    with bars(consoles.err, config.quiet or not is_main_process()) as tell:
        outcome = follow_recipe(
            config.recipe, config.output, overwrite=config.overwrite, resume=config.resume, progress=tell
        )
    if not is_main_process():
        return
    if not config.quiet:
        say(consoles.err, *outcome.notes)
    if config.json:
        print_json(outcome.record, consoles.out)
    elif not config.quiet:
        if outcome.pruning is not None:
            rest = f"'{config.output / LAYERS}'"
            say(
                consoles.out,
                outcome.pruning.text(consoles.out.width, upto=_LAYERS_SHOWN, rest=rest, with_seconds=False),
            )
        print_outcome(outcome.record, config.output, consoles.out)
