"""Recipes: what is to be done to a model, as YAML, command line options or Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import yaml

from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.finetuning.cuts import Goal
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.plain_data import Checked, Seed, to_plain, within
from dfpc_plugin.selection import BUDGETS, Target
from dfpc_plugin.workflow.sections import (
    DataSection,
    ExportSection,
    ModelSection,
    PruneSection,
    RecipeError,
    RepairSection,
)


@dataclass(frozen=True)
class Recipe(Checked, error=RecipeError):
    """All steps from a model to a smaller one.

    Attributes:
        model: The model.
        target: The target, such as "macs=0.5" or "speedup=1.5, max_drop=2".
        data: Labelled images, if they are needed.
        prune: Which channels to prune.
        repair: How to repair the pruned model.
        finetune: How to fine-tune afterwards; leave it out for no fine-tuning.
        schedule: Iterative pruning and fine-tuning; leave it out to prune once.
        latency: How to measure latency; if left out, latency is measured only for targets in latency.
        curve: Further shares of the MACs at which to prune, repair and measure accuracy.
        export: Exports to write in addition to the saved model.
        seed: Random seed.
        device: Device: cpu, cuda, or auto for a GPU if there is one.
    """

    model: ModelSection
    target: str = field(default="macs=0.5", metadata={"choices": BUDGETS})
    data: DataSection = field(default_factory=DataSection)
    prune: PruneSection = field(default_factory=PruneSection)
    repair: RepairSection = field(default_factory=RepairSection)
    finetune: FinetuneSettings | None = None
    schedule: ScheduleSettings | None = None
    latency: LatencySettings | None = None
    curve: tuple[Annotated[float, within(above=0, below=1, hint="give 0.8, say")], ...] = ()
    export: ExportSection = field(default_factory=ExportSection)
    seed: Seed = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check that sections go together."""
        super().__post_init__()
        target = Goal.parse(self.target) if self.schedule is not None else Target.parse(self.target)
        needs = {
            "max_drop in the target": (target.max_drop is not None, "val"),
            "a curve": (bool(self.curve), "val"),
            f"repair.method={self.repair.method}": (self.repair.how.images == "given", "train"),
            "fine-tuning": (self.finetune is not None or self.schedule is not None, "train"),
        }
        for what, (needed, part) in needs.items():
            if needed and getattr(self.data, part) is None:
                raise RecipeError(f"{what} needs images; say where they are in data.{part}.")
        if self.schedule is not None and (self.curve or self.finetune is not None):
            raise RecipeError(
                "schedule has its own final tuning, and a curve is of cuts made at once; leave out one or the other."
            )
        if self.schedule is not None and self.latency is not None:
            raise RecipeError(
                "latency is measured where cuts are made at once; leave out schedule, and use dfpc bench afterwards."
            )

    @property
    def tunes(self) -> bool:
        """Whether it trains."""
        return self.finetune is not None or self.schedule is not None

    @property
    def courses(self) -> list[FinetuneSettings]:
        """How it trains, course by course."""
        of_schedule = [] if self.schedule is None else [*self.schedule.courses(), self.schedule.final]
        return [settings for settings in (self.finetune, *of_schedule) if settings is not None]

    @property
    def takes_long(self) -> bool:
        """Whether an interruption would be a pity."""
        return self.tunes or self.repair.how.by_images


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML with every value written out, which reads back as the same recipe."""
    return yaml_text(recipe.to_json())


def changes_text(recipe: Recipe) -> str:
    """Return what of a recipe differs from the defaults, and its model and target, as YAML."""
    usual = Recipe(ModelSection(""))
    return yaml_text({"target": recipe.target, **_changes(recipe, usual)})


def _changes(settings: Any, usual: Any) -> dict[str, Any]:
    """Settings that are not as `usual`, in their sections; of a section that is usually left out, what is not its default."""
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value, default = getattr(settings, entry.name), getattr(usual, entry.name)
        if value == default:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[entry.name] = _changes(value, type(value)() if default is None else default)
        else:
            found[entry.name] = value
    return found


def yaml_text(content: Mapping[str, Any]) -> str:
    """Return settings as YAML, in their order."""
    return yaml.safe_dump(to_plain(content), sort_keys=False, allow_unicode=True, width=100)
