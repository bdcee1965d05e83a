"""Call a model's own Python code, operator by operator, whatever is wrapped around it.

Three wrappers of torch keep a pass from seeing what it needs, or make it slow:

- `torch.compile`, of the model, of submodules or of functions, would compile anew for every width that is tried.
- `torch.utils.checkpoint` runs its function without a graph and again in the backward pass.
- `torch.inference_mode` in a forward keeps the rules of a pass from recording a graph.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint

__all__ = ["running_eagerly"]


class _ThreadState(threading.local):
    """How many blocks of `running_eagerly` this thread is in."""

    depth = 0


_here = _ThreadState()
_lock = threading.Lock()
_blocks = 0
_undo = contextlib.ExitStack()
_OriginalFunction = torch.utils.checkpoint.CheckpointFunction
_original_hook = torch.utils.checkpoint._checkpoint_hook
_original_enter = torch.inference_mode.__enter__


@contextlib.contextmanager
def running_eagerly() -> Iterator[None]:
    """Run compiled code as it is written, checkpointed functions once, and inference mode as `torch.no_grad()`.

    For this thread, except that compiled code runs eagerly in all threads (torch has one setting for all of them). It
    does so from torch 2.6 on; before, compiled submodules are still compiled.
    """
    global _blocks, _undo
    with _lock:
        if not _blocks:
            _undo = _redirected()
        _blocks += 1
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
        with _lock:
            _blocks -= 1
            if not _blocks:
                _undo.close()


def _redirected() -> contextlib.ExitStack:
    """Exchange what torch looks up when the wrappers run; closing the result puts it back."""
    with contextlib.ExitStack() as undo:
        for owner, name, own in (
            (torch.utils.checkpoint, "CheckpointFunction", _CheckpointFunction),
            (torch.utils.checkpoint, "_checkpoint_hook", _checkpoint_hook),
            (torch.inference_mode, "__enter__", _enter_inference_mode),
        ):
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, own)
        set_stance = getattr(torch.compiler, "set_stance", None)
        if set_stance is not None and "torch._dynamo" in sys.modules:  # else nothing has been compiled
            undo.enter_context(set_stance("force_eager"))
        return undo.pop_all()


class _CheckpointFunction:
    """Stands in for the autograd function of reentrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        """Call `function`; checkpoint it in threads that no pass runs in."""
        if _here.depth:
            return function(*args)
        return _OriginalFunction.apply(function, preserve_rng_state, *args)


def _checkpoint_hook(frame: Any) -> Any:
    """Stand in for what drops the saved tensors of other checkpoints: keep them, so that nothing runs twice."""
    return contextlib.nullcontext() if _here.depth else _original_hook(frame)


def _enter_inference_mode(self: Any) -> None:
    """Stand in for `torch.inference_mode.__enter__`; whatever it enters, its `__exit__` leaves."""
    if _here.depth and self.mode:
        self._inference_mode_context = torch.no_grad()
        self._inference_mode_context.__enter__()
    else:
        _original_enter(self)
