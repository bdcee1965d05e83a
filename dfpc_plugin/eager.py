"""Run a model's Python code eagerly, operator by operator, inside torch's wrappers.

Three of these hide operators from a pass, or make it slow:

- `torch.compile`, of the model, of submodules or of functions, would compile again for every width that is tried.
- `torch.utils.checkpoint` runs its function without a graph and again in the backward pass.
- `torch.inference_mode` in a forward prevents the rules of a pass from recording a graph.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.utils.checkpoint

from dfpc_plugin.exchange import Exchange, put

_OriginalFunction = torch.utils.checkpoint.CheckpointFunction
_original_hook = torch.utils.checkpoint._checkpoint_hook
_original_enter = torch.inference_mode.__enter__


def running_eagerly() -> AbstractContextManager[None]:
    """Run compiled code eagerly, checkpointed functions once, and inference mode as `torch.no_grad()`.

    This holds for this thread, but compiled code runs eagerly in all threads, as torch has one setting for all.
    """
    return _exchange.block()


def _install(undo: contextlib.ExitStack) -> None:
    """Replace what torch looks up when the wrappers run."""
    if torch.inference_mode.__enter__ is _enter_inference_mode:
        return
    put(undo, torch.utils.checkpoint, "CheckpointFunction", _CheckpointFunction)
    put(undo, torch.utils.checkpoint, "_checkpoint_hook", _checkpoint_hook)
    put(undo, torch.inference_mode, "__enter__", _enter_inference_mode)
    if "torch._dynamo" in sys.modules:  # else nothing has been compiled
        if hasattr(torch.compiler, "set_stance"):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        else:  # before torch 2.6
            frames = sys.modules["torch._dynamo.eval_frame"]
            name = "_maybe_set_eval_frame" if hasattr(frames, "_maybe_set_eval_frame") else "set_eval_frame"
            original = getattr(frames, name)
            put(undo, frames, name, lambda callback: original(None if _exchange.here else callback))


_exchange = Exchange(_install)


class _CheckpointFunction:
    """Replaces the autograd function of reentrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        """Call `function`; in threads without a pass, checkpoint it."""
        if _exchange.here:
            return function(*args)
        return _OriginalFunction.apply(function, preserve_rng_state, *args)


def _checkpoint_hook(frame: Any) -> Any:
    """Replace the hook that drops tensors of other checkpoints: keep them, so that nothing runs twice."""
    return contextlib.nullcontext() if _exchange.here else _original_hook(frame)


def _enter_inference_mode(self: Any) -> None:
    """Replace `torch.inference_mode.__enter__`; the original `__exit__` leaves what it entered."""
    if _exchange.here and self.mode:
        self._inference_mode_context = torch.no_grad()
        self._inference_mode_context.__enter__()
    else:
        _original_enter(self)
