"""Run two forwards in turns, each up to the next layer's output, so that one can be repaired while both are paused.

Each forward runs in its own thread and stops when a layer's output is about to be used. Only one of them runs at a
time. So each layer of the pruned model gets inputs from layers that are repaired already, at the cost of one forward.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any

import torch
from torch import nn

from dfpc_plugin.errors import RepairError
from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import interrupts_held, undone
from dfpc_plugin.repairing.follow import Follower, Settlement


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
        """Run to the next settlement; None at the end.

        Raises:
            Exception: Whatever the forward raised.
        """
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
        """Run both to the next layer; False at the end.

        Raises:
            RepairError: They have reached different layers.
        """
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
