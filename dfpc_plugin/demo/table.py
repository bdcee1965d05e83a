"""The demo's result as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dfpc_plugin.demo.result import DemoResult, Figures, Row, Spread

__all__ = ["print_table", "result_table"]

_LEADING = "bold green"
_HEADINGS = ("Channels", "MACs", "Parameters", "Latency (ms)", "Speed-up", "Accuracy (%)", "repaired", "new BN stats")
_FIRST_TO_GO = ("Channels", "Parameters", "Speed-up", "Latency (ms)")


def print_table(result: DemoResult, console: Console) -> None:
    """Print the table and the small print; a narrow console gets fewer columns rather than clipped ones."""
    without = _left_out(result, console)
    console.print(result_table(result, without))
    console.print(_small_print(result, without), style="dim", highlight=False)


def _left_out(result: DemoResult, console: Console) -> tuple[str, ...]:
    """Return the fewest columns without which the table fits, or all that can be pruned."""
    unlimited = console.options.update(max_width=10_000)
    choices = [_FIRST_TO_GO[:count] for count in range(len(_FIRST_TO_GO) + 1)]
    fitting = (
        without
        for without in choices
        if Measurement.get(console, unlimited, result_table(result, without)).maximum <= console.width
    )
    return next(fitting, _FIRST_TO_GO)


def result_table(result: DemoResult, without: tuple[str, ...] = ()) -> Table:
    """Return one row per budget and criterion, the leading accuracies marked.

    Args:
        result: What to show.
        without: Headings of the columns to leave out.
    """
    headings = [name for name in _HEADINGS if name not in without]
    table = Table(box=SIMPLE_HEAD, title="A small ResNet on scanned digits, pruned without fine-tuning")
    table.padding = (0, 1, 0, 0)
    table.add_column("Criterion", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    base = _base_cells(result.base)
    table.add_row("Unpruned", *(base[heading] for heading in headings))
    for budget in dict.fromkeys(row.budget for row in result.rows()):
        table.add_section()
        table.add_row(Text(f"{100 * budget:g} % of MACs", style="italic"))
        for row in result.rows():
            if row.budget == budget:
                cells = _cells(row, result)
                table.add_row(_label(row), *(cells[heading] for heading in headings))
    return table


def _base_cells(base: Figures) -> dict[str, str]:
    values = (
        str(base.channels),
        f"{base.macs / 1e6:.2f} M 100.0%",
        f"{base.parameters / 1e3:.0f} k 100%",
        f"{base.latency_ms:.2f} ± {base.latency_iqr_ms:.2f}",
        "1.00x",
        f"{100 * base.accuracy:.1f}  ",
        f"{100 * base.accuracy_repaired:.1f}  ",
        f"{100 * base.accuracy_reestimated:.1f}  ",
    )
    return dict(zip(_HEADINGS, values, strict=True))


def _label(row: Row) -> str:
    return f"  {row.label}" + (f" x{len(row.cuts)}" if len(row.cuts) > 1 else "")


def _cells(row: Row, result: DemoResult) -> dict[str, str | Text]:
    """Format one row: means, and over several random cuts the standard deviation of the accuracies."""
    base = result.base
    macs = row.spread(lambda figures: figures.macs).mean
    parameters = row.spread(lambda figures: figures.parameters).mean
    latency = row.spread(lambda figures: figures.latency_ms).mean
    iqr = row.spread(lambda figures: figures.latency_iqr_ms).mean
    values = (
        f"{row.spread(lambda figures: figures.channels).mean:.0f}",
        f"{macs / 1e6:.2f} M {macs / base.macs:6.1%}",
        f"{parameters / 1e3:.0f} k {parameters / base.parameters:4.0%}",
        f"{latency:.2f} ± {iqr:.2f}",
        f"{row.spread(lambda figures: figures.speedup).mean:.2f}x",
        _accuracy(row.spread(_bare), row.label in result.leaders(row.budget, _bare)),
        _accuracy(row.spread(_repaired), row.label in result.leaders(row.budget, _repaired)),
        _accuracy(row.spread(_reestimated), row.label in result.leaders(row.budget, _reestimated)),
    )
    return dict(zip(_HEADINGS, values, strict=True))


def _bare(figures: Figures) -> float:
    return figures.accuracy


def _repaired(figures: Figures) -> float:
    return figures.accuracy_repaired


def _reestimated(figures: Figures) -> float:
    return figures.accuracy_reestimated


def _accuracy(spread: Spread, leading: bool) -> Text:
    deviation = f" ± {100 * spread.std:.1f}" if spread.std else ""
    return Text(f"{100 * spread.mean:.1f}{deviation}" + (" *" if leading else "  "), style=_LEADING if leading else "")


def _small_print(result: DemoResult, without: tuple[str, ...]) -> str:
    """Say what stands behind the numbers."""
    lines = [
        f"Accuracy on {result.test_images} test images of the cut alone (no data, BatchNorm untouched); then "
        "repaired, without data too; then, not repaired, with BatchNorm statistics re-estimated on "
        f"{result.batchnorm_images} unlabelled training images.",
        "Each criterion also decides how much every layer loses."
        if result.global_ranking
        else "All layers lose the same share; the criteria only choose the channels.",
        "* best accuracy for its budget, or within one standard error of it. ± after random cuts: their standard "
        "deviation.",
        f"Latency: median ± interquartile range for a batch of {result.batch_size} on {result.threads} CPU thread(s), "
        "all networks measured in turns. MACs are for one image.",
    ]
    if without:
        lines.append(f"Too narrow a terminal for: {', '.join(without).lower()}; all figures are in results.json.")
    return "\n".join(lines)
