"""Time and peak memory of every repair method, on a timm model pruned to half its MACs.

    python examples/benchmarks/repair_cost.py --model resnet50 --threads 2

Without pretrained weights, the batch norms of the random model get statistics from noise, for synthetic images to
match.
"""

from __future__ import annotations

import resource
import time

import timm
import torch
from jsonargparse import auto_cli
from rich.console import Console
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.repairing.noise import pink_noise


def build(name: str, size: int, pretrained: bool) -> nn.Module:
    """A model; without pretrained weights, its batch norms get statistics from noise."""
    model = timm.create_model(name, pretrained=pretrained)
    if not pretrained:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            model.train()(pink_noise((8, 3, size, size), torch.Generator().manual_seed(9)) * 0.8 + 0.2)
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def main(
    model: str = "resnet50",
    size: int = 224,
    methods: tuple[str, ...] = ("mean", "merge", "synthetic"),
    threads: int = 1,
    pretrained: bool = False,
) -> None:
    """Print seconds, and the peak memory of the process so far.

    Args:
        model: A timm name.
        size: Side of its images in pixels.
        methods: The methods to time, in this order, since peak memory only grows.
        threads: Number of CPU threads.
        pretrained: Load weights.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    console = Console()
    original, example = build(model, size, pretrained), torch.randn(1, 3, size, size)
    start = time.perf_counter()
    cut = dfpc.prune(original, example, "macs=0.5", importance=dfpc.DFPCImportance())
    console.print(f"prune: {time.perf_counter() - start:.1f} s")
    for method in methods:
        start = time.perf_counter()
        result = dfpc.repair(cut.model, original, example, method, removed=cut.removed, progress=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        console.print(f"{method}: {time.perf_counter() - start:.1f} s, {peak:.1f} GiB")
        console.print(str(result))
    if "synthetic" in methods:
        start = time.perf_counter()
        dfpc.prune(original, example, "macs=0.5", repair="synthetic", progress=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        console.print(
            f"prune(repair='synthetic'), ranking included: {time.perf_counter() - start:.1f} s, {peak:.1f} GiB"
        )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
