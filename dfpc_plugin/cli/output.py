"""Where a command's results go: files, or the standard output; and what it says of a run."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from dfpc_plugin.advice import setting
from dfpc_plugin.display import number_columns, plain_table, took
from dfpc_plugin.display.figures import require_plottable
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.files import finite, require_writable, write_text
from dfpc_plugin.record import TOTAL
from dfpc_plugin.runtimes import written

STDOUT = "-"


class OptionError(DFPCError, ValueError):
    """Options of a command that make no sense."""


def require_one_stdout(**targets: str | bool | None) -> None:
    """Raise an OptionError if several options write to the standard output: with the value -, or as switches."""
    names = [name for name, target in targets.items() if target is True or target == STDOUT]
    if len(names) > 1:
        several = f"{', '.join(names[:-1])} and {names[-1]}"
        raise OptionError(f"{several} cannot share the standard output; name files for all but one.")


def require_targets(*targets: str | None, plot: Path | None = None) -> None:
    """Raise an OutputError, before any work is done, if one of the files, or the picture, cannot be written."""
    for target in targets:
        if target is not None and target != STDOUT:
            require_writable(Path(target))
    if plot is not None:
        require_plottable(plot)


def send(target: str | None, content: Callable[[], str]) -> list[str]:
    """Write what `content` returns where it was asked for, if it was; return the file's name if it went to a file."""
    if target is None:
        return []
    if target == STDOUT:
        sys.stdout.write(content())
        sys.stdout.flush()
        return []
    write_text(Path(target), content())
    return [target]


def plotted(path: Path | None, draw: Callable[[Path], object]) -> list[str]:
    """Draw a picture where it was asked for, if it was; return the file's name."""
    if path is None:
        return []
    draw(path)
    return [str(path)]


def say(console: Console, *texts: str) -> None:
    """Print texts as they are, which the terminal breaks into lines."""
    for text in texts:
        console.print(Text(text), soft_wrap=True)


def say_written(console: Console, written: Sequence[str]) -> None:
    """Print the names of the files that were written, if there are any."""
    if written:
        say(console, f"Written: {', '.join(written)}")


def print_json(content: Any, console: Console, indent: int | None = None) -> None:
    """Print figures as JSON, which has no NaN and no infinity: they become null."""
    console.file.write(json.dumps(finite(content), indent=indent, allow_nan=False) + "\n")


_SLOWER = 1.05
"""A latency is called larger from this ratio on; less may be noise."""
_NOTICEABLE = 1e-3
"""Differences from here on are more than rounding, and shown in per cent."""


def print_outcome(record: Mapping[str, Any], output: Path, console: Console) -> None:
    """Print accuracy by stage and how exports compare, and where everything is."""
    if record["evaluations"]:
        console.print(_accuracy(record["evaluations"]))
    else:
        say(console, _without_accuracy((record.get("prune") or {}).get("repair")))
    points = [
        f"{point['label']} {point['top1']:.2f} %" for point in record.get("curve", ()) if point["top1"] is not None
    ]
    if points:
        say(console, f"Top-1 along the curve: {', '.join(points)}")
    timed = [export["latency_conditions"] for export in record["exports"] if export.get("latency_conditions")]
    for export in record["exports"]:
        difference, same = export["max_difference"], export["same_predictions"]
        agreement = "" if same is None else f", and {same:.0%} of the samples get the same prediction as in PyTorch"
        ms = export.get("latency_ms") or {}
        times = "".join(f"; {value:.2f} ms in {written(name)}" for name, value in ms.items())
        slower = (
            "; int8 is slower here than float32" if ms.get("int8", 0.0) > _SLOWER * ms.get("float32", math.inf) else ""
        )
        shown = f"{difference:.1e}" if difference < _NOTICEABLE else f"{difference:.1%}"
        said = f"outputs differ by {shown} of the largest{agreement}{times}{slower}"
        say(console, f"{export['path']} ({export['kind']}, {export['bytes'] / 1e6:.1f} MB): {said}")
    if timed:
        say(console, f"Latencies of the files and of PyTorch beside them: measured together, in turns ({timed[0]}).")
    seconds = dict(record.get("seconds") or {})
    total = seconds.pop(TOTAL, None)
    if seconds:
        say(console, took(seconds, total))
    say(console, f"Written: {output} (load it with dfpc_plugin.load_pruned; look at {output / 'report.html'})")


def _without_accuracy(repair: Mapping[str, Any] | None) -> str:
    """How to have accuracy measured, and what there is without: the error of the outputs, if a repair has measured it."""
    said = f"Accuracy was not measured; {setting('val', 'SOURCE')} measures it on labelled images."
    if repair is None or repair["output_error"] is None:
        return said
    return f"{said} The error of the outputs on {repair.get('measured_on', 'held-out images')} is an estimate without labels."


def _accuracy(evaluations: list[Mapping[str, Any]]) -> Table:
    table = plain_table("Accuracy", *number_columns("Top-1", "Top-5", "Loss", "Images"), Column("Of", overflow="fold"))
    for found in evaluations:
        loss = "no number" if found["loss"] is None else f"{found['loss']:.4f}"
        cells = (f"{found['top1']:.2f} %", f"{found['top5']:.2f} %", loss, str(found["count"]))
        table.add_row(found["stage"], *cells, Text(found["data"]))
    return table
