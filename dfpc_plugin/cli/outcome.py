"""What came of a run, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfpc_plugin.runtimes import written

__all__ = ["print_outcome"]


def print_outcome(record: Mapping[str, Any], output: Path, console: Console) -> None:
    """Print accuracy by stage and how exports compare, and where everything is."""
    if record["evaluations"]:
        console.print(_accuracy(record["evaluations"]))
    else:
        console.print(Text("Accuracy was not measured: --data.val says where labelled images are."), soft_wrap=True)
    for export in record["exports"]:
        difference, same = export["max_difference"], export["same_predictions"]
        agreement = "" if same is None else f", and {same:.0%} of the samples get the same prediction as in PyTorch"
        took = export.get("latency_ms") or {}
        times = "".join(f"; {ms:.2f} ms in {written(k)}" for k, ms in took.items())
        said = f"outputs differ by {difference:.1e} of the largest{agreement}{times}"
        console.print(
            Text(f"{export['path']} ({export['kind']}, {export['bytes'] / 1e6:.1f} MB): {said}"), soft_wrap=True
        )
    console.print(
        Text(f"Written: {output} (load it with dfpc_plugin.load_pruned; look at {output / 'report.html'})"),
        soft_wrap=True,
    )


def _accuracy(evaluations: list[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Accuracy")
    for heading in ("Top-1", "Top-5", "Loss", "Images"):
        table.add_column(heading, justify="right")
    table.add_column("Of", overflow="fold")
    for found in evaluations:
        loss = "no number" if found["loss"] is None else f"{found['loss']:.4f}"
        figures = (f"{found['top1']:.2f} %", f"{found['top5']:.2f} %", loss, str(found["count"]))
        table.add_row(found["stage"], *figures, Text(found["data"]))
    return table
