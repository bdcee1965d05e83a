"""Unwrap models: from results, `torch.compile` and `DistributedDataParallel`; refuse other forms."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from dfpc_plugin.errors import ModelFormError
from dfpc_plugin.files import is_directory, is_file


class HoldsModel:
    """A result that is accepted in place of its `model`."""

    model: nn.Module


def as_model(value: Any, name: str = "model") -> nn.Module:
    """Return the model that a user means by the argument `name`: a module, or the model of a result of `prune`, for example.

    Raises ModelFormError for anything else; the message says how to get a model.
    """
    if isinstance(value, HoldsModel):
        value = value.model
    if isinstance(value, nn.Module):
        return value
    described = next((say(value) for kinds, say in _NO_MODELS if isinstance(value, kinds)), None)
    kind = "None" if value is None else f"a {type(value).__name__}"
    described = described or f"{kind}; give a torch.nn.Module, such as build_model('resnet50') returns"
    raise ModelFormError(f"{name} is {described}.")


def _text(value: str | Path) -> str:
    if is_directory(value):
        return f"the path '{value}'; load the model first: load_pruned('{value}')"
    if is_file(value):
        return f"the path '{value}'; build the model first: build_model(NAME, weights='{value}')"
    return (
        f"the text '{value}'; build the model first: build_model('{value}', pretrained=True), or without pretrained for random "
        f"weights"
    )


def _mapping(value: Mapping[Any, Any]) -> str | None:
    """Describe a state dict given in place of a model; None for other mappings."""
    if any(isinstance(entry, torch.Tensor) for entry in value.values()):
        return "a state_dict, which is weights without a model; build the model, and call its load_state_dict"
    return None


_NO_MODELS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str | None]], ...] = (
    ((str, Path), _text),
    (Mapping, _mapping),
    (
        torch.export.ExportedProgram,
        lambda value: "an ExportedProgram, which has no layers; give the module from before torch.export",
    ),
    (type, lambda value: f"the class {value.__name__}; call it, and give the model that it makes"),
    (types.FunctionType, lambda value: f"the function {value.__name__}; call it, and give the model that it returns"),
)
"""Types that are often given instead of a model, with messages."""


def plain_model(model: Any, *, inplace: bool = False, scripted: bool = False) -> nn.Module:
    """Return the module whose layers can be traced and pruned.

    This is `model` itself, or the module inside `torch.compile` or `DistributedDataParallel`. Results for a wrapped model
    refer to the module inside: names have no prefix, and a pruned copy is not wrapped. With `inplace`, the model itself will
    be pruned or trained, which a `DistributedDataParallel` does not notice. TorchScript can be scored (`scripted`), but not
    pruned. Raises ModelFormError for other forms; the message says what to give.
    """
    model = _inside(as_model(model), inplace)
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
    held = ((path, own) for path, m in modules for own in (*m._parameters.values(), *m._buffers.values()))
    lazy = next((path for path, tensor in held if is_lazy(tensor)), None)
    if lazy is not None:
        raise ModelFormError(
            f"The lazy layer '{lazy}' has no weights yet; call the model once on the example inputs, then prune it."
        )
    for path, module in modules:
        for name, tensor in module._parameters.items():
            kind = None if tensor is None else _unusual(tensor)
            if kind is not None:
                raise ModelFormError(
                    f"The parameter '{f'{path}.{name}'.lstrip('.')}' is {kind}, whose channels can be neither scored nor "
                    f"cut; give the model with ordinary tensors of floating-point numbers, and convert the pruned one."
                )
    return model


def _unusual(tensor: torch.Tensor) -> str | None:
    """Why the channels of a tensor cannot be read, or None."""
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.is_quantized:
        return f"quantised ({tensor.dtype})"
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return str(tensor.dtype)
    return None


def _inside(model: nn.Module, inplace: bool) -> nn.Module:
    """Remove wrappers that only change how a forward is run; raise ModelFormError for one that cannot be removed."""
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
    """Whether `torch.compile` returned this module; its class is looked up only if it has been imported."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)


def _is_exported(module: fx.GraphModule) -> bool:
    """Whether a module's graph calls operators below torch's Python API."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)
