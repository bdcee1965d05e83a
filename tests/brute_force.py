"""Which outputs of layers can be removed together, found by removing them and looking.

The oracle knows nothing of labels. It takes every set of indices along given axes out of the weights, drops
columns of readers whose inputs became zero, tries every value of the attributes that may have to follow, runs
the model, and asks whether it still computes what it does with the same entries set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.inputs import as_call
from dfpc_plugin.surgery import cut
from dfpc_plugin.tracing.tree import tensors
from zero_cut import difference, masked_statistics, outputs, randomise, state

Element = tuple[int, int]
"""Position of an axis, and an index along it."""


class Between(nn.Module):
    """`function(self, x, ...)` on modules, parameters, and integers given by name."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)
        randomise(self.double().eval())

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)

    def extra_repr(self) -> str:
        return self.function.__qualname__.replace(".<locals>", "")


@dataclass(frozen=True)
class Experiment:
    """What the oracle may remove, and what has to follow.

    Attributes:
        model: The model, in double precision.
        inputs: What to call it with.
        axes: Each a tuple of `(tensor, dim)` that lose the same indices: a layer's rows and its bias.
        readers: Layers whose columns go where their inputs are zero.
        attributes: `module.name` or `module.name[0]`: integers that may become smaller.
        least: How many indices of every axis stay.
    """

    model: nn.Module
    inputs: Any
    axes: tuple[tuple[tuple[str, int], ...], ...]
    readers: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    least: int = 1

    @cached_property
    def sizes(self) -> list[int]:
        named = state(self.model)
        return [named[axis[0][0]].size(axis[0][1]) for axis in self.axes]

    def subsets(self) -> Iterator[frozenset[Element]]:
        """Every choice of indices that leaves some of each axis."""
        for chosen in product(*(_proper_subsets(size, self.least) for size in self.sizes)):
            elements = frozenset((axis, index) for axis, some in enumerate(chosen) for index in some)
            if elements:
                yield elements

    def zero_state(self, elements: frozenset[Element]) -> dict[str, Tensor]:
        named = {name: tensor.detach().clone() for name, tensor in state(self.model).items()}
        for axis, index in elements:
            for name, dim in self.axes[axis]:
                if not name.endswith("original1"):  # the direction of weight norm, whose length is zero
                    named[name].select(dim, index).fill_(1.0 if name.endswith("running_var") else 0.0)
        return named

    def expected(self, elements: frozenset[Element]) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Outputs without some elements and the columns that read them; these columns by reader; weights."""
        named = self.zero_state(elements)
        empty = self.reader_inputs(named)
        for reader, columns in empty.items():
            module, weight = self.model.get_submodule(reader), named[f"{reader}.weight"]
            for number in columns.nonzero().squeeze(1).tolist():
                if isinstance(module, nn.modules.conv._ConvTransposeNd):
                    weight[number] = 0
                else:
                    part = weight.unflatten(0, (getattr(module, "groups", 1), -1))[number // weight.size(1)]
                    part[:, number % weight.size(1)] = 0
        return self._run(named), empty, named

    def reader_inputs(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per reader, which columns read nothing but zeros."""
        empty: dict[str, Tensor] = {}
        handles = []
        for reader in self.readers:

            def note(module: Any, inputs: Any, reader: str = reader) -> None:
                axis = -1 if isinstance(module, nn.Linear) else inputs[0].dim() - _rank(module)
                zero = inputs[0].movedim(axis, 0).flatten(1).eq(0).all(1)
                empty[reader] = empty.get(reader, torch.ones_like(zero)) & zero

            handles.append(self.model.get_submodule(reader).register_forward_pre_hook(note))
        try:
            self._run(named)
        finally:
            for handle in handles:
                handle.remove()
        return empty

    def _run(self, named: dict[str, Tensor]) -> list[Tensor]:
        args, kwargs = as_call(self.inputs)
        with torch.no_grad():
            return _flat(functional_call(self.model, named, args, kwargs, strict=False))

    def is_valid(self, elements: frozenset[Element]) -> bool:
        """Whether the model can do without these elements and whatever else becomes superfluous."""
        expected, empty, smaller = self.expected(elements)
        for reader, columns in empty.items():
            module = self.model.get_submodule(reader)
            if columns.all():
                return False
            dim = 0 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 1
            kept = _columns_kept(module, smaller[f"{reader}.weight"], columns, dim)
            if kept is None:
                return False
            smaller[f"{reader}.weight"] = kept
        for axis, size in enumerate(self.sizes):
            gone = {index for at, index in elements if at == axis}
            kept = torch.tensor([index for index in range(size) if index not in gone])
            for name, dim in self.axes[axis]:
                smaller[name] = smaller[name].index_select(dim, kept)
        return any(self._agrees(smaller, expected, values) for values in self._assignments())

    def _assignments(self) -> Iterator[dict[str, int]]:
        ranges = [range(_get(self.model, name), -1, -1) for name in self.attributes]
        for values in product(*ranges):
            yield dict(zip(self.attributes, values, strict=True))

    def _agrees(self, named: dict[str, Tensor], expected: list[Tensor], values: dict[str, int]) -> bool:
        before = {name: _get(self.model, name) for name in values}
        try:
            for name, value in values.items():
                _set(self.model, name, value)
            return difference(expected, self._run(named)) < 1e-9
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, ZeroDivisionError):
            return False
        finally:
            for name, value in before.items():
                _set(self.model, name, value)

    def valid(self) -> set[frozenset[Element]]:
        """Every set of elements that can go."""
        with masked_statistics():
            return {elements for elements in self.subsets() if self.is_valid(elements)}

    def found(self) -> set[frozenset[Element]]:
        """Every set of elements that couplings allow: equally many channels of every block.

        `cut` has to take out all of them, and the model then has to compute the right thing.
        """
        couplings = map_couplings(self.model, self.inputs)
        channels = couplings.channels
        places = {(axis.tensor, axis.dim): axis.channels for axis in channels.axes}
        start = dict(vars(channels))
        allowed = [coupling for coupling in couplings.couplings if coupling.protected is None]
        free = {number for coupling in allowed for number in coupling.blocks.flatten().tolist()}
        of = {
            (axis, index): {int(places[place][index]) for place in self.axes[axis]}
            for axis, size in enumerate(self.sizes)
            for index in range(size)
        }
        result = set()
        for elements in self.subsets():
            gone = set().union(*(of[element] for element in elements))
            if not gone <= free or any(of[element] & gone for element in of.keys() - elements):
                continue
            if not all(_is_balanced(coupling.blocks, gone) for coupling in allowed):
                continue
            smaller = copy.deepcopy(self.model)
            vars(channels).update(start)
            cut(smaller, couplings, torch.tensor(sorted(gone)))
            with masked_statistics():
                assert difference(self.expected(elements)[0], outputs(smaller, self.inputs)) < 1e-9, (
                    f"wrong without {elements}"
                )
            result.add(elements)
        vars(channels).update(start)
        return result


def _is_balanced(blocks: Tensor, gone: set[int]) -> bool:
    """Whether every block loses equally many, and keeps some."""
    counts = {len(gone.intersection(block)) for block in blocks.tolist()}
    return len(counts) == 1 and counts <= {*range(blocks.size(1))}


def _proper_subsets(size: int, least: int) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(range(size), count) for count in range(size - least + 1)))


def _rank(module: nn.Module) -> int:
    return len(module.kernel_size) + 1 if hasattr(module, "kernel_size") else 1


def _flat(result: Any) -> list[Tensor]:
    return [tensor for tensor in tensors(result) if tensor.is_floating_point()]


def _columns_kept(module: Any, weight: Tensor, empty: Tensor, dim: int) -> Tensor | None:
    """A weight without columns that read zeros; None if groups would be left with different numbers."""
    groups = getattr(module, "groups", 1)
    if groups == 1 or dim == 0:
        return weight.index_select(dim, (~empty).nonzero().squeeze(1))
    rows = empty.view(groups, -1)
    if len({int(row.sum()) for row in rows}) > 1:
        return None
    parts = zip(weight.chunk(groups), rows, strict=True)
    return torch.cat([part[:, ~row] for part, row in parts])


def _place(model: nn.Module, path: str) -> tuple[dict[str, Any], str, int | None]:
    path, _, position = path.partition("[")
    owner, _, name = path.rpartition(".")
    return vars(model.get_submodule(owner)), name, int(position[:-1]) if position else None


def _get(model: nn.Module, path: str) -> int:
    table, name, position = _place(model, path)
    return int(table[name] if position is None else table[name][position])


def _set(model: nn.Module, path: str, value: int) -> None:
    table, name, position = _place(model, path)
    if position is None:
        table[name] = value
        return
    entries = list(table[name])
    entries[position] = value
    table[name] = type(table[name])(entries)


def layer(path: str, dim: int = 0, bias: bool = True) -> tuple[tuple[str, int], ...]:
    """Rows of a layer with their bias."""
    return ((f"{path}.weight", dim), (f"{path}.bias", 0)) if bias else ((f"{path}.weight", dim),)


def norm(path: str) -> tuple[tuple[str, int], ...]:
    """All vectors of a BatchNorm."""
    return tuple((f"{path}.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var"))


def check(
    model: nn.Module,
    inputs: Any,
    axes: Sequence[tuple[tuple[str, int], ...]],
    readers: Sequence[str] = ("out",),
    attributes: Sequence[str] = (),
    *,
    exact: bool = True,
    least: int = 1,
) -> int:
    """Compare what couplings allow with what can be done; returns how many sets of indices that is.

    Not `exact`: more can be done, where equal results are a coincidence of few channels or operators are
    followed with less than full freedom.
    """
    experiment = Experiment(model, inputs, tuple(axes), tuple(readers), tuple(attributes), least)
    found, valid = experiment.found(), experiment.valid()
    assert found <= valid, f"only cut: {_few(found - valid)}"
    assert not exact or valid <= found, f"only by force: {_few(valid - found)}"
    return len(found)


def _few(sets: set[frozenset[Element]]) -> list[list[Element]]:
    return sorted(map(sorted, sets), key=lambda s: (len(s), s))[:4]
