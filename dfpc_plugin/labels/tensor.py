"""The tensor that carries channel labels through a forward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dfpc_plugin.flow.stand_in import StandIn
from dfpc_plugin.labels.axes import inner_axis, squeezed, varying
from dfpc_plugin.labels.sizes import TracedInt
from dfpc_plugin.labels.table import AxisSize

if TYPE_CHECKING:
    from dfpc_plugin.labels.run import LabelRun

__all__ = ["LabelTensor", "blank", "shape_of"]

_SIZES = (Tensor.shape.__get__, Tensor.size)  # type: ignore[attr-defined]
_COUNTS = (Tensor.numel, Tensor.nelement, torch.numel)


class LabelTensor(StandIn):
    """Stands for data or for weights, and knows which channel every entry belongs to.

    Attributes:
        slots: Tensors of labels of this tensor's shape. An entry has a label per slot: a weight `(out, in)` belongs to
            an output channel and to an input channel, a feature map to one channel. No slot: no channels.
        value: Computes the actual values where they do not depend on data; None for data.
        wild: A constant made from the shape of data, which takes whatever shape the data has.
        spread: Axes along which one entry was expanded to many, with the size asked for: they have no entries of their
            own.
        original: The parameter or buffer that this stands for, if it does.
        linear: One weight or norm has made it, and only linear operators lie between, so that scaling the rows that its
            labels name scales it.
        factor: Of a product of data with data, the labels whose rows scale it.
    """

    run: LabelRun
    slots: tuple[Tensor, ...]
    value: Callable[[], Tensor] | None
    wild: bool
    spread: dict[int, int]
    linear: bool
    factor: tuple[Tensor, ...]
    original: Tensor | None
    viewed: tuple[LabelTensor, Callable[[Tensor], Tensor]] | None
    _sizes: torch.Size | None

    @staticmethod
    def __new__(
        cls,
        shape: Any,
        slots: tuple[Tensor, ...],
        run: LabelRun,
        dtype: torch.dtype,
        device: torch.device,
        value: Callable[[], Tensor] | None = None,
        wild: bool = False,
    ) -> LabelTensor:
        """Wrap labels; a slot that is the same everywhere tells no channels apart and is dropped."""
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.run, self.value, self.wild, self.viewed, self._sizes = run, value, wild, None, None
        self.spread, self.linear, self.factor, self.original = {}, False, (), None
        self.set_slots(slots)
        return self

    def set_slots(self, slots: tuple[Tensor, ...]) -> None:
        """Replace the labels, which are canonical."""
        self.slots = tuple(slot for slot in slots if slot.numel() and varying(slot))
        self._sizes = None

    @property
    def is_data(self) -> bool:
        """Whether it stands for data."""
        return self.value is None

    def labels_along(self, axis: int) -> Tensor | None:
        """Return the slot that varies along `axis`, or None."""
        for slot in self.slots:
            if slot.size(axis) > 1 and slot.stride(axis):
                return slot
        return None

    def change(self, slots: tuple[Tensor, ...]) -> None:
        """Replace the labels in place, here and in what this tensor is a view of."""
        before = self.slots
        self.set_slots(slots)
        if self.viewed is None:
            return
        source, take = self.viewed
        if self.value is None:
            source.value = None
        if len(before) == len(self.slots):
            return
        shape = shape_of(source)
        positions = take(torch.arange(shape.numel(), device="cpu").view(shape)).reshape(-1)
        changed = []
        for number, slot in enumerate(self.slots):
            old = source.slots[number] if number < len(source.slots) else torch.zeros((), dtype=torch.long, device="cpu")
            flat = old.expand(shape).reshape(-1).clone()
            flat[positions] = slot.reshape(-1)
            changed.append(flat.view(shape))
        source.change(tuple(changed))

    def sizes(self) -> torch.Size:
        """The shape, with traced integers for axes that hold channels."""
        if self._sizes is None:
            shape: list[int] = list(shape_of(self))
            for slot in self.slots:
                small, flexible = squeezed(slot), inner_axis(slot)
                for axis in varying(slot):
                    if flexible is not None and (axis == flexible or not isinstance(shape[axis], TracedInt)):
                        shape[axis] = TracedInt(shape[axis], AxisSize(small, axis, flexible))
            self._sizes = torch.Size(shape)
        return self._sizes

    @classmethod
    def metadata(cls, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Answer questions about the shape with traced integers."""
        if func in _SIZES and isinstance(args[0], LabelTensor):
            sizes = args[0].sizes()
            asked = [*args[1:2], *kwargs.values()]
            return sizes if not asked or asked[0] is None or func is not Tensor.size else sizes[asked[0]]
        if func in _COUNTS and isinstance(args[0], LabelTensor):
            return math.prod(args[0].sizes())
        return super().metadata(func, args, kwargs)

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """Say what is known, for a forward that prints."""
        return f"LabelTensor(shape={tuple(shape_of(self))}, slots={len(self.slots)})"


def shape_of(tensor: Tensor) -> torch.Size:
    """The shape as torch stores it."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.shape


def blank(tensor: Tensor) -> Tensor:
    """Labels of a tensor without channels."""
    return torch.zeros((), dtype=torch.long, device="cpu").expand(shape_of(tensor))
