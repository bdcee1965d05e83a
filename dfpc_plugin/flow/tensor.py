"""The data-flow tensor: what a model's forward sees instead of its data.

Weights stay ordinary tensors, so arithmetic on weights alone (weight standardisation, parametrizations) runs as always,
and data is told from weights for free.

Views: an operation in place on a view changes the tensor it views. A view therefore keeps its base and the way it was
taken; a change in place is written through to the base, and a view whose base has changed is taken again when read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from dfpc_plugin.flow.stand_in import StandIn

if TYPE_CHECKING:
    from dfpc_plugin.flow.engine import FlowRun

__all__ = ["FlowTensor", "View", "holds_data"]


class View:
    """How a view was taken: `take(base_bound)` gives the view's bound, `source` is the tensor it shows."""

    def __init__(self, source: FlowTensor, take: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Remember the viewed tensor and the function from its bound to the view's bound."""
        self.source = source
        self.take = take
        self.seen = source.version


class FlowTensor(StandIn):
    """Stands for data: `.bound` holds, per entry, a bound on its absolute change (same shape, >= 0).

    In a pass over expected errors, `.bound` holds variances, and `.expectation` the expected values (which broadcast to
    them) where these are known.
    """

    run: FlowRun
    _constant: torch.Tensor | None
    sources: frozenset[str]
    version: int
    _bound: torch.Tensor
    _view: View | None
    expectation: torch.Tensor | None

    @staticmethod
    def __new__(
        cls,
        bound: torch.Tensor,
        run: FlowRun,
        dtype: torch.dtype,
        sources: frozenset[str] = frozenset(),
        view: View | None = None,
        constant: torch.Tensor | None = None,
    ) -> FlowTensor:
        """Wrap `bound`; `dtype` is what the model sees, `sources` are the feed-in layers that reach this tensor.

        `constant` holds the values of a tensor made by `x.new_zeros(...)` and its like, until data is written into it.
        """
        self = torch.Tensor._make_wrapper_subclass(cls, bound.shape, dtype=dtype, device=bound.device)
        self._bound, self.run, self.sources, self.version, self._view = bound, run, sources, 0, view
        self._constant, self.expectation = constant, None
        return self

    @property
    def constant(self) -> torch.Tensor | None:
        """The values of a tensor that holds no data, neither itself nor in what it is a view of."""
        view = self._view
        return None if view is not None and view.source.constant is None else self._constant

    @property
    def bound(self) -> torch.Tensor:
        """The bound as of now, also when the tensor that this one views was changed in place."""
        view = self._view
        if view is not None:
            current = view.source.bound
            if view.seen != view.source.version:
                self._bound, view.seen = view.take(current), view.source.version
                self.version += 1
        return self._bound

    def change(self, bound: torch.Tensor, sources: frozenset[str]) -> None:
        """Replace the bound in place, here and in everything this tensor is a view of."""
        if bound.shape != self._bound.shape:
            bound = bound.expand(self._bound.shape)
        self._bound, self.sources, self._constant, self.expectation = bound, self.sources | sources, None, None
        self.version += 1
        view = self._view
        if view is not None:
            source = view.source
            positions = torch.arange(source._bound.numel(), device=bound.device).view(source._bound.shape)
            index = view.take(positions).reshape(-1)
            scattered = source.bound.reshape(-1).index_put((index,), bound.reshape(-1))
            source.change(scattered.view(source._bound.shape), sources)
            view.seen = source.version

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """Say what is known, for a forward that prints."""
        return f"FlowTensor(shape={tuple(self.shape)}, dtype={self.dtype})"


def holds_data(value: Any) -> bool:
    """Tell whether `value` stands for data; weights, numbers and constants made from a shape do not."""
    return isinstance(value, FlowTensor) and value.constant is None
