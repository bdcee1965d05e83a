"""The two back ends that the sweep compares. Each finds what to prune and returns a pruner with `step()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from dfpc_plugin.inputs import as_call
from dfpc_plugin.tracing.tree import tensors


def with_dfpc(model: nn.Module, inputs: Any, ratio: float) -> Any:
    """This package, without hints about the model."""
    from dfpc_plugin import DFPCPruner

    return DFPCPruner(model, inputs, importance=tp.importance.GroupMagnitudeImportance(), pruning_ratio=ratio)


def with_torch_pruning(model: nn.Module, inputs: Any, ratio: float) -> Any:
    """Plain Torch-Pruning, with hints that can be read off any model: its attention heads and its output layers."""
    heads = {
        module.qkv: module.num_heads
        for module in model.modules()
        if isinstance(getattr(module, "qkv", None), nn.Module) and hasattr(module, "num_heads")
    }
    return tp.pruner.BasePruner(
        model,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=ratio,
        num_heads=heads,
        in_channel_groups={},  # the default is one dict that all pruners share and write to
        out_channel_groups={},
        channel_groups={},
        ignored_layers=list(output_layers(model, inputs)),
    )


BACKENDS: dict[str, Callable[[nn.Module, Any, float], Any]] = {"dfpc": with_dfpc, "torch_pruning": with_torch_pruning}


def findings(pruner: Any) -> dict[str, Any]:
    """What this package's pruner found: the prunable shares, and the protected couplings with reasons."""
    return {
        "couplings": len(pruner.couplings),
        "protected": [
            {"name": coupling.name, "reason": coupling.protected, "channels": coupling.channels}
            for coupling in pruner.couplings
            if coupling.protected
        ],
        **prunable_share(pruner),
    }


def prunable_share(pruner: Any) -> dict[str, float]:
    """Shares, from 0 to 1, of MACs and of parameters in couplings that can be pruned."""
    return {
        "prunable_macs": float(pruner.graph.prunable_macs),
        "prunable_parameters": float(pruner.graph.prunable_parameters),
    }


def output_layers(model: nn.Module, inputs: Any) -> set[nn.Module]:
    """The layers that produce the model's outputs; their channels are classes and the like.

    They are the first layers on the way back from the outputs through autograd's graph.
    """
    args, kwargs = as_call(inputs)
    owners = {
        id(parameter): module
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        for parameter in module.parameters(recurse=False)
    }
    waiting = [t.grad_fn for t in tensors(model(*args, **kwargs)) if t.grad_fn is not None]
    seen, found = set(waiting), set[nn.Module]()
    while waiting:
        node = waiting.pop()
        layers = {owners[id(p)] for p in _leaves(node) if id(p) in owners}
        found |= layers
        if not layers:
            following = {n for n, _ in node.next_functions if n is not None} - seen
            seen |= following
            waiting += following
    return found


def _leaves(node: Any) -> Iterator[Tensor]:
    """Parameters that the operator reads, also through the transposition or reshaping of a weight."""
    for source, _ in node.next_functions:
        while source is not None and len(source.next_functions) == 1 and not hasattr(source, "variable"):
            source = source.next_functions[0][0]
        if hasattr(source, "variable"):
            yield source.variable
