"""Whether a model pruned to a speed-up reaches it in a second measurement beside the original.

    python examples/benchmarks/latency_targets.py
    python examples/benchmarks/latency_targets.py --models "[resnet50]" --speedups "[1.5]" --batch_size 8

Do not use the machine meanwhile. The last measurement is independent of the one in `prune`.
"""

from __future__ import annotations

import time

import timm
import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

import dfpc_plugin as dfpc


def main(
    models: tuple[str, ...] = ("resnet50", "mobilenetv2_100", "convnext_tiny"),
    speedups: tuple[float, ...] = (1.2, 1.5, 2.0),
    threads: int = 1,
    batch_size: int = 1,
    min_run_time: float = 2.0,
    seed: int = 0,
) -> None:
    """Prune every model to every speed-up, measure again, and print both."""
    torch.manual_seed(seed)
    console = Console()
    table = Table(title=f"Speed-ups, {threads} threads, batch {batch_size}", title_justify="left")
    for column in ("model", "asked for", "reached", "measured again", "spread", "MACs left", "seconds"):
        table.add_column(column, justify="right" if column != "model" else "left")
    settings = dfpc.LatencySettings(threads=threads, batch_size=batch_size, min_run_time=min_run_time)
    for name in models:
        model = timm.create_model(name).eval()
        x = torch.randn(1, *model.pretrained_cfg["input_size"])
        for speedup in speedups:
            with console.status(f"{name} to {speedup}x") as status:
                start = time.perf_counter()
                result = dfpc.prune(
                    model,
                    x,
                    dfpc.Target(speedup=speedup),
                    latency=settings,
                    progress=lambda what, share: status.update(f"{name} to {speedup}x: {what} {share:.0%}"),  # noqa: B023
                )
                seconds = time.perf_counter() - start
                again = settings.measure({"before": model, "after": result.model}, x)
            measured = again["after"].speedup_over(again["before"])
            spread = max(latency.noise for latency in again.values())
            table.add_row(
                name,
                f"{speedup:.2f}x",
                f"{result.speedup:.2f}x",
                f"{measured:.2f}x",
                f"{spread:.0%}",
                f"{result.after.macs / result.before.macs:.0%}",
                f"{seconds:.0f}",
            )
    console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
