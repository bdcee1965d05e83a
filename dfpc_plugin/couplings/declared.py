"""Integers in which modules keep the widths of their layers: no forward asks for them, but methods that fuse branches do.

A block that builds one convolution from several reads its own `in_channels`, `out_channels` and `groups`; an adapter
reads the `in_features` of the layer that it wraps. After a cut these must say what is there. An attribute counts as a
declared width if it is named like one, is as large as a dimension of the module's tensors, and the forward does not read
it. Where several dimensions are as large, its name tells which: that which other layers produce, that which they read, or
one that is used inside alone. Where they lose different numbers of channels, it stays as it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.stated import Stated
from dfpc_plugin.couplings.channels import Channels, Size
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
    model: nn.Module, channels: Channels, forward_fn: Callable[..., Any] | None
) -> Iterator[Stated]:
    """Find the integers in which modules declare the widths of their own layers.

    Args:
        model: The model that `channels` were found on, not cut since.
        channels: Its channels; the sizes that the result reads are added to `channels.leaves`.
        forward_fn: What calls the model, if it is not called plainly.
    """
    modules = dict(model.named_modules())
    reads = CodeReads(modules.values(), forward_fn)
    known = channels.asked | {(stated.module, stated.name) for stated in channels.stated}
    inside: dict[str, list[int]] = defaultdict(list)
    for number, axis in enumerate(channels.axes):
        parts = axis.tensor.split(".")
        for count in range(len(parts)):
            inside[".".join(parts[:count])].append(number)
    sets = _Sets(channels)
    for path, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith("torch.nn."):
            continue  # layers of torch describe themselves
        for name, value in vars(module).items():
            if type(value) is not int or value < 2 or (path, name) in known or reads(module, name):
                continue
            words = name.strip("_").lower()
            if words == "groups":
                found = _groups(module, path, value)
            else:
                found = sets.widths(words, inside.get(path, ()), value)
            if found:
                yield Stated(path, name, None, Operation(_agreed, tuple(found)))


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
    """Dimensions by the channels that they hold."""

    def __init__(self, channels: Channels) -> None:
        """Number the sets of channels, and note where each occurs."""
        self._channels, self._axes = channels, channels.axes
        self._widths: dict[int, AxisSize] = {}
        numbers: dict[tuple[int, ...], int] = {}
        held = [tuple(axis.channels.tolist()) for axis in self._axes]
        self._sizes = [len(own) for own in held]
        self._of = [numbers.setdefault(own, len(numbers)) for own in held]
        self._everywhere: dict[int, int] = defaultdict(int)
        for number in self._of:
            self._everywhere[number] += 1

    def widths(self, name: str, inside: Sequence[int], value: int) -> list[Expression]:
        """Return the widths of all sets of `value` channels in a module that an attribute of this name may be about.

        Args:
            name: The attribute's name in lower case.
            inside: The dimensions of the module's tensors, by their position in `Channels.axes`.
            value: The attribute's value.
        """
        found = []
        for number, own in self._chosen(name, inside, value).items():
            if number not in self._widths:
                self._widths[number] = width_of(self._channels, own)
            found.append(self._widths[number])
        return found

    def _chosen(self, name: str, inside: Sequence[int], value: int) -> dict[int, Tensor]:
        """The sets that `widths` is about, by number."""
        fitting = [number for number in inside if self._sizes[number] == value]
        if not fitting:
            return {}
        within: dict[int, int] = defaultdict(int)
        for number in inside:
            within[self._of[number]] += 1
        outside = {self._of[n] for n in fitting if within[self._of[n]] < self._everywhere[self._of[n]]}
        read, written = self._with_role("feed-out", inside), self._with_role("feed-in", inside)
        if _INPUT.fullmatch(name):
            choices: Iterable[set[int]] = (read & outside - written, read & outside, read)
        elif _OUTPUT.fullmatch(name):
            choices = (written & outside - read, written & outside, written)
        elif _INNER.fullmatch(name):
            choices = (read | written) - outside, read | written
        elif _WIDTH.fullmatch(name):
            choices = (outside, {self._of[n] for n in fitting})
        else:
            return {}
        first = {self._of[number]: self._axes[number].channels for number in fitting}
        for choice in choices:
            found = {number: own for number, own in first.items() if number in choice}
            if found:
                return found
        return first

    def _with_role(self, role: str, inside: Sequence[int]) -> set[int]:
        """Sets that dimensions of one role hold."""
        return {self._of[number] for number in inside if self._axes[number].role == role}
