"""Run two forwards in turns, each up to the next layer's output, so that one can be repaired while both are under way.

Each forward runs in a thread of its own and stops where a layer's output is about to be used. Only one of them runs at any
time. So what a layer sees in the pruned model comes from layers that have been repaired, at the cost of one forward.
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
from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.repairing.follow import Follower, Settlement

__all__ = ["Pair", "SteppedForward", "settlements"]


class _Stopped(BaseException):
    """Ends a forward that nobody waits for any more."""


class SteppedForward:
    """A forward that stops at every settlement.

    Attributes:
        result: What the model returned, once it has.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        forward_fn: ForwardFunction | None,
        within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        """Prepare to call `model`, which is in evaluation mode, `within` a context; nothing runs yet."""
        self.result: Any = None
        self._within = within
        self._model, self._inputs, self._forward_fn = model, inputs, forward_fn
        self._go: SimpleQueue[bool] = SimpleQueue()
        self._events: SimpleQueue[Settlement | BaseException | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._waits = False

    def advance(self) -> Settlement | None:
        """Run on to the next settlement; None at the end.

        Raises:
            Exception: What the forward raised.
        """
        if self._waits:
            self._go.put(True)
        elif self._thread.ident is None:
            self._thread.start()
        else:
            return None
        event = self._events.get()
        self._waits = isinstance(event, Settlement)
        if isinstance(event, BaseException):
            raise event
        return event

    def close(self) -> None:
        """End the forward, wherever it is."""
        if self._waits:
            self._waits = False
            self._go.put(False)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        """Call the model."""
        follower = Follower(self._model, self._wait)
        try:
            with torch.inference_mode(False), torch.no_grad(), self._within(), follower:
                if self._forward_fn is not None:
                    self.result = self._forward_fn(self._model, self._inputs)
                else:
                    args, kwargs = as_call(self._inputs)
                    self.result = self._model(*args, **kwargs)
            with torch.no_grad():
                follower.settle()
        except _Stopped:
            return
        except BaseException as error:
            self._events.put(error)
            return
        self._events.put(None)

    def _wait(self, settlement: Settlement) -> None:
        """Stop until the other side says to go on."""
        self._events.put(settlement)
        if not self._go.get():
            raise _Stopped


class Pair:
    """The forwards of a model and of the pruned one on the same inputs.

    Attributes:
        original: The settlement that the forward of the unpruned model has stopped at.
        pruned: The same of the pruned model.
    """

    original: Settlement
    pruned: Settlement

    def __init__(
        self, original: nn.Module, pruned: nn.Module, inputs: ExampleInputs, forward_fn: ForwardFunction | None
    ) -> None:
        """Start neither."""
        self._forwards = [SteppedForward(model, inputs, forward_fn) for model in (original, pruned)]

    def advance(self) -> bool:
        """Run both on to the next layer; False at the end.

        Raises:
            RepairError: They have come to different layers.
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

    @property
    def results(self) -> tuple[Any, Any]:
        """What both models returned."""
        return self._forwards[0].result, self._forwards[1].result

    def close(self) -> None:
        """End both."""
        for forward in self._forwards:
            forward.close()


def settlements(
    model: nn.Module,
    inputs: ExampleInputs,
    forward_fn: ForwardFunction | None,
    within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[Settlement]:
    """Yield the settlements of one forward of `model`, in order; each is of use until the next one is asked for."""
    forward = SteppedForward(model, inputs, forward_fn, within)
    try:
        while (settlement := forward.advance()) is not None:
            yield settlement
    finally:
        forward.close()


def _quoted(name: str | None) -> str:
    """A layer's name in a sentence."""
    return "nothing more" if name is None else f"'{name}'"
