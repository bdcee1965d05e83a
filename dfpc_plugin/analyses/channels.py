"""Channel analysis: which elements share a channel, and which numbers of channels the forward requires."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.channel_call import ChannelCall, Unfollowed
from dfpc_plugin.analyses.demands import Demands, Notebook
from dfpc_plugin.analyses.table import LabelTable
from dfpc_plugin.analyses.width_attributes import StatedWidth
from dfpc_plugin.errors import DFPCError, RuleError
from dfpc_plugin.tracing.axes import along
from dfpc_plugin.tracing.calls import Call
from dfpc_plugin.tracing.operator import function_name
from dfpc_plugin.tracing.proxy import Proxy, shape_of, slots_of
from dfpc_plugin.tracing.traced_run import TracedRun

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ONE_PER_OUTPUT = (nn.Linear, *_CONVOLUTIONS, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers whose vectors have an element per output channel of their weight, and share its labels."""


class ChannelTrace(Notebook):
    """Follows channels through a run and collects the operators' constraints.

    `buffers` are the paths of labelled tensors other than parameters; `parameters` and `outputs` have shapes. `stated` are
    widths that the model states about itself and that the pass confirms.
    """

    def __init__(self, run: TracedRun) -> None:
        """Follow channels in `run`."""
        super().__init__(run)
        self.buffers: set[str] = set()
        self.parameters: dict[str, torch.Size] = {}
        self.outputs: list[torch.Size] = []
        self.stated: list[StatedWidth] = []

    def label(self, proxy: Proxy, path: str, module: Any) -> None:
        """Label a parameter or buffer."""
        _label(self.table, proxy, path, module)
        original = proxy.original
        if any(original is parameter for parameter in self.names.parameters_of(module)):
            self.parameters[path] = shape_of(proxy)
        else:
            self.buffers.add(path)

    def apply(self, call: Call) -> Any:
        """Return the result of an operator with labels; raises RuleError if its channel rule fails, as for unfit shapes."""
        rule = call.operator.channels
        channel_call = ChannelCall(self, call)
        changed = call.target.viewed if isinstance(call.target, Proxy) else None
        for operand in call.operands if not call.is_view else ():
            if operand.viewed is not changed or (operand is changed and call.operator.kind != "writes"):
                channel_call.read(operand.viewed)
        if rule is None:
            return channel_call.opaque(f"passes through {channel_call.where}, which has no rule for channels")
        try:
            return rule(channel_call, *call.args, **call.kwargs)
        except DFPCError:
            raise
        except Exception as error:
            if isinstance(error, Unfollowed) or (isinstance(error, TypeError) and not _takes(rule, call)):
                return channel_call.opaque(
                    f"passes through {channel_call.where}, which could not be followed ({error})"
                )
            raise RuleError(function_name(call.function), self.names.caller(), error) from error

    def leaves(self, func: Callable[..., Any], operands: list[Proxy]) -> None:
        """Protect the channels of weights whose values an operator without a record reads."""
        where = Demands(self, func, weights=True).where
        for operand in operands:
            for slot in operand.slots:
                self.table.freeze(slot, f"passes through {where}, which has no rule for channels")

    def output(self, tensor: Tensor) -> None:
        """Protect the channels of `tensor`, which the model returns."""
        self.outputs.append(shape_of(tensor))
        if isinstance(tensor, Proxy):
            for slot in tensor.slots:
                self.table.freeze(slot, "is the model's output")

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Discard, at exit, what was noted in the block, which is only a trial."""
        calls = self.run.calls
        notes: list[list[Any]] = [*self.table.notes, self.work, self.twins, self.scaled]
        lengths = [len(noted) for noted in notes]
        try:
            with self.run.muted():
                yield
        finally:
            for noted, length in zip(notes, lengths, strict=True):
                del noted[length:]
            self.run.calls = calls
            self.run.forget_missing()


def _takes(rule: Any, call: Call) -> bool:
    try:
        inspect.signature(rule).bind(None, *call.args, **call.kwargs)
    except TypeError:
        return False
    return True


def _label(table: LabelTable, proxy: Proxy, path: str, module: Any) -> None:
    """Label the dimensions of one parameter or buffer."""
    tensor = proxy.original
    assert tensor is not None
    shared = _vector_labels(tensor, path, module, table)
    proxy.set_slots((shared,) if shared is not None else tuple(_dimensions(tensor, path, module, table)))
    first = proxy.labels_along(0) if tensor.dim() else None
    proxy.rows = () if first is None else (first,)


def _vector_labels(tensor: Tensor, path: str, module: Any, table: LabelTable) -> Tensor | None:
    """Labels of a layer's bias or statistics: those of its weight's outputs."""
    if tensor.dim() != 1 or not isinstance(module, _ONE_PER_OUTPUT):
        return None
    for other in (*module._parameters.values(), *module._buffers.values()):
        slots = slots_of(other)
        if slots and slots[0].size(0) == tensor.size(0) > 1:
            labels = slots[0].flatten(1)[:, 0] if slots[0].dim() > 1 else slots[0]
            table.share(path, 0, labels)
            return labels
    return None


def _dimensions(tensor: Tensor, path: str, module: Any, table: LabelTable) -> Iterator[Tensor]:
    """Labels of every dimension of size above one, except the positions of a convolution's kernel."""
    parameters = [p.original if isinstance(p, Proxy) else p for p in (module._parameters.get("weight"),)]
    convolves = isinstance(module, _CONVOLUTIONS + _TRANSPOSED) and tensor is parameters[0]
    for dim, size in enumerate(tensor.shape[:2] if convolves else tensor.shape):
        if convolves and dim == 1 and module.groups > 1:
            yield _of_groups(tensor, path, module, table).expand(tensor.shape)
        elif size > 1:
            yield table.own(path, dim, size).view(along(dim, tensor.dim())).expand(tensor.shape)


def _of_groups(weight: Tensor, path: str, module: Any, table: LabelTable) -> Tensor:
    """Labels of dimension 1 of a grouped convolution's weight: each group has channels of its own."""
    labels = table.own(path, 1, module.groups * weight.size(1), module.groups)
    rows = labels.view(module.groups, weight.size(1)).repeat_interleave(weight.size(0) // module.groups, 0)
    return rows.view(*weight.shape[:2], *[1] * (weight.dim() - 2))
