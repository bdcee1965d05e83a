"""Repair by least squares: fit each layer, on its inputs in the pruned model, to its outputs in the unpruned one."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import interrupts_held, undone
from dfpc_plugin.repairing.equations import Equations, Solution
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.lockstep import Key, Pair, Step, survey
from dfpc_plugin.repairing.report import SHARED, LayerRepair
from dfpc_plugin.repairing.store import Store
from dfpc_plugin.repairing.targets import row_factors, shift_outputs, wanted_output
from dfpc_plugin.tracing.tree import tensors

_ENTRIES = 2**26
"""Largest number of values in the sampled rows of one layer: 256 MiB of float32."""
_AT_ONCE = 2**22
_UNSEEN = 4
"""One in this many samples is held out."""
_EXACT = 1e-12
_LEAST_MEMORY = 4 * 2**30
_ALIVE = 4
"""Approximate memory of two paused forwards, in multiples of the largest layer's inputs and outputs."""


def fit_layers(job: RepairJob, batches: Batches, store: Store, progress: Callable[[float], None]) -> list[LayerRepair]:
    """Change the weights of a job's model, in place, so that every layer's outputs approach those in the unpruned one.

    Both models are in evaluation mode. At most `rows` rows of a layer's inputs are sampled, over all batches; `ridge` is
    that of `Equations.solve`. Batches whose paused forwards do not fit into `memory_gib` (half of the free memory if
    None) are run from the start for every layer, on average half a forward each time. Returns reports in the order of
    the forward; raises RepairError if the two models do not run the same layers.
    """
    settings, memory_gib = job.settings, job.settings.memory_gib
    steps = survey(job.original, batches.one, job.forward_fn)
    limit = _half_of_free(tensors(batches.parts[0])[0].device) if memory_gib is None else memory_gib * 2**30
    taken = itertools.accumulate(_ALIVE * max(step.largest for step in steps) * count for count in batches.counts)
    walk = _Walk(job, batches.parts, hold=sum(size <= limit for size in taken))
    begun: dict[Key, _Layer] = {}
    found = []
    with contextlib.closing(walk):
        for number, step in enumerate(steps):
            generator = torch.Generator().manual_seed(settings.seed + number)
            for pair, seen in zip(walk.at(number), batches.seen, strict=True):
                layer = begun.get(step.key) or begun.setdefault(
                    step.key, _Layer(step, pair, job.kept, settings.rows, batches)
                )
                if not store.has(number) and not step.shared:
                    layer.sample(pair, job.kept, seen, generator)
            if step.last:
                found.append(begun.pop(step.key).repair(settings.used_ridge, store, number))
                walk.refresh()
            progress((number + 1) / len(steps))
    return found


class _Layer:
    """A layer that is being fitted."""

    def __init__(self, step: Step, pair: Pair, kept: Kept, rows: int, batches: Batches) -> None:
        """Prepare for `rows` samples from all of `batches` together."""
        call = pair.pruned.call
        self._step, self._settlement, self._call = step, pair.pruned, call
        matrix = call.matrix
        old = torch.zeros(matrix.shape[:2]).flatten() if call.bias is None else call.bias.detach()
        self._bias = old.to(matrix).view(matrix.shape[:2])
        self._entries = matrix.shape[0] * matrix.shape[2]
        count = len(batches.parts)
        self._rows = max(16, min(rows // count, _ENTRIES // (self._entries * count)))
        available = call.positions(pair.pruned.output) * count
        self._equations = Equations(
            matrix, self._bias, rows=min(self._rows * count, available), free_bias=step.takes_constant
        )
        self._exact = True
        self._factors = row_factors(pair.original.call, call, kept)

    def sample(self, pair: Pair, kept: Kept, seen: float, generator: torch.Generator) -> None:
        """Sample rows of the layer's inputs and their targets from two forwards that have stopped at it.

        A share `seen` of the positions, from the front, may be fitted to; the others are held out.
        """
        call, output = pair.pruned.call, pair.pruned.output
        if self._step.repeated:  # the other summand may depend on this layer's own outputs, which will change
            pair.original.other = pair.pruned.other = None
        wanted = wanted_output(pair.original, pair.pruned, kept.outputs(pair.original.call), self._factors)
        self._exact = self._exact and _is_close(output, wanted)
        total = call.positions(output)
        border = min(max(round(total * seen), 1 if seen else 0), total)
        share = max(1, self._rows // _UNSEEN)
        for low, high, count, take in (
            (0, border, self._rows - share, self._equations.add),
            (border, total, share, self._equations.add_unseen),
        ):
            chosen = (low + _some(high - low, count, generator)).to(output.device)
            for positions in chosen.split(max(1, _AT_ONCE // self._entries)) if high > low else ():
                take(call.rows(positions), call.outputs(wanted, positions))

    def repair(self, ridge: float, store: Store, number: int) -> LayerRepair:
        if store.has(number):
            matrix, bias, report = store.load(number, self._call.matrix)
        else:
            solution = None if self._exact or self._step.shared else self._equations.solve(ridge)
            report = self._report(solution)
            matrix, bias = (self._call.matrix, self._bias) if solution is None else (solution.matrix, solution.bias)
            store.save(number, matrix, bias, report)
        if report.changed:
            self._call.write(matrix)
            if self._step.takes_constant:
                shift_outputs(self._settlement, (bias - self._bias).flatten())
        return report

    def _report(self, solution: Solution | None) -> LayerRepair:
        name = self._step.name
        if self._step.shared:
            return LayerRepair(name, False, note=SHARED)
        if self._exact:
            return LayerRepair(name, False, 0.0, 0.0, note="as in the original")
        if solution is not None:
            return LayerRepair(name, True, solution.before, solution.after, solution.ridge)
        error = self._equations.error(self._call.matrix, self._bias)
        note = "nothing does better" if math.isfinite(error) else "its outputs do not vary, or are not finite"
        return LayerRepair(name, False, error, error, note=note)


class _Walk:
    """Runs two models layer by layer, on several batches at once."""

    def __init__(self, job: RepairJob, batches: Sequence[ExampleInputs], *, hold: int) -> None:
        """Prepare to pause forwards of the first `hold` batches at each layer; the others are restarted each time."""
        self._new = lambda batch: Pair(job.original, job.model, batch, job.forward_fn)
        self._held, self._others = [self._new(batch) for batch in batches[:hold]], batches[hold:]

    def at(self, step: int) -> Iterator[Pair]:
        """Yield a pair of forwards per batch, stopped at layer number `step`; use each before requesting the next."""
        for pair in self._held:
            pair.advance()
            yield pair
        for batch in self._others:
            pair = self._new(batch)
            with undone(pair.close):
                for _ in range(step + 1):
                    pair.advance()
                yield pair

    def refresh(self) -> None:
        """Recompute the current layer in the paused forwards, with its new weights."""
        for pair in self._held:
            pair.pruned.refresh()

    def close(self) -> None:
        with interrupts_held():
            for pair in self._held:
                pair.close()


def _half_of_free(device: torch.device) -> float:
    """Half of the free memory of a device, in bytes, and 4 GiB at least."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:  # unknown on this system
        free = 0
    return max(free / 2, _LEAST_MEMORY)


def _some(available: int, count: int, generator: torch.Generator) -> Tensor:
    """Choose `count` of the `available` positions, or all."""
    if available <= count:
        return torch.arange(available)
    return torch.randperm(available, generator=generator)[:count].sort().values


def _is_close(output: Tensor, wanted: Tensor) -> bool:
    """Whether a layer needs no repair."""
    error = (output - wanted).float().square().sum()
    return bool(error <= _EXACT * wanted.float().square().sum())
