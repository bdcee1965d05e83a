"""Integers in which modules keep the widths of their layers: no forward asks for them, but methods that fuse branches do.

A block that builds one convolution from several reads its own `in_channels`, `out_channels` and `groups`; an adapter
reads the `in_features` of the layer that it wraps. After a cut these must say what is there. An attribute counts as a
declared width if it is named like one, is as large as a dimension of the module's tensors, and the forward does not read
it. Where several dimensions are as large, its name tells which: that which other layers produce, that which they read, or
one that is used inside alone. Where they lose different numbers of channels, it stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.stated import Stated
from dfpc_plugin.couplings.channels import Axis, Channels, Size
from dfpc_plugin.couplings.code import CodeReads
from dfpc_plugin.couplings.sizes import Unequal
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, Expression, Operation

__all__ = ["declared_widths", "width_of"]

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
) -> Iterator[Stated]:
    """Find the integers in which modules declare the widths of their own layers.

    Args:
        modules: By path, those of the model that `channels` were found on, not cut since.
        channels: Its channels; the sizes that the result reads are added to `channels.leaves`.
        forward_fn: What calls the model, if it is not called plainly.
    """
    known = channels.asked | {(stated.module, stated.name) for stated in channels.stated}
    sets = _Sets(channels)
    reads: CodeReads | None = None  # reading the code of all modules takes long, and is seldom needed
    for path, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith("torch.nn."):
            continue  # layers of torch describe themselves
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
                yield Stated(path, name, None, Operation(_agreed, (*groups, *map(sets.width, chosen))))


def width_of(channels: Channels, own: Tensor) -> AxisSize:
    """Return an expression for how many of some channels, `(entries,)`, are left."""
    leaf = AxisSize(own, 0, 0)
    channels.leaves[leaf] = Size(own[None], False, leaf, "")
    return leaf


def _agreed(*widths: int) -> int:
    """The number that all expressions come to.

    Raises:
        Unequal: They do not come to the same one.
    """
    if len(set(widths)) > 1:
        raise Unequal
    return widths[0]


def _groups(module: nn.Module, path: str, value: int) -> list[Expression]:
    """The groups of the convolutions in a module that have as many."""
    prefix = f"{path}." if path else ""
    return [
        Attribute(f"{prefix}{name}", "groups", value)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.conv._ConvNd) and name and layer.groups == value
    ]  # fmt: skip


class _Sets:
    """Sets of channels, by where dimensions hold them."""

    def __init__(self, channels: Channels) -> None:
        """Look at the dimensions that `channels` has now."""
        self._channels = channels
        self._widths: dict[bytes, AxisSize] = {}

    @functools.cached_property
    def _by_size(self) -> Mapping[int, list[Axis]]:
        """The dimensions by their number of channels."""
        found: dict[int, list[Axis]] = defaultdict(list)
        for axis in self._channels.axes:
            found[axis.channels.numel()].append(axis)
        return found

    def width(self, own: bytes) -> AxisSize:
        """Return an expression for how many channels of a set are left."""
        if own not in self._widths:
            self._widths[own] = width_of(self._channels, torch.frombuffer(bytearray(own), dtype=torch.long))
        return self._widths[own]

    def chosen(self, name: str, path: str, value: int) -> list[bytes]:
        """Return all sets of `value` channels in a module that an attribute of this name may be about.

        Args:
            name: The attribute's name in lower case.
            path: The module's path.
            value: The attribute's value.
        """
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
