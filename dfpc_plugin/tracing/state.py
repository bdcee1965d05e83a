"""Replace a model's parameters by proxies, and its integers by traced ones, during a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.preserve import NO_TENSORS
from dfpc_plugin.tracing.proxy import Proxy
from dfpc_plugin.tracing.sizes import Attribute, TracedInt
from dfpc_plugin.tracing.traced_run import TracedRun

Labeller = Callable[[Proxy, str, Any], None]
"""Labels the channels of a parameter or buffer, given its proxy, its path and the module that holds it."""

_TRACED = frozenset((int, tuple, list))
_UNTRACED = frozenset(
    ("kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice")
)
"""Spatial attributes of convolutions and pools, which do not depend on channels."""
_COMPUTED_FROM = ("_orig", "_v", "_g")
"""Suffixes of parameters from which hooks compute a plain attribute before every call."""


@contextlib.contextmanager
def traced_state(run: TracedRun, label: Labeller | None) -> Iterator[None]:
    """Replace the model's parameters and floating-point buffers by proxies; everything is restored at exit.

    With `label`, integers are traced, and constants in plain attributes are labelled so that they can be pruned.
    """
    saved: list[tuple[dict[str, Any], str, Any]] = []

    def replace(table: dict[str, Any], name: str, value: Any) -> None:
        saved.append((table, name, table[name]))
        table[name] = value

    try:
        for path, module in run.names.modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            prefix = f"{path}." if path else ""
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if isinstance(tensor, Tensor) and tensor.is_floating_point():
                        replace(table, name, _proxy(run, tensor, f"{prefix}{name}", module, label))
            attributes: dict[str, Any] = module.__dict__
            for name, value in list(attributes.items()) if label is not None else ():
                if type(value) in _TRACED and name not in _UNTRACED:
                    traced = _traced(value, path, name)
                    if traced is not value:
                        replace(attributes, name, traced)
                elif type(value) not in NO_TENSORS and isinstance(value, Tensor) and _is_constant(module, name, value):
                    replace(attributes, name, _proxy(run, value, f"{prefix}{name}", module, label))
        yield
    finally:
        for table, name, value in reversed(saved):
            table[name] = value
        run.state.clear()  # proxies refer to their run


def _proxy(run: TracedRun, tensor: Tensor, path: str, module: Any, label: Labeller | None) -> Proxy:
    """Return the proxy of a tensor; a tensor with two names has one proxy."""
    proxy = run.state.get(id(tensor))
    if proxy is None:
        proxy = Proxy(tensor.shape, run, tensor.dtype, tensor.device, value=lambda: tensor)
        proxy.original, proxy.origins = tensor, (tensor,)
        if label is not None:
            label(proxy, path, module)
        run.state[id(tensor)] = proxy
    return proxy


def _is_constant(module: Any, name: str, value: Tensor) -> bool:
    """Whether a plain attribute is a constant of the module, not recomputed before every call."""
    if not value.is_floating_point() or value.requires_grad or value.dim() == 0 or isinstance(value, Proxy):
        return False
    return not any(name + ending in module._parameters for ending in _COMPUTED_FROM)


def _traced(value: Any, module: str, name: str) -> Any:
    """Trace an integer, or those in a tuple or list; other values are returned as they are."""
    if type(value) is int:
        return TracedInt(value, Attribute(module, name, value))
    if any(type(entry) is int for entry in value):
        entries = [
            TracedInt(entry, Attribute(module, name, entry, position)) if type(entry) is int else entry
            for position, entry in enumerate(value)
        ]
        return type(value)(entries)
    return value
