"""A Torch-Pruning group made from couplings."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning._helpers import GroupItem

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.display import counted
from dfpc_plugin.errors import GroupError
from dfpc_plugin.host.places import Place

_DEAR = 2**28


class UnitFunction:
    """A pruning `function` of Torch-Pruning that counts units of `couplings`, one after the other, not channels.

    It is equal to the function itself, so code that looks for the function finds it.
    """

    def __init__(self, function: Callable[..., Any], couplings: tuple[DataFlowCoupling, ...]) -> None:
        """Count units of `couplings`."""
        self.function = function
        self.couplings = couplings
        self.__name__: str = function.__name__
        self.__self__: Any = getattr(function, "__self__", None)

    def __call__(self, layer: Any, idxs: list[int]) -> Any:
        """Apply the function to the layer alone."""
        return self.function(layer, idxs)

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` is the function or another `UnitFunction` of it."""
        return self.function == (other.function if isinstance(other, UnitFunction) else other)

    def __hash__(self) -> int:
        """Return the function's hash."""
        return hash(self.function)

    def __repr__(self) -> str:
        """Name the function and the couplings."""
        return f"{self.__name__} by units of {', '.join(coupling.name for coupling in self.couplings)}"


class DataFlowDependency(tp.Dependency):
    """What one item of a group removes, and from which layer; `role` as in `Slice`."""

    def __init__(self, root: Place, root_function: UnitFunction, place: Place, is_root: bool) -> None:
        """State that pruning units at `root` removes channels at `place`."""
        handler = root_function if is_root else place.handler
        super().__init__(root_function, handler, source=root.node, target=place.node)
        self.role = place.axis.role


class DataFlowGroup(tp.Group):
    """Units of one or more couplings, with all their channels, in the form that Torch-Pruning's importances read.

    Items are `(dep, idxs)` with `root_idxs`: the positions `idxs` of the layer `dep.target` belong to the units `root_idxs`,
    which count the units of this group from 0. A layer with several channels per unit, such as one per attention head, has
    several items, each with one channel per unit. The first item covers every unit.

    Attributes:
        couplings: The couplings.
        units: Per coupling, the columns of its `blocks`.
    """

    def __init__(
        self, graph: tp.DependencyGraph, couplings: Sequence[DataFlowCoupling], units: Sequence[Tensor], root: Place
    ) -> None:
        """Collect the channels of `units` in a `DataFlowGraph`; `root` is the layer of the first item."""
        super().__init__()
        self._DG = graph
        self.couplings = tuple(couplings)
        self.units = tuple(units)
        self._root = root
        self._group = self._items()

    @property
    def channels(self) -> Tensor:
        """Numbers of the group's channels, in all couplings."""
        return torch.cat([c.blocks[:, own].reshape(-1) for c, own in zip(self.couplings, self.units, strict=True)])

    def prune(self, idxs: Iterable[int] | None = None, record_history: bool = True) -> None:
        """Remove the group from the model: all of it, or nothing.

        Args:
            idxs: Remove these units instead, counted among all remaining ones of the group's couplings.
            record_history: Append it to the graph's history.

        Raises:
            GroupError: Some of it has been pruned before, or nothing of a coupling would remain.
            CutError: The model's forward cannot work without it; the model is unchanged.
        """
        if idxs is not None:
            self._DG.get_pruning_group(self[0].dep.target.module, self[0].dep.handler, idxs).prune(
                record_history=record_history
            )
            return
        self._DG.prune_together([self], record_history)

    def check(self, removed: Tensor) -> None:
        """Raise if some of it is `removed`, `(channels,)` of bool, or protected, or nothing of a coupling would remain."""
        if removed[self.channels].any():
            raise GroupError(
                f"This group of '{self.couplings[0].name}' was made before a cut that took some of its channels; "
                f"get a new group from the graph."
            )
        for coupling, own in zip(self.couplings, self.units, strict=True):
            reason = self._DG.protection_of(coupling)
            if reason is not None:
                raise GroupError(f"The coupling of '{coupling.name}' must stay: it {reason}. Leave it out.")
            if len(own) and len(coupling.units_left(removed)) <= len(own):
                raise GroupError(
                    f"Cutting {len(own)} units would leave nothing of the coupling of '{coupling.name}'; keep one."
                )

    def history_entry(self, removed: Tensor | None = None) -> list[Any]:
        """Return Torch-Pruning's history entry, with positions as they are now, or without `removed` channels."""
        item = self._items(root_only=True, removed=removed)[0]
        module = item.dep.target.module
        return [self._DG.name_of(module), self._DG.is_out_channel_pruning_fn(item.dep.handler), item.idxs]

    def _items(self, root_only: bool = False, removed: Tensor | None = None) -> list[GroupItem]:
        """One item per layer, side and channel of a unit; the root's comes first."""
        removed = self._DG.coupling_map.channels.removed if removed is None else removed
        found: dict[tuple[Any, ...], tuple[Place, list[int], list[int]]] = {(self._root.key, 0): (self._root, [], [])}
        start = 0
        for coupling, own in zip(self.couplings, self.units, strict=True):
            channels = coupling.blocks[:, own]
            places: dict[tuple[Any, ...], Place] = {}
            for place in map(self._DG.place_of, coupling.axes):
                if place is not None and (place.key == self._root.key or not root_only):
                    places.setdefault(place.key, place)
            for place in places.values():
                lines = place.axis.positions(channels, removed).t().tolist()
                merged = place.key != self._root.key and _is_dear(place, len(lines))
                for line, idxs in enumerate(lines):
                    _, known, roots = found.setdefault((place.key, 0 if merged else line), (place, [], []))
                    known += idxs
                    roots += range(start, start + len(own))
            start += len(own)
        function = UnitFunction(self._root.handler, self.couplings)
        return [
            _item(DataFlowDependency(self._root, function, place, number == 0), idxs, roots)
            for number, (place, idxs, roots) in enumerate(found.values())
        ]

    def by_weight(self) -> DataFlowGroup:
        """Return a copy in which inputs of a grouped convolution are columns of its weight, as regularisers index it."""
        result = copy.copy(self)
        result._group, seen = [], set()
        for item in self.items:
            layer, other = item.dep.target.module, item
            if item.dep.handler == tp.prune_conv_in_channels and layer.groups > 1 and not layer.transposed:
                other = _item(item.dep, [i % layer.weight.size(1) for i in item.idxs], item.root_idxs)
                if (layer, *other.idxs) in seen:
                    continue  # another group's part of the same columns
                seen.add((layer, *other.idxs))
            result._group.append(other)
        return result

    def __str__(self) -> str:
        """List the couplings, and one line per layer and side."""
        sides: Counter[str] = Counter()
        for item in self.items:
            sides[_described(item)] += len(item.idxs)
        return "\n".join([self._title(), *(f"  {line}, {count} channels" for line, count in sides.items())])

    def details(self) -> str:
        """Like `str`, with the indices of every item."""
        lines = (f"  [{number}] {_described(item)} {item.idxs}" for number, item in enumerate(self.items))
        return "\n".join([self._title(), *lines])

    def _title(self) -> str:
        return f"{counted(sum(map(len, self.units)), 'unit')} of {', '.join(c.name for c in self.couplings)}"


def _item(dep: tp.Dependency, idxs: list[int], roots: list[int]) -> GroupItem:
    item = GroupItem(dep, idxs)
    item.root_idxs = roots
    return item


def _described(item: GroupItem) -> str:
    node = item.dep.target
    where = f" in dimension {node.pruning_dim}" if isinstance(node.module, nn.Parameter) else ""
    return f"{node.name}: {item.dep.handler.__name__}{where}"


def _is_dear(place: Place, lines: int) -> bool:
    """Tell whether an item per channel of a unit would make importances too slow.

    They read a layer's whole weight for every item of its inputs. A unit of a classifier behind flattened maps has as many
    inputs as a map has positions. One item with repeated `root_idxs` then holds all of them, as in Torch-Pruning.
    """
    weight = getattr(place.node.module, "weight", place.node.module)
    size = weight.numel() if isinstance(weight, Tensor) else 0
    return lines > 1 and place.axis.role == "feed-out" and lines * size > _DEAR
