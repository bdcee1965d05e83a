"""The pruned networks that the demo leaves behind: weights as safetensors, the rest as JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import nn

from dfpc_plugin.demo.network import ARCHITECTURE
from dfpc_plugin.demo.result import CutResult
from dfpc_plugin.files import write_json, write_tensors

__all__ = ["write_network"]


def write_network(model: nn.Module, cut: CutResult, base_widths: dict[str, int], directory: Path) -> dict[str, Path]:
    """Write `model` and what is known about it, named after the criterion and the budget.

    `dfpc_plugin.demo.network.load_network(path)` reads the weights back.
    """
    stem = f"{cut.criterion}-{cut.budget:g}"
    state = model.state_dict()
    description = {
        "network": {"class": "timm.models.resnet.ResNet", "block": "BasicBlock", "arguments": ARCHITECTURE},
        "criterion": cut.criterion,
        "macs_budget": cut.budget,
        "pruning_ratio": cut.pruning_ratio,
        "channels": {name: {"kept": kept, "of": base_widths[name]} for name, kept in cut.widths.items()},
        "shapes": {name: list(tensor.shape) for name, tensor in state.items()},
        "figures": dataclasses.asdict(cut.figures),
    }
    return {
        f"{stem} weights": write_tensors(
            directory / f"{stem}.safetensors", state, {"description": f"see {stem}.json beside this file"}
        ),
        f"{stem} description": write_json(directory / f"{stem}.json", description),
    }
