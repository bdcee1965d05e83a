"""Integer attributes that state layers' widths: the forward does not read them, but methods that fuse branches do.

An attribute counts if it is named like a width and equals a dimension of the module's tensors. If several dimensions have that
size, the name decides: an input width is produced by other layers, an output width is read by them, a hidden width by neither.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.width_attributes import StatedWidth
from dfpc_plugin.couplings.channels import Axis, Channels, Size
from dfpc_plugin.couplings.sizes import Unequal
from dfpc_plugin.couplings.usage import CodeReads
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, Expression, Operation

_WHAT = r"(channels?|chs?|features?|feats?|dims?|planes?|filters?|width|units|nc|c)"
_INPUT = re.compile(rf"(in|inp|input)_?{_WHAT}|{_WHAT}_(in|input)|inp|c_?in|n_?in|d_in")
_OUTPUT = re.compile(rf"(out|oup|output)_?{_WHAT}|{_WHAT}_(out|output)|oup|c_?out|n_?out|d_out")
_INNER = re.compile(
    rf"(hidden|inner|mid|middle|expanded|expand|intermediate|ffn|mlp|bottleneck)(_?({_WHAT}|size))?|d_ff"
)
_WIDTH = re.compile(
    r"(n|num|embed|embedding|model|base|total)_?(channels?|chs|features?|feats|dims?|planes|filters|units|embd|width)"
    r"|channels?|chs|dims?|planes|filters|width|features|d_model|embed_size|n_embd|nf"
)


def declared_widths(
    modules: Mapping[str, nn.Module], channels: Channels, forward_fn: Callable[..., Any] | None
) -> Iterator[StatedWidth]:
    """Find the integers in which `modules`, by path, declare the widths of their own layers, as the model was traced.

    The sizes that the result reads are added to `channels.leaves`.
    """
    known = channels.asked | {(stated.module, stated.name) for stated in channels.stated}
    sets = _Sets(channels)
    reads: CodeReads | None = None  # reading the code of all modules is slow and seldom needed
    for path, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith("torch.nn."):
            continue  # these are updated from their weights
        for name, value in vars(module).items():
            if type(value) is not int or value < 2 or (path, name) in known:
                continue
            words = name.strip("_").lower()
            groups = _groups(module, path, value) if words == "groups" else []
            chosen = sets.chosen(words, path, value)
            if not groups and not chosen:
                continue
            reads = reads or CodeReads(modules.values(), forward_fn)
            if not reads(module, name):
                yield StatedWidth(path, name, None, Operation(_agreed, (*groups, *map(sets.width, chosen))))


def width_of(channels: Channels, own: Tensor) -> AxisSize:
    """Return an expression for how many of the channels `own`, `(entries,)`, remain."""
    leaf = AxisSize(own, 0, 0)
    channels.leaves[leaf] = Size(own[None], False, leaf, "")
    return leaf


def _agreed(*widths: int) -> int:
    """Return the common value of all widths; raise Unequal if they differ."""
    if len(set(widths)) > 1:
        raise Unequal
    return widths[0]


def _groups(module: nn.Module, path: str, value: int) -> list[Expression]:
    """The `groups` attributes of a module's convolutions that equal `value`."""
    prefix = f"{path}." if path else ""
    return [
        Attribute(f"{prefix}{name}", "groups", value)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.conv._ConvNd) and name and layer.groups == value
    ]  # fmt: skip


class _Sets:
    """Sets of channels, by the dimensions that hold them."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._widths: dict[bytes, AxisSize] = {}

    @functools.cached_property
    def _by_size(self) -> Mapping[int, list[Axis]]:
        found: dict[int, list[Axis]] = defaultdict(list)
        for axis in self._channels.axes:
            found[axis.channels.numel()].append(axis)
        return found

    def width(self, own: bytes) -> AxisSize:
        """Return an expression for the number of remaining channels of a set."""
        if own not in self._widths:
            self._widths[own] = width_of(self._channels, torch.frombuffer(bytearray(own), dtype=torch.long))
        return self._widths[own]

    def chosen(self, name: str, path: str, value: int) -> list[bytes]:
        """Return the sets of `value` channels in a module that an attribute `name` (in lower case) may refer to."""
        pattern = next((pattern for pattern in (_INPUT, _OUTPUT, _INNER, _WIDTH) if pattern.fullmatch(name)), None)
        if pattern is None:
            return []
        prefix = f"{path}." if path else ""
        roles: dict[bytes, set[str]] = defaultdict(set)
        for axis in self._by_size.get(value, ()):
            roles[axis.channels.numpy().tobytes()].add(axis.role if axis.tensor.startswith(prefix) else "outside")
        fitting = {own for own, found in roles.items() if found != {"outside"}}
        read, written, outside = (
            {own for own in fitting if role in roles[own]} for role in ("feed-out", "feed-in", "outside")
        )
        choices = {
            _INPUT: (read & outside - written, read & outside, read),
            _OUTPUT: (written & outside - read, written & outside, written),
            _INNER: ((read | written) - outside, read | written),
            _WIDTH: (outside,),
        }
        choice = next(filter(None, choices[pattern]), fitting)
        return [own for own in roles if own in choice]
