"""Run two forwards in turns, each up to the next layer's output, so that one can be repaired while both are paused.

Each forward runs in its own thread and stops when a layer's output is about to be used. Only one of them runs at a
time. So each layer of the pruned model gets inputs from layers that are repaired already, at the cost of one forward.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import RepairError
from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import interrupts_held, undone
from dfpc_plugin.repairing.follow import Follower, Settlement

Key = tuple[int, int | None]


class _Stopped(BaseException):
    """Ends a forward that is no longer needed."""


class SteppedForward:
    """A forward that stops at every settlement."""

    def __init__(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        forward_fn: ForwardFunction | None,
        within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        *,
        watch: bool = False,
    ) -> None:
        """Prepare to call `model`, in evaluation mode, `within` a context; for `watch`, see `Follower`."""
        self._within = within
        self._follower = Follower(model, self._wait, watch=watch)
        self._closed = False
        self._model, self._inputs, self._forward_fn = model, inputs, forward_fn
        self._go: SimpleQueue[bool] = SimpleQueue()
        self._events: SimpleQueue[Settlement | BaseException | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._waits = False

    def advance(self) -> Settlement | None:
        """Run to the next settlement, or return None at the end; raises whatever the forward raises."""
        if self._waits:
            self._go.put(True)
        elif self._thread.ident is None:
            with interrupts_held():  # Ctrl-C during the start could leave the thread waiting for ever
                self._thread.start()
        else:
            return None
        event = self._events.get()
        self._waits = isinstance(event, Settlement)
        if isinstance(event, BaseException):
            raise event
        return event

    def close(self) -> None:
        """Stop the forward at any point."""
        with interrupts_held():  # or the thread would wait for ever
            self._closed, self._waits = True, False
            while self._thread.is_alive():  # a forward that catches all exceptions may reach further layers
                self._go.put(False)
                self._thread.join(0.05)

    @property
    def used_elsewhere(self) -> list[Settlement]:
        """With `watch`, `Follower.used_elsewhere`."""
        return self._follower.used_elsewhere

    def _run(self) -> None:
        try:
            with torch.inference_mode(False), torch.no_grad(), self._within(), self._follower:
                run_forward(self._model, self._inputs, self._forward_fn)
            with torch.no_grad():
                self._follower.settle()
        except _Stopped:
            return
        except BaseException as error:
            self._events.put(error)
            return
        self._events.put(None)

    def _wait(self, settlement: Settlement) -> None:
        """Pause until `advance` or `close` is called."""
        if not self._closed:
            self._events.put(settlement)
        if self._closed or not self._go.get():
            raise _Stopped


class Pair:
    """The forwards of the unpruned and the pruned model on the same inputs.

    Attributes:
        original: The settlement at which the forward of the unpruned model has stopped.
        pruned: The same of the pruned model.
    """

    original: Settlement
    pruned: Settlement

    def __init__(
        self, original: nn.Module, pruned: nn.Module, inputs: ExampleInputs, forward_fn: ForwardFunction | None
    ) -> None:
        """Prepare both forwards; neither runs yet."""
        self._forwards = [SteppedForward(model, inputs, forward_fn) for model in (original, pruned)]

    def advance(self) -> bool:
        """Run both to the next layer, or return False at the end; raises RepairError if they reach different layers."""
        first, second = (forward.advance() for forward in self._forwards)
        if first is None and second is None:
            return False
        names = [None if settlement is None else settlement.call.name for settlement in (first, second)]
        if first is None or second is None or names[0] != names[1]:
            raise RepairError(
                f"The models do not run the same layers: where the original runs {_quoted(names[0])}, the pruned one runs "
                f"{_quoted(names[1])}; pass the model that this one was pruned from, in the same configuration."
            )
        self.original, self.pruned = first, second
        return True

    def close(self) -> None:
        """Stop both."""
        with interrupts_held():
            for forward in self._forwards:
                forward.close()


def settlements(
    model: nn.Module,
    inputs: ExampleInputs,
    forward_fn: ForwardFunction | None,
    within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[Settlement]:
    """Yield the settlements of one forward of `model`, in order; each is valid until the next is requested."""
    forward = SteppedForward(model, inputs, forward_fn, within)
    with undone(forward.close):
        while (settlement := forward.advance()) is not None:
            yield settlement


def _quoted(name: str | None) -> str:
    return "nothing more" if name is None else f"'{name}'"


@dataclass(frozen=True)
class Step:
    """One layer's call, in the order of the forward.

    Attributes:
        name: The layer.
        key: The weight's rows that it uses: equal for all calls of a layer, and for layers that share a weight.
        repeated: Other calls have the same key.
        shared: Calls with this key have different biases, so they are several layers that share a weight.
        last: It is the last call with this key.
        takes_constant: It can take up a constant: in its own bias, or in the running mean of a batch norm whose only
            input is this call's output, which nothing else uses.
        norm_is_own: A batch norm comes directly behind it, has no other input, and nothing else uses this output.
        largest: Bytes of its inputs and outputs.
    """

    name: str
    key: Key
    repeated: bool
    shared: bool
    last: bool
    takes_constant: bool
    norm_is_own: bool
    largest: int


def survey(model: nn.Module, inputs: ExampleInputs, forward_fn: ForwardFunction | None) -> list[Step]:
    """Run `model`, in evaluation mode, once, and return its steps.

    One example as `inputs` is enough; the activations of the whole forward are held in memory.
    """
    forward = SteppedForward(model, inputs, forward_fn, watch=True)
    found: list[Settlement] = []
    sizes = []
    with undone(forward.close):
        while (settlement := forward.advance()) is not None:
            found.append(settlement)
            sizes.append(_bytes(settlement.call.input) + _bytes(settlement.output))
    keys = [_key(settlement) for settlement in found]
    counts, biases = Counter(keys), defaultdict(set)
    norms = Counter(id(settlement.norm_mean) for settlement in found if settlement.norm_mean is not None)
    for key, settlement in zip(keys, found, strict=True):
        biases[key].add(_bias_key(settlement.call.bias))
    last = {key: number for number, key in enumerate(keys)}
    steps = []
    for number, (key, settlement, size) in enumerate(zip(keys, found, sizes, strict=True)):
        own = counts[key] == 1 and norms[id(settlement.norm_mean)] == 1 and settlement not in forward.used_elsewhere
        shared = len(biases[key]) > 1
        takes = settlement.call.bias_is_free or (settlement.norm_mean is not None and own)
        has_norm = settlement.norm_mean is not None and own
        flags = (counts[key] > 1, shared, last[key] == number, takes and not shared, has_norm)
        steps.append(Step(settlement.call.name, key, *flags, size))
    return steps


def _key(settlement: Settlement) -> Key:
    """Identifies the weight, and its rows, that a call uses."""
    weight = settlement.call.weight
    return id(weight if weight._base is None else weight._base), settlement.call.rows_of.start


def _bias_key(bias: Tensor | None) -> tuple[int, int]:
    """Identifies a bias; views of one parameter differ by their offsets."""
    if bias is None:
        return 0, 0
    return id(bias if bias._base is None else bias._base), int(bias.storage_offset())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
