"""Run TorchScript on proxies.

Scripted code runs in C++, below the Python API. A scripted module dispatches to `__torch_function__`; a scripted
function does not, so its call is redirected during a pass. Either way, the graph is interpreted here, operator by
operator, by the usual rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.exchange import Exchange, put
from dfpc_plugin.tracing.operator import METADATA, find_operator
from dfpc_plugin.tracing.proxy import Proxy
from dfpc_plugin.tracing.tree import tensors

_SCRIPTED = (torch._C.ScriptFunction, torch._C.ScriptMethod)
_HOMES = (torch, torch.Tensor, F, torch._C._nn)
_original_call = torch._C.ScriptFunction.__call__


def is_scripted(function: Any) -> bool:
    """Tell whether `function` is compiled TorchScript."""
    return isinstance(function, _SCRIPTED)


def scripted_functions_redirected() -> AbstractContextManager[None]:
    """Interpret scripted functions that are called with a proxy; other calls are not affected."""
    return _exchange.block()


def _install(undo: contextlib.ExitStack) -> None:
    if torch._C.ScriptFunction.__call__ is not _call:
        put(undo, torch._C.ScriptFunction, "__call__", _call)


_exchange = Exchange(_install)


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Replace `ScriptFunction.__call__` while a pass runs."""
    if any(isinstance(tensor, Proxy) for tensor in tensors((args, kwargs))):
        return interpret(self, args, kwargs)
    return _original_call(self, *args, **kwargs)


def interpret(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run a scripted function or method operator by operator; raises DFPCError for constructs that need data."""
    graph = function.inlined_graph
    owner = getattr(function, "owner", None)
    given = args if owner is None or (args and args[0] is owner) else (owner, *args)
    values: dict[str, Any] = {}
    for position, (value, argument) in enumerate(zip(graph.inputs(), function.schema.arguments, strict=True)):
        if position < len(given):
            values[value.debugName()] = given[position]
        else:
            values[value.debugName()] = kwargs.get(argument.name, argument.default_value)
    _run_block(graph, values)
    outputs = [values[value.debugName()] for value in graph.outputs()]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _run_block(block: Any, values: dict[str, Any]) -> None:
    for node in block.nodes():
        inputs = [values[value.debugName()] for value in node.inputs()]
        handler = _CONSTRUCTS.get(node.kind())
        if handler is not None:
            results = handler(node, inputs, values)
        elif node.kind().startswith("aten::"):
            results = [_call_operator(node, inputs)]
        else:
            raise DFPCError(
                f"TorchScript construct {node.kind()} cannot be run on proxies; "
                f"give the model before scripting, or register a rule for the scripted part."
            )
        for value, result in zip(node.outputs(), results, strict=True):
            values[value.debugName()] = result


def _call_operator(node: Any, inputs: list[Any]) -> Any:
    """Call an aten operator: natively on weights and numbers, through its rule on data."""
    name = node.kind().removeprefix("aten::")
    schema = torch._C.parse_schema(node.schema())
    arguments = schema.arguments
    args = [value for value, argument in zip(inputs, arguments, strict=True) if not argument.kwarg_only]
    kwargs = {argument.name: value for value, argument in zip(inputs, arguments, strict=True) if argument.kwarg_only}
    if name in _PLAIN and not (inputs and isinstance(inputs[0], Proxy)):
        return _PLAIN[name](*args)
    if not any(isinstance(tensor, Proxy) for tensor in tensors(inputs)):
        return getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")(*args, **kwargs)
    if name == "slice":
        tensor, dim, start, end, step = inputs
        return tensor[(slice(None),) * (dim % tensor.dim()) + (slice(start, end, step),)]
    candidates = [function for home in _HOMES if (function := getattr(home, name, None)) is not None]
    if not candidates:
        raise DFPCError(f"TorchScript operator aten::{name} has no counterpart in torch's Python API.")
    known = [function for function in candidates if function in METADATA or find_operator(function) is not None]
    return (known or candidates)[0](*args, **kwargs)


def _if(node: Any, inputs: list[Any], values: dict[str, Any]) -> list[Any]:
    block = list(node.blocks())[0 if inputs[0] else 1]
    _run_block(block, values)
    return [values[value.debugName()] for value in block.outputs()]


def _loop(node: Any, inputs: list[Any], values: dict[str, Any]) -> list[Any]:
    trips, go_on, carried = inputs[0], inputs[1], inputs[2:]
    block = next(iter(node.blocks()))
    names = [value.debugName() for value in block.inputs()]
    trip = 0
    while go_on and trip < trips:
        values.update(zip(names, [trip, *carried], strict=True))
        _run_block(block, values)
        go_on, *carried = [values[value.debugName()] for value in block.outputs()]
        trip += 1
    return list(carried)


def _raise(node: Any, inputs: list[Any], values: dict[str, Any]) -> list[Any]:
    raise DFPCError(f"The scripted code raised: {inputs[0]}")


_CONSTRUCTS: dict[str, Callable[[Any, list[Any], dict[str, Any]], list[Any]]] = {
    "prim::Constant": lambda node, inputs, values: [node.output().toIValue()],
    "prim::GetAttr": lambda node, inputs, values: [getattr(inputs[0], node.s("name"))],
    "prim::ListConstruct": lambda node, inputs, values: [list(inputs)],
    "prim::TupleConstruct": lambda node, inputs, values: [tuple(inputs)],
    "prim::DictConstruct": lambda node, inputs, values: [dict(zip(inputs[::2], inputs[1::2], strict=True))],
    **dict.fromkeys(("prim::ListUnpack", "prim::TupleUnpack"), lambda node, inputs, values: list(inputs[0])),
    "prim::TupleIndex": lambda node, inputs, values: [inputs[0][inputs[1]]],
    **dict.fromkeys(
        ("prim::NumToTensor", "aten::Int", "prim::unchecked_cast"), lambda node, inputs, values: [inputs[0]]
    ),
    "prim::Uninitialized": lambda node, inputs, values: [None],
    "prim::dtype": lambda node, inputs, values: [inputs[0].dtype],
    "prim::device": lambda node, inputs, values: [inputs[0].device],
    "prim::If": _if,
    "prim::Loop": _loop,
    "prim::RaiseException": _raise,
}
"""Handlers of nodes that are not operators."""

_PLAIN: dict[str, Callable[..., Any]] = {
    "__getitem__": lambda container, index: container[index],
    "__is__": lambda one, other: one is other,
    "__isnot__": lambda one, other: one is not other,
    "__not__": lambda value: not value,
    "__contains__": lambda container, item: item in container,
    "len": len,
    "format": lambda text, *values: text.format(*values),
    "append": lambda items, item: (items.append(item), items)[1],
    "warn": lambda *args: None,
}
"""Operators on numbers and containers that torch.ops lacks, at least for some types."""
