"""The tensor that a model's forward sees while it is traced.

A proxy has a shape, a dtype and a device, but no storage. `__torch_function__` sends every operation on it to the run,
which looks up the operator's record; `__torch_dispatch__` raises for operations that bypass the Python API. A proxy
carries labels of channels, and bounds (or variances and means) of its elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.preserve import unwatched
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying, written_through
from dfpc_plugin.tracing.operator import METADATA
from dfpc_plugin.tracing.sizes import AxisSize, TracedInt
from dfpc_plugin.tracing.tree import tensors

_SIZES = (Tensor.shape.__get__, Tensor.size)  # type: ignore[attr-defined]
_COUNTS = (Tensor.numel, Tensor.nelement, torch.numel)
_GRADIENT: Any = vars(torch._C.TensorBase)["grad"].__get__
_NO_SPREAD: Mapping[int, int | None] = {}


class Tracer(Protocol):
    """What a proxy needs from its run."""

    traces_sizes: bool
    dtype: torch.dtype

    def call(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], operands: list[Tensor]) -> Any:
        """Carry out an operation; `operands` are all tensors among its arguments."""


@dataclass
class View:
    """What `take` makes from `source`, or from anything laid out like it, whose changes up to version `seen` it has.

    An in-place operation on a view is written through to the source; a view whose source has changed is taken again when it
    is read.
    """

    source: Proxy
    take: Callable[[Tensor], Tensor]
    seen: int


class Proxy(torch.Tensor):
    """Replaces data, weights or constants in a traced forward.

    Attributes:
        run: The run that it belongs to.
        value: Computes its values where they are known (weights, constants, integers that the user gave), else None.
        original: The parameter or buffer that it replaces, if any.
        origins: The parameters and buffers that it was computed from, if from nothing else.
        slots: Labels of channels: tensors of this tensor's shape. A weight `(out, in)` has two slots (output and input
            channels), a feature map one, a tensor without channels none.
        wild: Whether it is a constant in the shape of data, which adapts to whatever shape the data has.
        multiplied: Whether it is a product of data with data, or of constants with constants, and so no layer's weight.
        spread: Axes expanded from one element, with the requested size (None if that is noted elsewhere). They have no
            elements of their own, except those that a forward wrote into a constant.
        ends: Axes of such a constant, with the positions where slices of it begin or end.
        rows: Labels, in this tensor's layout, of rows of weights, biases and norms: scaling all of these rows scales
            this tensor, as only linear operators came after. Empty if there are none.
        factors: For a product of two data tensors, the rows of each: scaling the rows of one of them scales the
            product.
        sources: The feed-in layers that reach it.
        expectation: Means of its elements (broadcastable), where they are known and needed.
        curve: The function of another tensor's elements that it is, if known.
        version: Number of changes in place.
    """

    run: Tracer
    value: Callable[[], Tensor] | None = None
    original: Tensor | None = None
    origins: tuple[Tensor, ...] = ()
    wild: bool = False
    multiplied: bool = False
    spread: Mapping[int, int | None] = _NO_SPREAD
    ends: tuple[tuple[int, int], ...] = ()
    rows: tuple[Tensor, ...] = ()
    factors: tuple[tuple[Tensor, ...], ...] = ()
    sources: frozenset[str] = frozenset()
    expectation: Tensor | None = None
    curve: Any = None
    version: int = 0
    _slots: tuple[Tensor, ...] = ()
    _bound: Tensor | None = None
    _shape: torch.Size
    _dtype: torch.dtype
    _device: torch.device
    _holds_data: bool = False
    _view: View | None = None
    _sizes: torch.Size | None = None

    @staticmethod
    def __new__(
        cls,
        shape: Any,
        run: Tracer,
        dtype: torch.dtype,
        device: torch.device,
        *,
        data: bool = False,
        value: Callable[[], Tensor] | None = None,
        slots: tuple[Tensor, ...] = (),
    ) -> Proxy:
        """Make a proxy; the analyses attach what they know."""
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.run, self.value, self._holds_data = run, value, data
        self._shape, self._dtype, self._device = shape, dtype, device
        if slots:
            self.set_slots(slots)
        return self

    # Every operator asks for these; Python properties answer faster than `__torch_function__`.
    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """The shape, with traced integers if the run traces sizes."""
        return self.sizes() if self.run.traces_sizes else self._shape

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype that the model sees."""
        return self._dtype

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device of the model's tensor."""
        return self._device

    @property
    def holds_data(self) -> bool:
        """Whether it depends on data, itself or as a view."""
        return self._holds_data or (self._view is not None and self._view.source.holds_data)

    @property
    def slots(self) -> tuple[Tensor, ...]:
        """Current labels, also after the viewed tensor was changed in place."""
        self.look_again()
        return self._slots

    @property
    def bound(self) -> Tensor:
        """Current bounds, or variances; zero without data."""
        self.look_again()
        if self._bound is None:
            self._bound = torch.zeros((), dtype=self.run.dtype, device=self.device).expand(shape_of(self))
        return self._bound

    def set_slots(self, slots: tuple[Tensor, ...]) -> None:
        """Replace the labels, which must be canonical; slots that do not vary are dropped."""
        self._slots = tuple([slot for slot in slots if slot.numel() and varying(slot)])
        self._sizes = None

    def set_bound(self, bound: Tensor, sources: frozenset[str], expectation: Tensor | None = None) -> None:
        """Attach bounds, or variances and means, and the feed-in layers that reach the tensor."""
        self._bound = bound if bound.dtype == self.run.dtype else bound.to(self.run.dtype)
        self.sources, self.expectation = sources, expectation

    def set_view(self, source: Proxy, take: Callable[[Tensor], Tensor], *, looked_at: bool = True) -> None:
        """Make it a view of `source`; `looked_at`: it is up to date."""
        self._view = View(source, take, source.version if looked_at else -1)

    @property
    def viewed(self) -> Proxy:
        """The tensor at the end of the chain of views; itself if it is no view."""
        return self if self._view is None else self._view.source.viewed

    def copy_of_labels(self) -> Proxy:
        """Return a copy without bounds, which is no view."""
        made = Proxy(
            shape_of(self), self.run, self.dtype, self.device, data=self.holds_data, value=self.value, slots=self.slots
        )
        made.wild, made.spread, made.rows, made.factors = self.wild, self.spread, self.rows, self.factors
        made.multiplied, made.origins = self.multiplied, self.origins
        return made

    def labels_along(self, axis: int) -> Tensor | None:
        """Return the slot that varies along `axis`, or None."""
        return next((slot for slot in self.slots if slot.size(axis) > 1 and slot.stride(axis)), None)

    def change(self, result: Proxy, slots: tuple[Tensor, ...]) -> None:
        """Become `result` in place, with the labels `slots`, here and in every tensor that this one views."""
        bound = result._bound
        if bound is not None and bound.shape != shape_of(self):
            bound = bound.expand(shape_of(self))
        self.rows, self.factors, self.spread = result.rows, result.factors, result.spread
        self._take_over(result.holds_data, slots, bound, result.sources, result.expectation)
        self.value, self.curve = result.value, None

    def _take_over(
        self, data: bool, slots: tuple[Tensor, ...], bound: Tensor | None, sources: frozenset[str], means: Tensor | None
    ) -> None:
        before = len(self.slots)
        self.set_slots(slots)
        self.version += 1
        self._holds_data = data or self.holds_data
        if self._holds_data:
            self.value = None
        if bound is not None:
            self._bound, self.sources, self.expectation = bound, self.sources | sources, means
        if self._view is not None:
            self._write_through(self._view, before, bound is not None)

    def _write_through(self, view: View, labels: int, bounds: bool) -> None:
        """Write a change through to the source; `labels`: number of slots before, `bounds`: whether bounds changed."""
        source, shape = view.source, shape_of(view.source)
        changed = labels != len(self._slots)
        if not (changed or bounds or self._holds_data):
            return
        slots, through, means = source.slots, None, None
        positions = view.take(torch.arange(shape.numel(), device="cpu").view(shape)).reshape(-1)
        if changed:
            slots = written_through(slots, self._slots, positions, shape)
        if bounds:
            assert self._bound is not None
            places = (positions.to(self._bound.device),)
            before = source.means()
            if before is not None and self.expectation is not None:
                own = self.expectation.expand(shape_of(self)).reshape(-1)
                means = before.reshape(-1).index_put(places, own.to(before)).view(shape)
            with torch.enable_grad():
                through = source.bound.reshape(-1).index_put(places, self._bound.reshape(-1)).view(shape)
        source._take_over(self._holds_data, slots, through, self.sources, means)
        view.seen = source.version

    def means(self) -> Tensor | None:
        """Means of all elements in the dtype of bounds, or None if they are unknown."""
        if not self.holds_data:
            return None if self.value is None else self.value().detach().to(self.run.dtype)
        return None if self.expectation is None else self.expectation.expand(shape_of(self))

    def look_again(self) -> None:
        """Update a view whose source has changed."""
        view = self._view
        if view is None:
            return
        source = view.source
        source.look_again()
        if view.seen == source.version:
            return
        view.seen = source.version
        self.version += 1
        if source.holds_data:
            self.value = None
        if source._bound is not None:
            means = source.means() if source.expectation is not None else None
            with torch.enable_grad():
                self._bound, self.sources = view.take(source._bound), source.sources
            self.expectation = None if means is None else view.take(means)
        if self.run.traces_sizes:
            self.set_slots(tuple(canonical(view.take(slot)) for slot in source._slots))

    def sizes(self) -> torch.Size:
        """The shape, with traced integers for axes that hold channels."""
        slots = self.slots
        if self._sizes is None:
            shape: list[int] = list(shape_of(self))
            for slot in slots:
                small, flexible = squeezed(slot), inner_axis(slot)
                for axis in varying(slot):
                    if flexible is not None and (axis == flexible or not isinstance(shape[axis], TracedInt)):
                        shape[axis] = TracedInt(shape[axis], AxisSize(small, axis, flexible))
            self._sizes = torch.Size(shape)
        return self._sizes

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer questions about shape, dtype and device; send every other operation to the run."""
        kwargs = kwargs or {}
        if func in METADATA:
            return _metadata(func, args, kwargs)
        operands = tensors((args, kwargs))
        run = next(operand.run for operand in operands if isinstance(operand, Proxy))
        return unwatched(run.call, func, args, kwargs, operands)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Raise for an operation that bypassed the Python API: there is no storage to compute with."""
        raise DFPCError(
            f"{func} reached a traced tensor below torch's Python API (a compiled extension or a custom C++ operator); "
            f"wrap the call in a Python function that hands over to torch.overrides.handle_torch_function and register a "
            f"rule for it with @dfpc_plugin.rule."
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Proxy:
        """Return the proxy itself: there is no storage to copy."""
        return self

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """Show shape and dtype, for a forward that prints."""
        return f"Proxy(shape={tuple(shape_of(self))}, dtype={self.dtype})"


def _metadata(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Answer a question about shape, dtype or device, with traced integers for sizes of channels."""
    proxy = args[0] if args else None
    if isinstance(proxy, Proxy) and proxy.run.traces_sizes:
        if func in _SIZES:
            asked = [*args[1:2], *kwargs.values()]
            sizes = proxy.sizes()
            return sizes if not asked or asked[0] is None or func is not Tensor.size else sizes[asked[0]]
        if func in _COUNTS:
            return math.prod(proxy.sizes())
    if func == _GRADIENT and isinstance(proxy, Proxy) and proxy.original is not None:
        return proxy.original.grad
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def is_data(value: Any) -> bool:
    """Tell whether `value` depends on data; weights, numbers and constants do not."""
    return isinstance(value, Proxy) and value.holds_data


def value_of(tensor: Tensor) -> Tensor:
    """Return the values of a weight or constant; a proxy without known values is returned as it is."""
    if isinstance(tensor, Proxy):
        return tensor if tensor.value is None else tensor.value()
    return tensor


def shape_of(tensor: Tensor) -> torch.Size:
    """The shape without traced integers."""
    if isinstance(tensor, Proxy):
        return tensor._shape
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.shape


def slots_of(value: Any) -> tuple[Tensor, ...]:
    """The labels of a tensor; none for ordinary tensors and numbers."""
    return value.slots if isinstance(value, Proxy) else ()


def blank(tensor: Tensor) -> Tensor:
    """Labels of a tensor without channels: zeros."""
    return torch.zeros((), dtype=torch.long, device="cpu").expand(shape_of(tensor))
