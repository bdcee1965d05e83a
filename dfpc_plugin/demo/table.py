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
_HEADINGS = ("Channels", "MACs", "Parameters", "Latency (ms)", "Speed-up", "Accuracy (%)", "new BN stats")
_ONLY_IF_WIDE = ("Channels", "Parameters", "Speed-up")


def print_table(result: DemoResult, console: Console) -> None:
    """Print the table and the small print; a narrow console gets fewer columns rather than clipped ones."""
    unlimited = console.options.update(max_width=10_000)
    complete = Measurement.get(console, unlimited, result_table(result)).maximum <= console.width
    console.print(result_table(result, complete))
    console.print(_small_print(result, complete), style="dim", highlight=False)


def result_table(result: DemoResult, complete: bool = True) -> Table:
    """Return one row per budget and criterion, the leading accuracies marked.

    Args:
        result: What to show.
        complete: Whether to show all columns.
    """
    headings = [name for name in _HEADINGS if complete or name not in _ONLY_IF_WIDE]
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
        _accuracy(row.spread(_reestimated), row.label in result.leaders(row.budget, _reestimated)),
    )
    return dict(zip(_HEADINGS, values, strict=True))


def _bare(figures: Figures) -> float:
    return figures.accuracy


def _reestimated(figures: Figures) -> float:
    return figures.accuracy_reestimated


def _accuracy(spread: Spread, leading: bool) -> Text:
    deviation = f" ± {100 * spread.std:.1f}" if spread.std else ""
    return Text(
        f"{100 * spread.mean:.1f}{deviation}" + (" *" if leading else "  "), style=_LEADING if leading else ""
    )


def _small_print(result: DemoResult, complete: bool) -> str:
    """Say what stands behind the numbers."""
    lines = [
        f"Accuracy on {result.test_images} test images of the cut alone (no data, BatchNorm untouched); then with "
        f"BatchNorm statistics re-estimated on {result.batchnorm_images} unlabelled training images.",
        "Each criterion also decides how much every layer loses."
        if result.global_ranking
        else "All layers lose the same share; the criteria only choose the channels.",
        "* best accuracy for its budget, or within one standard error of it. ± after random cuts: their standard "
        "deviation.",
        f"Latency: median ± interquartile range for a batch of {result.batch_size} on {result.threads} CPU thread(s), "
        "all networks measured in turns. MACs are for one image.",
    ]
    if not complete:
        lines.append(
            f"Too narrow a terminal for: {', '.join(_ONLY_IF_WIDE).lower()}; they are in results.json."
        )
    return "\n".join(lines)
