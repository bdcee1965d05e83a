"""Operators that move, copy, pick or cast entries: the same operator on the bounds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import Convention, forms, rule

__all__: list[str] = []


def _moves(names: str, *, view: bool) -> None:
    """Register operators that are executed on the bounds as they are."""
    for name in names.split():
        for function in forms(name):
            if function.__name__.endswith("_"):
                continue  # a tensor of the model cannot change its shape in place here

            def move(*args: Any, _native: Any = function, **kwargs: Any) -> Any:
                return _native(*args, **kwargs)

            move.__name__, move.__doc__ = name, "Moves entries."
            rule(function, convention=Convention.EXACT, view=view)(move)


_moves(
    "reshape flatten ravel unflatten permute transpose swapaxes swapdims t movedim moveaxis squeeze unsqueeze "
    "expand expand_as broadcast_to chunk split split_with_sizes tensor_split unbind select narrow diagonal "
    "atleast_1d atleast_2d atleast_3d",
    view=True,
)
_moves(
    "repeat repeat_interleave tile index_select gather roll flip rot90 pixel_shuffle pixel_unshuffle "
    "clone tril triu fold take_along_dim",
    view=False,
)
for _attribute in ("T", "mT", "H", "mH", "real"):
    _getter = getattr(Tensor, _attribute).__get__

    def _read_attribute(input: Tensor, _getter: Any = _getter) -> Tensor:
        """Moves entries."""
        return _getter(input)

    rule(_getter, convention=Convention.EXACT, view=True)(_read_attribute)


@rule(Tensor.view, Tensor.view_as, Tensor.reshape_as, convention=Convention.EXACT, view=True)
def view(input: Tensor, *shape: Any) -> Tensor:
    """Moves entries (bounds may be strided differently from the data, so this reshapes)."""
    if isinstance(shape[0], torch.dtype):
        return input
    return input.reshape(shape[0].shape) if isinstance(shape[0], Tensor) else input.reshape(*shape)


@rule(*forms("channel_shuffle", "native_channel_shuffle"), convention=Convention.EXACT)
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Moves entries (written out: older releases of torch cannot differentiate the operator)."""
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@rule(Tensor.unfold, F.unfold, convention=Convention.EXACT)
def unfold(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Moves entries: sliding windows of a tensor, or of an image when the first argument is a kernel size."""
    of_an_image = {"kernel_size", "dilation", "padding", "stride"} & set(kwargs)
    if len(args) + len(kwargs) == 3 and not of_an_image and all(isinstance(arg, int) for arg in args):
        return input.unfold(*args, **kwargs)
    return F.unfold(input, *args, **kwargs)


@rule(Tensor.__getitem__, convention=Convention.EXACT, view=True)
def getitem(input: Tensor, index: Any) -> Tensor:
    """Picks entries."""
    return input[index]


@rule(Tensor.__setitem__, convention=Convention.EXACT, couples=True, context=True)
def setitem(flow: LayerContext, input: Tensor, index: Any, value: Any) -> Tensor:
    """Replaces entries; a constant has bound zero."""
    out = input.clone() if flow.is_data("input") else torch.zeros_like(input)
    out[index] = value if flow.is_data("value") else 0
    return out


@rule(Tensor.copy_, convention=Convention.EXACT, couples=True, additive=True)
def copy(input: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Replaces all entries."""
    return src.expand(input.shape)


@rule(*forms("zero", "fill"), convention=Convention.EXACT)
def constant(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Zero: a constant does not change."""
    return torch.zeros_like(input)


@rule(*forms("masked_fill"), convention=Convention.EXACT)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Zero where a constant mask fills in a constant."""
    return input.masked_fill(mask, 0)


def _joins(names: str) -> None:
    """Register operators that put tensors side by side."""
    for name in names.split():
        native = getattr(torch, name)

        def join(*args: Any, _native: Any = native, **kwargs: Any) -> Tensor:
            return _native(*args, **kwargs)

        join.__name__, join.__doc__ = name, "Puts entries side by side; constants (class tokens) have bound zero."
        rule(native, convention=Convention.EXACT, additive=True)(join)


_joins("cat concat concatenate stack hstack vstack dstack column_stack")


@rule(torch.constant_pad_nd, convention=Convention.EXACT)
def constant_pad(input: Tensor, pad: Any, value: Any = 0) -> Tensor:
    """Adds constants at the border, which have bound zero."""
    return F.pad(input, pad)


@rule(F.pad, convention=Convention.EXACT)
def pad(input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """Copies entries at the border, or adds constants, which have bound zero."""
    return F.pad(input, pad, mode)


@rule(*forms("detach"), Tensor.data.__get__, convention=Convention.EXACT, view=True)  # type: ignore[attr-defined]
def detach(input: Tensor, *args: Any) -> Tensor:
    """The identity: in evaluation nothing is cut from the data."""
    return input


@rule(*forms("contiguous", "float", "half", "double", "bfloat16", "type_as", "requires_grad"), view=True,
      convention=Convention.EXACT)
def cast(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The identity: bounds keep their own precision and layout."""
    return input


@rule(Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type, convention=Convention.EXACT, view=True)
def move_to(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The identity, on another device if one is asked for."""
    devices = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, torch.device | str) and arg != "meta"]
    return input.to(devices[0]) if devices else input
