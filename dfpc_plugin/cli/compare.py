"""`dfpc compare`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import DataOptions, say_untrained
from dfpc_plugin.cli.output import STDOUT, OptionError, plotted, print_json, require_targets, say, say_written, send
from dfpc_plugin.comparing import CompareResult, compare
from dfpc_plugin.criteria import AUTO, CRITERIA
from dfpc_plugin.plain_data import Count
from dfpc_plugin.workflow.opening import images_to_calibrate, images_to_validate

_STORED = (".json", ".jsonl")
"""How files of finished cells end: what `save_to` and `json` have written."""
_OF_TABLES = ("model", "csv", "markdown", "plot", "json", "quiet")
"""The options that need finished cells alone."""
_TO_COMPARE = ("criteria", "budgets", "repairs", "seeds", "batch_size", "workers", "ignored_layers", "coupled")
"""The options that are arguments of `compare`."""


@dataclass(frozen=True)
class CompareConfig(DataOptions):
    """Options of `dfpc compare`.

    Attributes:
        model: The directory of a saved model, a timm model, torchvision/NAME, cifar/NAME, package.module:function, or a
            checkpoint that names its architecture. Or a file of finished cells (.jsonl, .json), to show them again.
        criteria: Names of criteria: auto for what prune chooses by itself, taylor, which needs images, package.module:name for
            a criterion of your own, whose code is run, or one of the following.
        budgets: Targets such as macs=0.5 or params=0.3; a number, or a percentage, is the share of the MACs to keep.
        repairs: Repair methods: none, mean, merge, synthetic, or calibrate, which needs images.
        seeds: Seeds of the random criterion and of repairs; figures are averaged over them.
        ignored_layers: Layers whose outputs stay, as names or shell-style patterns.
        coupled: Whether to prune couplings that several layers produce, such as residual streams.
        data: Labelled images to measure accuracy on; without, the error of the model's outputs is measured.
        split: Which part of them to take.
        limit: Take so many of them, evenly over the classes.
        images: Images to calibrate on, whose labels are not used; without data, also those to measure the error on. Of several
            parts, train is taken.
        image_count: How many of them to draw.
        batch_size: Images at a time.
        save_to: The file of finished cells, JSON lines; with it, the same command goes on where it was stopped. By default
            dfpc-compare-MODEL.jsonl in the current directory.
        csv: Write one row per cell as CSV to this file, or to the standard output (-), which then gets nothing else.
        markdown: Write the table as Markdown to this file, or to the standard output (-).
        plot: Draw the figures over the MACs into this file (.png, .svg or .pdf).
        json: Print everything as JSON instead of a table.
        quiet: Print no table, and show no progress.
    """

    criteria: tuple[str, ...] = field(default=(AUTO, "dfpc", "magnitude", "random"), metadata={"choices": CRITERIA})
    budgets: tuple[str, ...] = ("0.9", "0.7", "0.5")
    repairs: tuple[str, ...] = ("none", "merge")
    seeds: tuple[int, ...] = (0,)
    ignored_layers: tuple[str, ...] = ()
    coupled: bool = True
    data: str | None = field(default=None, metadata={"metavar": "SOURCE"})
    split: Literal["train", "val", "test"] = "val"
    limit: Count | None = None
    images: str | None = field(default=None, metadata={"metavar": "SOURCE"})
    image_count: Count = 256
    batch_size: Count = 64
    save_to: Path | None = field(default=None, metadata={"metavar": "FILE"})
    csv: str | None = field(default=None, metadata={"metavar": "FILE"})
    markdown: str | None = field(default=None, metadata={"metavar": "FILE"})
    plot: Path | None = field(default=None, metadata={"metavar": "FILE"})
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.stored:
            default = CompareConfig(model="")
            measuring = (entry.name for entry in fields(self) if entry.name not in _OF_TABLES)
            surplus = next((name for name in measuring if getattr(self, name) != getattr(default, name)), None)
            if surplus is not None:
                raise OptionError(
                    f"'{self.model}' holds a finished comparison, of which all cells are shown; leave out --{surplus}, or "
                    f"name a model to compare on."
                )

    @property
    def store(self) -> Path:
        """The file of finished cells; every model has its own."""
        parts = re.sub(r"[^\w.-]+", "-", Path(self.model).name if Path(self.model).exists() else self.model)
        return self.save_to or Path(f"dfpc-compare-{parts}.jsonl")

    @property
    def stored(self) -> bool:
        """Whether finished cells are to be shown, and no model is compared on."""
        return Path(self.model).suffix.lower() in _STORED


def run(config: CompareConfig, consoles: Consoles) -> int:
    """Compare criteria, budgets, repairs and seeds on one model; go on after a stop, and show a finished file again.

    The exit code is 1 if no cell could be done.
    """
    require_targets(config.csv, config.markdown, plot=config.plot)
    try:
        result = CompareResult.read(config.model) if config.stored else _measured(config, consoles)
    except KeyboardInterrupt:
        say(consoles.err, f"Stopped. Finished cells are in {config.store}; the same command goes on from there.")
        raise
    written = [] if config.stored else [str(config.store)]
    written += send(config.csv, result.to_csv) + send(config.markdown, result.to_markdown)
    written += plotted(config.plot, result.plot)
    if config.json:
        print_json(result.to_json(), consoles.out)
    elif not config.quiet and STDOUT not in (config.csv, config.markdown):
        say(consoles.out, result.text(consoles.out.width))
        say_written(consoles.out, written)
    return 1 if all(cell.error for cell in result.cells) else 0


def _measured(config: CompareConfig, consoles: Consoles) -> CompareResult:
    """Open everything and compare."""
    section = config.section(
        val=config.data, val_split=config.split, limit=config.limit, train=config.images, batch_size=config.batch_size
    )
    with bars(consoles.err, config.quiet) as tell:
        opened = config.opened(None if config.quiet else consoles.err)
        images = None
        if config.images is not None:
            images = images_to_calibrate(section, opened.preprocessing, config.image_count, 0)
        result = compare(
            opened.model,
            opened.inputs,
            **{name: getattr(config, name) for name in _TO_COMPARE},
            data=images_to_validate(section, opened.preprocessing),
            images=images,
            save_to=config.store,
            progress=tell,
        )
    if not config.quiet:
        say_untrained(consoles.err, opened, "figures")
    return result
