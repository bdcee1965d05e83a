"""The tensor that a model's forward sees while it is traced.

A proxy has a shape, a dtype and a device, but no storage. Every operation on one reaches `__torch_function__`, hence its run
and the record of the operator; what slips below the Python API reaches `__torch_dispatch__`, which raises. A proxy carries
what each analysis knows of its tensor: labels of channels, and bounds (or variances and means) of its entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.preserve import unwatched
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.metadata import METADATA
from dfpc_plugin.tracing.sizes import AxisSize, TracedInt
from dfpc_plugin.tracing.tree import tensors
from dfpc_plugin.tracing.views import View, written_through

__all__ = ["Proxy", "blank", "is_data", "shape_of", "value_of"]

_SIZES = (Tensor.shape.__get__, Tensor.size)  # type: ignore[attr-defined]
_COUNTS = (Tensor.numel, Tensor.nelement, torch.numel)
_GRADIENT: Any = vars(torch._C.TensorBase)["grad"].__get__
_NO_SPREAD: Mapping[int, int | None] = {}


class Tracer(Protocol):
    """What a proxy needs of its run."""

    traces_sizes: bool
    dtype: torch.dtype

    def call(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], operands: list[Tensor]) -> Any:
        """Carry out an operation; `operands` are all tensors among its arguments."""


class Proxy(torch.Tensor):
    """Stands for data, for weights or for constants.

    Attributes:
        run: The run that it belongs to.
        value: Computes its actual values where they are known (weights, constants, integers that the user gave), else None.
        original: The parameter or buffer that this stands for, if it does.
        origins: The parameters and buffers that it was computed from, where nothing else went in.
        slots: Labels of channels, tensors of this tensor's shape. An entry has a label per slot: a weight `(out, in)` belongs
            to an output channel and to an input channel, a feature map to one channel. No slot: no channels.
        wild: A constant made from the shape of data, which takes whatever shape the data has.
        multiplied: It is a product of data with data, or of constants with constants, so no weight of a layer.
        spread: Axes along which one entry was expanded to many, with the size asked for: they have no entries of their own, but
            for what a forward has written into a constant. None where the size is asked for elsewhere.
        ends: Axes of such a constant, with the positions where slices of it begin or end.
        rows: Labels of the rows of weights, biases and norms that have made it, with nothing but linear operators since, laid
            out as it is: scaling all of these rows scales it. None if there are no such rows.
        factors: Of a product of data with data, the rows of either factor: scaling those of one of them scales it.
        sources: The feed-in layers that reach it.
        expectation: Means of its entries (which broadcast to them), where these are known and asked for.
        curve: Of what every entry is a function, if it is known as one of a single tensor.
        version: Counts changes in place.
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
    _view: View[Proxy] | None = None
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
        """Make a proxy of some shape; the analyses attach what they know."""
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.run, self.value, self._holds_data = run, value, data
        self._shape, self._dtype, self._device = shape, dtype, device
        if slots:
            self.set_slots(slots)
        return self

    # Properties of Python answer what every operator asks for faster than `__torch_function__` can.
    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """The shape, with traced integers if the run traces sizes."""
        return self.sizes() if self.run.traces_sizes else self._shape

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """What the model sees."""
        return self._dtype

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the model's tensor lies."""
        return self._device

    @property
    def holds_data(self) -> bool:
        """Whether it depends on data: itself, or what it is a view of."""
        if self._holds_data:
            return True
        view = self._view
        return view is not None and view.source.holds_data

    @property
    def slots(self) -> tuple[Tensor, ...]:
        """Labels as of now, also when the tensor that this one views was changed in place."""
        self.look_again()
        return self._slots

    @property
    def bound(self) -> Tensor:
        """Bounds, or variances, as of now; zero for what does not depend on data."""
        self.look_again()
        if self._bound is None:
            self._bound = torch.zeros((), dtype=self.run.dtype, device=self.device).expand(shape_of(self))
        return self._bound

    def set_slots(self, slots: tuple[Tensor, ...]) -> None:
        """Replace the labels, which are canonical; a slot that is the same everywhere tells no channels apart."""
        self._slots = tuple([slot for slot in slots if slot.numel() and varying(slot)])
        self._sizes = None

    def set_bound(self, bound: Tensor, sources: frozenset[str], expectation: Tensor | None = None) -> None:
        """Attach bounds, or variances and means, and the feed-in layers that reach it."""
        self._bound = bound if bound.dtype == self.run.dtype else bound.to(self.run.dtype)
        self.sources, self.expectation = sources, expectation

    def set_view(self, source: Proxy, take: Callable[[Tensor], Tensor], *, looked_at: bool = True) -> None:
        """Make it a view of `source`."""
        self._view = View(source, take, looked_at=looked_at)

    @property
    def viewed(self) -> Proxy:
        """The tensor that this is a view of in the end; itself if it is none."""
        return self if self._view is None else self._view.source.viewed

    def copy_of_labels(self) -> Proxy:
        """Return a proxy that knows what this one knows but for bounds, and is a view of nothing."""
        made = Proxy(
            shape_of(self), self.run, self.dtype, self.device, data=self.holds_data, value=self.value, slots=self.slots
        )
        made.wild, made.spread, made.rows, made.factors = self.wild, self.spread, self.rows, self.factors
        made.multiplied = self.multiplied
        made.origins = self.origins
        return made

    def labels_along(self, axis: int) -> Tensor | None:
        """Return the slot that varies along `axis`, or None."""
        for slot in self.slots:
            if slot.size(axis) > 1 and slot.stride(axis):
                return slot
        return None

    def change(self, result: Proxy, slots: tuple[Tensor, ...]) -> None:
        """Become `result` in place, with the labels `slots`, here and in everything that this tensor is a view of."""
        bound = result._bound
        if bound is not None and bound.shape != shape_of(self):
            bound = bound.expand(shape_of(self))
        self.rows, self.factors, self.spread = result.rows, result.factors, result.spread
        self._take_over(result.holds_data, slots, bound, result.sources, result.expectation)
        self.value, self.curve = result.value, None

    def _take_over(
        self,
        data: bool,
        slots: tuple[Tensor, ...],
        bound: Tensor | None,
        sources: frozenset[str],
        expectation: Tensor | None = None,
    ) -> None:
        before, before_bound = self.slots, self.bound if bound is not None else None
        self.set_slots(slots)
        self.version += 1
        self._holds_data = data or self.holds_data
        if self._holds_data:
            self.value = None
        if bound is not None:
            self._bound, self.sources, self.expectation = bound, self.sources | sources, expectation
        if self._view is not None:
            self._write_through(self._view, len(before), before_bound is not None)

    def _write_through(self, view: View[Proxy], labels: int, bounds: bool) -> None:
        """Change what this is a view of; before, this had so many labels, and bounds only if they have changed."""
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
        """Means of all entries, in the precision of bounds; None where they are not known."""
        if not self.holds_data:
            return None if self.value is None else self.value().detach().to(self.run.dtype)
        return None if self.expectation is None else self.expectation.expand(shape_of(self))

    def look_again(self) -> None:
        """Take a view again if its source has changed."""
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
        """Send every operation to the run; answer what shape, dtype and device answer."""
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
        """Refuse whatever got past the Python API: there is no storage to compute with."""
        raise DFPCError(
            f"{func} reached a traced tensor below torch's Python API (a compiled extension or a custom C++ operator); "
            f"wrap the call in a Python function that hands over to torch.overrides.handle_torch_function and register a "
            f"rule for it with @dfpc_plugin.rule."
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Proxy:
        """A copy stands for the same: there is no storage to copy."""
        return self

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """Say what is known, for a forward that prints."""
        return f"Proxy(shape={tuple(shape_of(self))}, dtype={self.dtype})"


def _metadata(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Answer a question about shape, dtype or device; sizes of channels as traced integers."""
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
    """The actual values of weights and constants, without gradients."""
    if isinstance(tensor, Proxy):
        return tensor if tensor.value is None else tensor.value()
    return tensor


def shape_of(tensor: Tensor) -> torch.Size:
    """The shape as torch stores it."""
    if isinstance(tensor, Proxy):
        return tensor._shape
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.shape


def blank(tensor: Tensor) -> Tensor:
    """Labels of a tensor without channels."""
    return torch.zeros((), dtype=torch.long, device="cpu").expand(shape_of(tensor))
