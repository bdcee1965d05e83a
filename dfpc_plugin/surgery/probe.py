"""Try every kind of coupling before anything is cut.

What a forward does with numbers that no pass can follow (kept in a closure, say) shows only when it runs. So units of
every coupling are cut on trial: the model's parameters are exchanged for others without values, on the meta device, and
put back afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.couplings import CouplingMap, DataFlowCoupling
from dfpc_plugin.eager import running_eagerly
from dfpc_plugin.families import data_flow_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.flow.tree import map_tensors, returned_tensors
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.preserve import evaluating, watched
from dfpc_plugin.surgery.cut import cut

__all__ = ["protect_what_breaks"]


def protect_what_breaks(
    model: nn.Module,
    example_inputs: ExampleInputs,
    couplings: CouplingMap,
    forward_fn: ForwardFunction | None = None,
) -> list[DataFlowCoupling]:
    """Cut units of every coupling on trial, and protect those with which the forward breaks or returns other shapes.

    Couplings of one kind (those whose layers differ only in numbers: `blocks.3.mlp.fc1`) are tried together, once all
    of them together have failed. Nothing of the model is changed.

    Returns:
        The couplings that are protected now and were not before; their reason quotes the error.

    Raises:
        Exception: Whatever the uncut model raises on these inputs.
    """
    trial = _Trial(model, example_inputs, couplings, forward_fn or data_flow_forward(model))
    found: list[DataFlowCoupling] = []
    while (problem := trial.problem(_free(couplings))) is not None:
        broken = {number: reason for kind in _kinds(couplings) if (reason := trial.problem(kind)) for number in kind}
        if not broken:  # only together: leave the cheapest one out after the other
            smallest = min(_free(couplings), key=lambda number: couplings.couplings[number].macs)
            broken = {smallest: problem}
        for number, reason in broken.items():
            coupling = dataclasses.replace(couplings.couplings[number], protected=f"breaks the forward: {reason}")
            couplings.couplings[number] = coupling
            found.append(coupling)
    return found


def _free(couplings: CouplingMap) -> list[int]:
    """Numbers of the couplings that are not protected."""
    return [number for number, coupling in enumerate(couplings.couplings) if coupling.protected is None]


def _kinds(couplings: CouplingMap) -> list[list[int]]:
    """Free couplings whose layers have the same names but for numbers."""
    kinds: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in _free(couplings):
        layers = couplings.couplings[number].layers
        kinds[tuple(sorted({re.sub(r"\d+", "#", name) for name in layers}))].append(number)
    return list(kinds.values())


class _Trial:
    """Runs a model with cuts that are undone."""

    def __init__(
        self, model: nn.Module, inputs: ExampleInputs, couplings: CouplingMap, forward: ForwardFunction | None
    ) -> None:
        """Run without values; nothing is run yet."""
        self._model, self._inputs, self._couplings, self._forward = model, inputs, couplings, forward
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())  # step by step without values
        self._make: Callable[[Tensor], Tensor] = torch.clone if recurrent else _without_values
        self._shapes = list(couplings.channels.outputs)
        self._compared = False

    def problem(self, numbers: Iterable[int]) -> str | None:
        """Say what goes wrong when units of some couplings are cut; None if nothing does."""
        numbers = list(numbers)
        if not numbers:
            return None
        reason = self._tried(numbers)
        if reason is not None and not self._compared:
            self._run_uncut()
            reason = self._tried(numbers)
        return reason

    def _tried(self, numbers: list[int]) -> str | None:
        """Cut and run once."""
        try:
            shapes = self._run(numbers)
        except Exception as error:  # whatever a forward raises is the answer
            text = str(error).strip().split("\n")[0]
            return f"{type(error).__name__}: {text}" if text else type(error).__name__
        return None if shapes == self._shapes else "it returns other shapes"

    def _run_uncut(self) -> None:
        """Find out what the uncut model returns, and whether it can run without values."""
        self._compared = True
        try:
            self._shapes = self._run(())
        except Exception:  # the forward needs values (of indices it keeps, say): run it on copies
            self._make = torch.clone
            self._shapes = self._run(())

    def _run(self, numbers: Iterable[int]) -> list[torch.Size]:
        """Cut, run and undo; returns the shapes of what the forward returns."""
        known = self._couplings.channels
        channels = dataclasses.replace(known, removed=known.removed.clone(), values=dict(known.values))
        trial = dataclasses.replace(self._couplings, channels=channels)
        with evaluating(self._model), _exchanged(self._model, self._make), torch.no_grad():
            units = [_some(trial.couplings[number], number, channels.removed) for number in numbers]
            if units:
                cut(self._model, trial, torch.cat(units))
            inputs = map_tensors(self._make, self._inputs)
            args, kwargs = as_call(inputs) if self._forward is None else ((), {})
            with _Shapes(), running_eagerly(), watched():
                output = self._model(*args, **kwargs) if self._forward is None else self._forward(self._model, inputs)
        return [tensor.shape for tensor in returned_tensors(output)]


class _Shapes(TorchFunctionMode):
    """Answers for batch norms without values, which torch would take apart into a dozen operations each."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check what torch checks, and return the shape; everything else is computed."""
        if func is torch.batch_norm and args[0].is_meta and not args[5]:
            input, *vectors = args[:5]
            for vector in vectors:
                if vector is not None and vector.numel() != input.size(1):
                    raise RuntimeError(f"batch norm of {vector.numel()} channels got {input.size(1)}")
            return torch.empty_like(input)
        return func(*args, **(kwargs or {}))


def _some(coupling: DataFlowCoupling, number: int, removed: Tensor) -> Tensor:
    """Channels of the first units that are left: one or a few, other numbers for other couplings.

    Couplings that have to stay equal in width, in a way that labels do not show, would survive losing equally many.
    """
    left = (~removed[coupling.blocks[0]]).nonzero().squeeze(1)
    count = 1 + number % max(1, min(len(left) - 1, 7))
    return coupling.blocks[:, left[:count]].reshape(-1)


def _without_values(tensor: Tensor) -> Tensor:
    """The same shape and dtype on the meta device."""
    return torch.empty_like(tensor, device="meta")


@contextlib.contextmanager
def _exchanged(model: nn.Module, make: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Exchange every parameter and buffer for one that `make` makes, and put them back."""
    made: dict[int, Tensor] = {}
    saved: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:
                        other = make(tensor.detach())
                        made[id(tensor)] = nn.Parameter(other, False) if isinstance(tensor, nn.Parameter) else other
                    saved.append((table, name, tensor))
                    table[name] = made[id(tensor)]  # type: ignore[assignment]
            if isinstance(module, nn.RNNBase):
                vars(module)["_flat_weights"] = [module._parameters[name] for name in module._flat_weights_names]
        yield
    finally:
        for table, name, tensor in saved:
            table[name] = tensor
