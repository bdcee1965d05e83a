"""Prune units of every coupling on trial before any is pruned, on tensors without values, as some faults show only in a run.

If a module fails that keeps the old width in an attribute, such as one that asserts `x.shape[1] == self.channels`, the attribute
is updated with the coupling if the forward then runs; else the coupling is protected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.analyses.width_attributes import StatedWidth
from dfpc_plugin.couplings import CouplingMap, DataFlowCoupling
from dfpc_plugin.couplings.declared import width_of
from dfpc_plugin.families.registry import ForwardFunction, call_forward, failed_forward, running_modules
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import entered, undone
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.surgery.attributes import restated, stated_in
from dfpc_plugin.surgery.cut import cut
from dfpc_plugin.tracing.tree import map_tensors, returned_tensors

FAILS = "makes the forward fail when it is pruned"
"""How the reason begins for couplings of which a trial has failed."""
_INTERNAL = frozenset(vars(nn.Module()))

_MOST_RESTATED = 8
"""Maximum number of attributes that are updated with one coupling."""


def protect_what_breaks(
    model: nn.Module, example_inputs: ExampleInputs, couplings: CouplingMap, forward_fn: ForwardFunction | None = None
) -> list[DataFlowCoupling]:
    """Prune units of every coupling on trial, and protect those that make the forward fail or return other shapes.

    If the trial of all couplings fails, couplings of one kind (the same layers of numbered blocks, such as `blocks.3.mlp.fc1`)
    are tried together, then halves of a failing kind, and so on. Attributes that have to be updated are added to the stated
    widths of `couplings`. The model is not changed.

    Returns:
        The newly protected couplings; their reason quotes the error.

    Raises:
        Exception: Whatever the unpruned model raises on these inputs.
    """
    trial = _Trial(model, example_inputs, couplings, forward_fn)
    found: list[DataFlowCoupling] = []
    while (problem := trial.problem(_free(couplings))) is not None:
        broken: dict[int, _Failure] = {}
        restated = False
        for kind in _kinds(couplings):
            for number, failure in _culprits(trial, couplings, kind).items():
                if trial.restate(number, failure):
                    restated = True
                else:
                    broken[number] = failure
        if not broken and not restated:  # they fail only together: protect the cheapest, and try again
            broken = {_cheapest(couplings, _free(couplings)): problem}
        for number, failure in broken.items():
            coupling = dataclasses.replace(couplings.couplings[number], protected=failure.reason)
            couplings.couplings[number] = coupling
            found.append(coupling)
    return found


def _free(couplings: CouplingMap) -> list[int]:
    return [number for number, coupling in enumerate(couplings.couplings) if coupling.protected is None]


def _cheapest(couplings: CouplingMap, numbers: Sequence[int]) -> int:
    return min(numbers, key=lambda number: couplings.couplings[number].macs)


def _kinds(couplings: CouplingMap) -> list[list[int]]:
    """Group unprotected couplings whose layers differ only in the numbers of blocks."""
    kinds: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in _free(couplings):
        layers = couplings.couplings[number].layers
        kinds[tuple(sorted({re.sub(r"\d+(?=.*\.)", "#", name) for name in layers}))].append(number)
    return list(kinds.values())


def _culprits(trial: _Trial, couplings: CouplingMap, numbers: Sequence[int]) -> dict[int, _Failure]:
    """Find the couplings that fail when they are pruned, by bisection."""
    failure = trial.problem(numbers)
    if failure is None:
        return {}
    if len(numbers) == 1:
        return {numbers[0]: failure}
    half = len(numbers) // 2
    parts = (numbers[:half], numbers[half:])
    found = {number: own for part in parts for number, own in _culprits(trial, couplings, part).items()}
    return found or {_cheapest(couplings, numbers): failure}  # they fail only together


@dataclasses.dataclass(frozen=True)
class _Failure:
    """What goes wrong in a trial: why a coupling is protected for it, and the modules that were running (innermost first)."""

    reason: str
    modules: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        """Identifies a failure: its modules, and its text without numbers, which pruning may change."""
        return re.sub(r"\d+", "#", self.reason), self.modules


class _Trial:
    """Prunes and runs a model, and undoes the pruning."""

    def __init__(
        self, model: nn.Module, inputs: ExampleInputs, couplings: CouplingMap, forward: ForwardFunction | None
    ) -> None:
        self._model, self._inputs, self._couplings, self._forward = model, inputs, couplings, forward
        # torch runs recurrent layers step by step on the meta device
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self._make: Callable[[Tensor], Tensor] = (
            torch.clone if recurrent else functools.partial(torch.empty_like, device="meta")
        )
        self._shapes = list(couplings.channels.outputs)
        self._compared = False

    def problem(self, numbers: Sequence[int]) -> _Failure | None:
        """Say what goes wrong when units of some couplings are pruned; None if nothing does."""
        if not numbers:
            return None
        failure = self._tried(numbers)
        if failure is not None and not self._compared:
            self._run_uncut()
            failure = self._tried(numbers)
        return failure

    def restate(self, number: int, failure: _Failure) -> bool:
        """Update attributes of failing modules (in `couplings.channels.stated`); returns whether the forward then runs."""
        known = self._couplings.channels
        before = list(known.stated)
        for _ in range(_MOST_RESTATED):
            left: _Failure | None = failure
            for stated in self._checked_by(self._couplings.couplings[number], failure.modules):
                known.stated.append(stated)
                left = self._tried([number], compared=known.stated[len(before) :])
                if left is None:
                    return True
                if left.place != failure.place:
                    break
                known.stated.pop()
            if left is None or left.place == failure.place:
                break
            failure = left
        known.stated[:] = before
        return False

    def _checked_by(self, coupling: DataFlowCoupling, modules: Sequence[str]) -> Iterator[StatedWidth]:
        """Attributes of modules that equal a dimension of the coupling, except those that are solved for or fixed."""
        known = self._couplings.channels
        done = known.asked | {(stated.module, stated.name) for stated in known.stated}
        widths: dict[tuple[int, ...], Tensor] = {}
        for axis in coupling.axes:
            left = axis.channels[~known.removed[axis.channels]]
            widths.setdefault(tuple(left.tolist()), axis.channels)
        for path in modules:
            for name, value in vars(self._model.get_submodule(path)).items():
                if name in _INTERNAL:
                    continue
                entries = list(enumerate(value)) if type(value) in (tuple, list) else [(None, value)]
                for entry, width in entries:
                    if type(width) is int and width > 1 and (path, name) not in done:
                        for kept, own in widths.items():
                            if len(kept) == width:
                                yield StatedWidth(path, name, entry, width_of(known, own))

    def _tried(self, numbers: Sequence[int], compared: Sequence[StatedWidth] = ()) -> _Failure | None:
        """Prune and run once; attributes in `compared` may only be used in comparisons."""
        try:
            shapes = self._run(numbers, compared)
        except Exception as error:  # a forward may raise anything
            text = str(error).strip().split("\n")[0]
            problem = f"{type(error).__name__}: {text}" if text else type(error).__name__
            return _Failure(f"{FAILS}: {problem}", running_modules(self._model, error))
        return None if shapes == self._shapes else _Failure("changes the shapes of the outputs when it is pruned")

    def _run_uncut(self) -> None:
        """Find out what the unpruned model returns, and whether it needs values; raise ForwardError if it cannot run."""
        self._compared = True
        try:
            self._shapes = self._run(())
        except Exception:  # the forward needs values (such as stored indices): run it on copies
            self._make = torch.clone
            try:
                self._shapes = self._run(())
            except Exception as error:  # a forward may raise anything
                raise failed_forward(self._model, self._inputs, error) from error

    def _run(self, numbers: Iterable[int], compared: Sequence[StatedWidth] = ()) -> list[torch.Size]:
        """Prune, run and undo; returns the shapes of the outputs."""
        trial = self._couplings.copy()
        with evaluating(self._model), _exchanged(self._model, self._make), torch.no_grad():
            units = [_some(trial.couplings[number], number, trial.channels.removed) for number in numbers]
            if units:
                cut(self._model, trial, torch.cat(units))
            for stated in compared:
                attributes = vars(self._model.get_submodule(stated.module))
                width = _OnlyCompared(stated_in(attributes[stated.name], stated.entry))
                attributes[stated.name] = restated(attributes[stated.name], stated.entry, width)
            with entered(_RefusedInCalls()):
                output = call_forward(self._model, map_tensors(self._make, self._inputs), self._forward)
        return [tensor.shape for tensor in returned_tensors(output)]


class _OnlyCompared(int):
    """A width that a forward may compare and print, but not compute with: that would change its results."""


def _refused(self: _OnlyCompared, *args: Any) -> Any:
    raise RuntimeError(f"the forward computes with {int.__repr__(self)}, which is the width of a coupling")


for _name in "add sub mul truediv floordiv mod divmod pow neg lshift rshift and or xor float trunc index".split():
    setattr(_OnlyCompared, f"__{_name}__", _refused)
    if hasattr(int, f"__r{_name}__"):
        setattr(_OnlyCompared, f"__r{_name}__", _refused)


class _RefusedInCalls(TorchFunctionMode):
    """Refuses widths that may only be compared as arguments of torch's functions."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(isinstance(value, _OnlyCompared) for value in (*args, *(kwargs or {}).values())):
            raise RuntimeError(f"the forward calls {func} with a number that is the width of a coupling")
        return func(*args, **(kwargs or {}))


def _some(coupling: DataFlowCoupling, number: int, removed: Tensor) -> Tensor:
    """Channels of the first remaining units: one to seven units, differing between couplings.

    If all lost equally many, couplings that must stay equal for reasons that labels do not show would pass the trial.
    """
    left = (~removed[coupling.blocks[0]]).nonzero().squeeze(1)
    count = 1 + number % max(1, min(len(left) - 1, 7))
    return coupling.blocks[:, left[:count]].reshape(-1)


@contextlib.contextmanager
def _exchanged(model: nn.Module, make: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace every parameter, buffer and floating-point attribute by the result of `make`, and restore them at exit."""
    made: dict[int, Tensor] = {}
    saved: list[tuple[dict[str, Any], str, Any]] = []

    def restore() -> None:
        for table, name, tensor in saved:
            table[name] = tensor

    with undone(restore):
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
            for table in tables:
                for name, tensor in list(table.items()):
                    if not isinstance(tensor, Tensor) or (table is tables[2] and not tensor.is_floating_point()):
                        continue
                    if id(tensor) not in made:
                        other = make(tensor.detach())
                        made[id(tensor)] = nn.Parameter(other, False) if isinstance(tensor, nn.Parameter) else other
                    saved.append((table, name, tensor))
                    table[name] = made[id(tensor)]
            if isinstance(module, nn.RNNBase):
                vars(module)["_flat_weights"] = [module._parameters[name] for name in module._flat_weights_names]
        yield
