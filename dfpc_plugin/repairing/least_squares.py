"""Repair by least squares: every layer in turn, on what reaches it in the pruned model, towards what the unpruned one makes."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.constants import can_add_constant, shift_outputs
from dfpc_plugin.repairing.equations import Equations, Solution
from dfpc_plugin.repairing.factors import row_factors
from dfpc_plugin.repairing.follow import Settlement
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.lockstep import Pair, settlements
from dfpc_plugin.repairing.report import LayerRepair
from dfpc_plugin.repairing.store import Store
from dfpc_plugin.repairing.wanted import wanted_output

__all__ = ["fit_layers"]

_ENTRIES = 2**26
"""Numbers that the sampled rows of one layer may be in all: 256 MiB of float32."""
_AT_ONCE = 2**22
_UNSEEN = 4
"""One in so many samples is kept to judge by."""
_EXACT = 1e-12
_ALIVE = 4
"""How many times the largest layer's inputs and outputs two forwards hold, about, when they wait."""


def fit_layers(
    model: nn.Module,
    original: nn.Module,
    batches: Sequence[ExampleInputs],
    kept: Kept,
    *,
    forward_fn: ForwardFunction | None,
    ridge: float,
    rows: int,
    seed: int,
    memory_gib: float,
    store: Store,
    progress: Callable[[float], None],
) -> list[LayerRepair]:
    """Change the weights of `model`, in place, so that every layer makes of its inputs what it makes in `original`.

    Args:
        model: The pruned model, in evaluation mode.
        original: The model it was pruned from, in evaluation mode.
        batches: What to call both with.
        kept: Which channels are left.
        forward_fn: As everywhere.
        ridge: See `Equations.solve`.
        rows: How many rows of a layer's inputs to sample, at most, from all batches together.
        seed: Chooses them.
        memory_gib: If the forwards of all batches fit in that, they are kept under way; otherwise they are started again for
            every layer, which needs the memory of one batch and takes half as many forwards as there are layers.
        store: Where solved layers are kept, and taken from if they are there.
        progress: Told the share of the layers that is done.

    Returns:
        What was done, layer by layer in the order of the forward.

    Raises:
        RepairError: The two models do not run the same layers.
    """
    order, largest = [], 0
    for settlement in settlements(original, batches[0], forward_fn):
        order.append(_key(settlement))
        largest = max(largest, _bytes(settlement.call.input) + _bytes(settlement.output))
    hold = _ALIVE * largest * len(batches) <= memory_gib * 2**30
    walk = _Walk(original, model, batches, forward_fn, hold)
    begun: dict[tuple[str, int | None], _Layer] = {}
    left = Counter(order)
    found = []
    with contextlib.closing(walk):
        for step, key in enumerate(order):
            left[key] -= 1
            generator = torch.Generator().manual_seed(seed + step)
            layer: _Layer | None = None
            for pair in walk.at(step):
                if layer is None:
                    layer = begun.pop(key, None) or _Layer(pair, kept, rows // len(batches), len(batches))
                if not store.has(step):
                    layer.sample(pair, kept, generator)
            assert layer is not None
            if left[key]:
                begun[key] = layer  # it runs again, and is fitted to all of its calls
            else:
                found.append(layer.repair(key[0], ridge, store, step))
                walk.refresh()
            progress((step + 1) / len(order))
    return found


def _key(settlement: Settlement) -> tuple[str, int | None]:
    """A layer, or one of several matrices that lie in one weight."""
    return settlement.call.name, settlement.call.rows_of.start


class _Layer:
    """A layer that is being fitted."""

    def __init__(self, pair: Pair, kept: Kept, rows: int, batches: int) -> None:
        """Prepare for `rows` samples from each of `batches` batches."""
        call = pair.pruned.call
        self._settlement, self._call = pair.pruned, call
        matrix = call.matrix
        outputs = matrix.shape[1]
        bias = call.bias
        old = torch.zeros(outputs * len(matrix)).to(matrix) if bias is None else bias.detach().to(matrix)
        self._bias = old.view(len(matrix), outputs)
        free = can_add_constant(pair.pruned)
        self._entries = matrix.shape[0] * matrix.shape[2]
        self._rows = max(16, min(rows, _ENTRIES // (self._entries * batches)))
        available = call.positions(pair.pruned.output) * batches
        self._equations = Equations(matrix, self._bias, rows=min(self._rows * batches, available), free_bias=free)
        self._exact = True
        self._factors = row_factors(pair.original.call, call, kept)

    def sample(self, pair: Pair, kept: Kept, generator: torch.Generator) -> None:
        """Take rows of the layer's inputs, and what is wanted of them, from two forwards that have come to it."""
        call, output = pair.pruned.call, pair.pruned.output
        wanted = wanted_output(pair.original, pair.pruned, kept.outputs(pair.original.call), self._factors)
        self._exact = self._exact and _is_close(output, wanted)
        total = call.positions(output)
        seen = max(1, total - total // _UNSEEN)
        share = max(1, self._rows // _UNSEEN)
        for low, high, count, take in (
            (0, seen, self._rows - share, self._equations.add),
            (seen if seen < total else 0, total, share, self._equations.add_unseen),
        ):
            chosen = (low + _some(high - low, count, generator)).to(output.device)
            for positions in chosen.split(max(1, _AT_ONCE // self._entries)):
                take(call.rows(positions), call.outputs(wanted, positions))

    def repair(self, name: str, ridge: float, store: Store, step: int) -> LayerRepair:
        """Solve, write, and say what came of it."""
        if store.has(step):
            matrix, bias, report = store.load(step, self._call.matrix)
            if report.changed:
                self._write(matrix, bias)
            return report
        solution = None if self._exact else self._equations.solve(ridge)
        report = _report(name, self._exact, solution, self._equations, self._call.matrix, self._bias)
        if solution is not None:
            self._write(solution.matrix, solution.bias)
        store.save(step, self._call.matrix if solution is None else solution.matrix, self._bias if solution is None else solution.bias, report)
        return report

    def _write(self, matrix: Tensor, bias: Tensor) -> None:
        """Give the layer new weights; a constant goes into its bias, or into the mean that the norm behind it subtracts."""
        self._call.write(matrix)
        if can_add_constant(self._settlement):
            shift_outputs(self._settlement, (bias - self._bias).flatten())


class _Walk:
    """Goes through the layers of two models, for several batches at once."""

    def __init__(
        self,
        original: nn.Module,
        pruned: nn.Module,
        batches: Sequence[ExampleInputs],
        forward_fn: ForwardFunction | None,
        hold: bool,
    ) -> None:
        """Start no forward yet."""
        self._new = lambda batch: Pair(original, pruned, batch, forward_fn)
        self._batches = batches
        self._held = [self._new(batch) for batch in batches] if hold else None

    def at(self, step: int) -> Iterator[Pair]:
        """Yield a pair of forwards per batch that have come to layer number `step`, each to be used before the next."""
        if self._held is not None:
            for pair in self._held:
                pair.advance()
                yield pair
            return
        for batch in self._batches:
            with contextlib.closing(self._new(batch)) as pair:
                for _ in range(step + 1):
                    pair.advance()
                yield pair

    def refresh(self) -> None:
        """Let forwards that are under way go on with the new weights of the layer that they have come to."""
        for pair in self._held or ():
            pair.pruned.refresh()

    def close(self) -> None:
        """End all forwards."""
        for pair in self._held or ():
            pair.close()


def _some(available: int, count: int, generator: torch.Generator) -> Tensor:
    """Choose `count` of so many positions, or all."""
    if available <= count:
        return torch.arange(available)
    return torch.randperm(available, generator=generator)[:count].sort().values


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_close(output: Tensor, wanted: Tensor) -> bool:
    """Whether a layer has nothing to mend."""
    error = (output - wanted).float().square().sum()
    return bool(error <= _EXACT * wanted.float().square().sum())


def _report(
    name: str, exact: bool, solution: Solution | None, equations: Equations, matrix: Tensor, bias: Tensor
) -> LayerRepair:
    """What came of a layer."""
    if exact:
        return LayerRepair(name, False, 0.0, 0.0, note="as in the original")
    if solution is None:
        error = equations.error(matrix, bias)
        note = "nothing does better" if math.isfinite(error) else "its inputs are not finite"
        return LayerRepair(name, False, error, error, note=note)
    return LayerRepair(name, True, solution.before, solution.after, solution.ridge)
