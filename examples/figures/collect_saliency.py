"""Write the data of `saliency.py`: scores of a trained CIFAR ResNet, and the share pruned by them.

python examples/figures/collect_saliency.py --weights resnet56.safetensors
"""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import auto_cli
from saliency import DATA

import dfpc_plugin as dfpc
from dfpc_plugin.files import write_json
from dfpc_plugin.models import build_model, example_inputs, load_weights


def main(
    weights: Path, network: str = "cifar/resnet56", title: str = "ResNet-56 (CIFAR-10)", speedup: float = 1.6
) -> None:
    """Score, prune and write.

    Args:
        weights: Weights of the trained network.
        network: Its name.
        title: Its name in the figure.
        speedup: MACs of the unpruned network over those of the pruned one.
    """
    model = build_model(network)
    load_weights(model, weights)
    result = dfpc.prune(
        model.eval(), example_inputs(model, network), f"macs={1 / speedup}", importance=dfpc.DFPCImportance()
    )
    marks = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    couplings = [
        {
            "name": coupling.name, "layers": list(coupling.layers), "gone": 1 - coupling.after / coupling.before,
            "quantiles": [float(f"{q:.4g}") for q in torch.tensor(coupling.scores, dtype=torch.float64).quantile(marks)],
        }
        for coupling in result.couplings
    ]  # fmt: skip
    write_json(DATA, {
        "title": title, "network": network, "saved": f"{speedup:g}x", "ranking": "expected",
        "command": f"examples/figures/collect_saliency.py --weights {weights.name} --speedup {speedup:g}", "couplings": couplings,
    })  # fmt: skip


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
