"""Models as users hold them: compiled, wrapped for several processes, in TorchScript, exported, or not initialised."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from dfpc_plugin.errors import ModelFormError

__all__ = ["plain_model"]

_PLAIN = (nn.Parameter, torch.Tensor, type(None))
"""Types of tensors with a shape, which most are."""


def plain_model(model: Any, *, inplace: bool = False, scripted: bool = False) -> nn.Module:
    """Return the module whose layers can be followed and cut.

    That is `model` itself, or what `torch.compile` or `DistributedDataParallel` wraps. Results for a wrapped model are
    about the module inside: its names have no prefix, and a pruned copy of it is not wrapped.

    Args:
        model: What the user gave.
        inplace: The model itself will be cut or trained on, which a `DistributedDataParallel` does not notice.
        scripted: TorchScript can be followed, which is so for scores but not for cuts.

    Raises:
        ModelFormError: It cannot be used in this form; the message says what to give.
    """
    if isinstance(model, torch.export.ExportedProgram):
        raise ModelFormError(
            "model is an ExportedProgram, which has no layers; give the module from before torch.export."
        )
    if not isinstance(model, nn.Module):
        raise ModelFormError(f"model is a {type(model).__name__}; give a torch.nn.Module.")
    model = _inside(model, inplace)
    if not scripted and isinstance(model, torch.jit.ScriptModule):
        raise ModelFormError(
            "model is in TorchScript, whose layers cannot be cut; give the module from before torch.jit.script or "
            "torch.jit.trace, and script the pruned one."
        )
    modules = list(model.named_modules())
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for _, module in modules):
        raise ModelFormError(
            "model is sharded by FullyShardedDataParallel, so no process has whole weights; prune the module before it is "
            "sharded."
        )
    if any(_is_exported(module) for _, module in modules if isinstance(module, fx.GraphModule)):
        raise ModelFormError(
            "model is a graph made by torch.export, which calls operators instead of layers; give the module from before "
            "torch.export, and export the pruned one."
        )
    lazy = next(_lazy_layers(modules), None)
    if lazy is not None:
        raise ModelFormError(
            f"The lazy layer '{lazy}' has no weights yet; call the model once on the example inputs, then prune it."
        )
    for path, module in modules:
        for name, tensor in module._parameters.items():
            kind = None if tensor is None else _unusual(tensor)
            if kind is not None:
                raise ModelFormError(
                    f"The parameter '{path}.{name}'".replace("'.", "'")
                    + f" is {kind}, whose channels can be neither scored nor "
                    f"cut; give the model with ordinary tensors of floating-point numbers, and convert the pruned one."
                )
    return model


def _unusual(tensor: torch.Tensor) -> str | None:
    """What is unusual about a tensor that its channels cannot be looked at; None if nothing is."""
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.is_quantized:
        return f"quantised ({tensor.dtype})"
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return str(tensor.dtype)
    return None


def _inside(model: nn.Module, inplace: bool) -> nn.Module:
    """Take off wrappers that only change how a forward is run.

    Raises:
        ModelFormError: The wrapper cannot be taken off.
    """
    while True:
        if _is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            if inplace:
                raise ModelFormError(
                    "model is a DistributedDataParallel, which keeps buffers for gradients of the old widths; give its "
                    ".module, and wrap that again after it is pruned."
                )
            model = model.module
        else:
            return model


def _is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` returned this module; its class is only looked up where it has been imported."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)


def _is_exported(module: fx.GraphModule) -> bool:
    """Whether a module's graph calls operators below torch's Python API."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)


def _lazy_layers(modules: list[tuple[str, nn.Module]]) -> Iterator[str]:
    """Paths of the layers with weights or buffers that have no shape yet."""
    for path, module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and type(tensor) not in _PLAIN and is_lazy(tensor):
                yield path
                break
