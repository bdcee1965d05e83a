"""Leave a model exactly as it was found, also when it raises half-way."""

from __future__ import annotations

import contextlib
import operator
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["evaluating"]

_CONTAINERS = (dict, list, set, deque)
_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode and undo, at exit, whatever its forward did to itself or to the generators.

    Kept bit for bit: training flags, buffers, every attribute of every module (including the contents of dicts, lists,
    sets and deques, one level deep), hooks, `requires_grad`, and the random states of the CPU and of the model's CUDA
    devices. Threads that score one model take turns.
    """
    with _locks_guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock, _kept(model):
        yield


@contextlib.contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Do what `evaluating` says, for one thread."""
    modules = list(model.modules())
    attributes = [_copy_attributes(module) for module in modules]
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    trainable = [(parameter, parameter.requires_grad) for parameter in parameters]
    own_buffers = [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]
    buffers = [(buffer, _version(buffer), buffer.detach().clone()) for buffer in own_buffers]
    devices = sorted({parameter.device.index for parameter in parameters if parameter.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, saved in zip(modules, attributes, strict=True):
                _restore_attributes(module, saved)
            for parameter, requires_grad in trainable:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
            with torch.no_grad():
                for buffer, version, value in buffers:
                    if _version(buffer) != version:
                        buffer.copy_(value)


def _version(tensor: torch.Tensor) -> int:
    """Count of changes in place; tensors made in inference mode do not count, and cannot be changed outside of it."""
    return 0 if tensor.is_inference() else tensor._version


def _copy_attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Pair each attribute with a shallow copy if it is a plain container, which a forward could fill or empty."""
    if isinstance(module, torch.jit.ScriptModule):
        return {"training": (module.training, None)}
    return {
        name: (value, value.copy() if isinstance(value, _CONTAINERS) else None)
        for name, value in module.__dict__.items()
    }


def _restore_attributes(module: nn.Module, saved: dict[str, tuple[Any, Any]]) -> None:
    """Put back what `_copy_attributes` saved: the same objects, with the same contents."""
    if isinstance(module, torch.jit.ScriptModule):
        module.training = saved["training"][0]
        return
    current = module.__dict__
    if len(current) != len(saved):
        for name in [name for name in current if name not in saved]:
            del current[name]
    for name, (value, contents) in saved.items():
        current[name] = value
        if contents is not None and (value or contents) and not _same_contents(value, contents):
            value.clear()
            value.extend(contents) if isinstance(value, list | deque) else value.update(contents)


def _same_contents(container: Any, contents: Any) -> bool:
    """Compare by identity: tensors have no truth value and equal objects may still have been exchanged."""
    if len(container) != len(contents):
        return False
    if isinstance(container, dict):
        same_values = all(map(operator.is_, container.values(), contents.values()))
        return same_values and all(map(operator.is_, container, contents))
    if isinstance(container, set):
        return {id(item) for item in container} == {id(item) for item in contents}
    return all(map(operator.is_, container, contents))
