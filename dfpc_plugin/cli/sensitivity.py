"""`dfpc sensitivity`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import DataOptions, say_untrained
from dfpc_plugin.cli.output import STDOUT, plotted, print_json, require_targets, say, say_written, send
from dfpc_plugin.comparing import sensitivity
from dfpc_plugin.plain_data import Count, Seed
from dfpc_plugin.workflow.opening import images_to_calibrate


@dataclass(frozen=True)
class SensitivityConfig(DataOptions):
    """Options of `dfpc sensitivity`.

    Attributes:
        shares: Shares of a coupling's channels to remove, each from 0 to below 1.
        ignored_layers: Leave out the couplings that these layers produce: names, or shell-style patterns.
        images: Images to measure the error on, too, whose labels are not used.
        split: Which part of them to take; by default train, or the only one there is.
        image_count: How many of them to draw.
        seed: Seed of the noise and of the draw.
        csv: Write one row per coupling and share as CSV to this file, or to the standard output (-), which then gets nothing
            else.
        plot: Draw the errors into this file (.png, .svg or .pdf).
        json: Print everything as JSON instead of a table.
        quiet: Print no table, and show no progress.
    """

    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    ignored_layers: tuple[str, ...] = ()
    images: str | None = field(default=None, metadata={"metavar": "SOURCE"})
    split: Literal["train", "val", "test"] | None = None
    image_count: Count = 64
    seed: Seed = 0
    csv: str | None = field(default=None, metadata={"metavar": "FILE"})
    plot: Path | None = field(default=None, metadata={"metavar": "FILE"})
    json: bool = False
    quiet: bool = False


def run(config: SensitivityConfig, consoles: Consoles) -> None:
    """Show how the error of the outputs grows with the share of channels that each coupling loses."""
    require_targets(config.csv, plot=config.plot)
    with bars(consoles.err, config.quiet) as tell:
        opened = config.opened(None if config.quiet else consoles.err)
        images = None
        if config.images is not None:
            section = config.section(train=config.images, train_split=config.split)
            images = images_to_calibrate(section, opened.preprocessing, config.image_count, config.seed)
        result = sensitivity(
            opened.model, opened.inputs, shares=config.shares, images=images, ignored_layers=config.ignored_layers,
            seed=config.seed, progress=tell,
        )  # fmt: skip
    if not config.quiet:
        say_untrained(consoles.err, opened, "errors")
    written = send(config.csv, result.to_csv) + plotted(config.plot, result.plot)
    if config.json:
        print_json(result.to_json(), consoles.out)
    elif not config.quiet and config.csv != STDOUT:
        say(consoles.out, result.text(consoles.out.width))
        say_written(consoles.out, written)
