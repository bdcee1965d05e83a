"""Restore a model exactly as it was, even if it raises.

Buffers are copied at the start, a weight just before the first write to it, which `watched` sees below autograd.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from dfpc_plugin.generators import generators_kept
from dfpc_plugin.hooks import CONTAINERS, hook_state_kept, refill, same_contents
from dfpc_plugin.interrupts import entered, undone

PLAIN = frozenset((bool, int, float, str, tuple, type(None)))
"""Types of attributes other than containers and tensors: looking a type up is faster than `isinstance`."""
NO_TENSORS = PLAIN | {dict, OrderedDict, list, set}
"""Types of most attributes of modules."""

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextlib.contextmanager
def evaluating(model: nn.Module, *, hooks: bool = True) -> Iterator[None]:
    """Put `model` in evaluation mode and undo, at exit, whatever its forward changed in it or in random generators.

    Restored bit for bit: training flags, parameters, gradients and buffers (the same storage with the same contents), every
    attribute of every module (including the contents of dicts, lists, sets and deques, one level deep), hooks,
    `requires_grad`, and the random states of Python, NumPy, the CPU and the model's CUDA devices. Only one thread at a time
    evaluates a model.

    Writes to parameters and to tensors in attributes are undone if the forward ran inside `watched()`, except writes that
    torch's dispatcher does not see (through NumPy, or in an extension that does not declare them).

    Args:
        model: Any module.
        hooks: Also restore what forward hooks collect (see `hooks.hook_state_kept`). False if the forward runs on the user's
            own data, so that hooks may collect.
    """
    with exclusive(model), hook_state_kept(model) if hooks else contextlib.nullcontext(), _kept(model):
        yield


@contextlib.contextmanager
def exclusive(*models: nn.Module) -> Iterator[None]:
    """Hold a lock on each of these models. `evaluating` holds the same lock.

    During evaluation a model's training flags are off, and its modules may hold proxies instead of tensors. Code that reads or
    copies the model enters `exclusive` first, so that it does not see this state.
    """
    with contextlib.ExitStack() as stack:
        for model in sorted(models, key=id):  # the same order in every thread avoids deadlocks
            with _locks_guard:
                lock = _locks.setdefault(model, threading.RLock())
            stack.enter_context(lock)
        yield


@contextlib.contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Restore the state as `evaluating` says, for one thread."""
    modules = list(model.modules())
    attributes = [_copy_attributes(module) for module in modules]
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    trainable = [(parameter, parameter.requires_grad) for parameter in parameters]
    gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.is_leaf]
    buffers = [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]
    memory = _Memory([*parameters, *(grad for _, grad in gradients), *buffers, *_tensors_in(attributes)])
    values = [(buffer, buffer.detach().clone()) for buffer in buffers if has_storage(buffer) and not buffer.is_meta]
    recorded = torch.is_grad_enabled()

    def restore() -> None:
        torch.set_grad_enabled(recorded)  # Ctrl-C in the `__exit__` of torch.no_grad keeps it on
        for module, saved in zip(modules, attributes, strict=True):
            _restore_attributes(module, *saved)
        for parameter, requires_grad in trainable:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        memory.restore()
        for parameter, grad in gradients:
            if parameter.grad is not grad:
                parameter.grad = grad
        for buffer, value in values:
            if not torch.equal(buffer, value):
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(value)

    with generators_kept(), memory, undone(restore):
        for module in modules:
            if module.training:
                module.training = False
        yield


class _Memory:
    """The memory of a model's tensors, with copies of what a forward overwrote."""

    _active: list[_Memory] = []  # noqa: RUF012
    """The memories of all models in evaluation, in any thread, as a forward may start threads."""

    def __init__(self, tensors: Iterable[Tensor | None]) -> None:
        """Store the memory addresses of `tensors`; nothing is copied yet."""
        found = {id(tensor): tensor for tensor in tensors if tensor is not None and has_storage(tensor)}
        self._tensors = [(tensor, tensor.detach()) for tensor in found.values()]
        storages = [tensor.untyped_storage() for tensor, _ in self._tensors]
        self._storages = {storage._cdata: storage for storage in storages}
        self._copies: dict[int, torch.UntypedStorage] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> _Memory:
        _Memory._active.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _Memory._active.remove(self)

    @staticmethod
    def before_write(tensor: Tensor) -> None:
        """Copy the memory of `tensor`, once, if it belongs to a model in evaluation."""
        if not has_storage(tensor):
            return
        address = memory_address(tensor)
        for memory in tuple(_Memory._active):
            storage = memory._storages.get(address)
            if storage is not None and storage.device.type != "meta":
                with memory._lock:
                    if address not in memory._copies:
                        memory._copies[address] = storage.clone()

    def restore(self) -> None:
        for address, copy in self._copies.items():
            storage = self._storages[address]
            if storage.nbytes() != copy.nbytes():
                storage.resize_(copy.nbytes())
            storage.copy_(copy)
        for tensor, before in self._tensors:
            if tensor.is_meta or before.is_meta or not tensor.is_set_to(before):
                if _place(tensor) != _place(before):
                    tensor.data = before


class _Watch(TorchDispatchMode):
    """Calls `_Memory.before_write` for every write that an operator's schema declares."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        schema = getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable:
            given = zip(schema.arguments, args, strict=False)
            named = ((argument, kwargs.get(argument.name)) for argument in schema.arguments)
            for argument, value in (*given, *named):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for tensor in value if isinstance(value, list | tuple) else (value,):
                        if isinstance(tensor, Tensor):
                            _Memory.before_write(tensor)
        return func(*args, **kwargs)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Let `evaluating` undo writes to weights by forwards in this block and thread."""
    if not _Memory._active:
        yield
        return
    with entered(_Watch()):
        yield


def unwatched(function: Any, *args: Any) -> Any:
    """Call `function(*args)`, which writes to no weights, without the overhead of `watched`."""
    if not torch._C._len_torch_dispatch_stack():
        return function(*args)
    mode = torch._C._pop_torch_dispatch_stack(None)
    try:
        if isinstance(mode, _Watch):
            return function(*args)
    finally:
        torch._C._push_on_torch_dispatch_stack(mode)
    return function(*args)


def has_storage(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own: not sparse, not lazy, and no subclass that wraps other tensors."""
    if tensor.layout != torch.strided:
        return False
    if type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return True
    if is_lazy(tensor):
        return False
    return type(tensor).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl


def memory_address(tensor: Tensor) -> int:
    """Return a number that identifies a tensor's memory, also on the meta device."""
    return tensor.untyped_storage()._cdata


def _place(tensor: Tensor) -> tuple[Any, ...]:
    layout = (tensor.shape, tensor.stride(), tensor.storage_offset())
    return (memory_address(tensor), tensor.dtype, tensor.device, *layout)


def _tensors_in(attributes: Iterable[tuple[dict[str, Any], list[tuple[Any, Any]]]]) -> Iterator[Tensor]:
    """Tensors in the result of `_copy_attributes`, one level deep."""
    for saved, containers in attributes:
        for values in (saved, *(contents for _, contents in containers if contents)):
            for value in values.values() if isinstance(values, dict) else values:
                if type(value) not in NO_TENSORS and isinstance(value, Tensor):
                    yield value


def _copy_attributes(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """Copy the attributes, and pair plain containers, which a forward could change, with shallow copies."""
    if isinstance(module, torch.jit.ScriptModule):
        return {"training": module.training}, []
    saved = dict(module.__dict__)
    others = [value for value in saved.values() if type(value) not in PLAIN]
    return saved, [(value, value.copy() if value else ()) for value in others if isinstance(value, CONTAINERS)]


def _restore_attributes(module: nn.Module, saved: dict[str, Any], containers: list[tuple[Any, Any]]) -> None:
    """Restore the result of `_copy_attributes`: the same objects, with the same contents."""
    if isinstance(module, torch.jit.ScriptModule):
        module.training = saved["training"]
        return
    current = module.__dict__
    if len(current) != len(saved):
        for name in [name for name in current if name not in saved]:
            del current[name]
    current.update(saved)
    for value, contents in containers:
        if (value or contents) and not same_contents(value, contents):
            refill(value, contents)
