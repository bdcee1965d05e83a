"""Tell whether two models were built alike, without their values."""

from __future__ import annotations

import hashlib

from torch import nn

from dfpc_plugin.artifact.records import Structure, module_outline, registered

__all__ = ["difference_of", "fingerprint_of"]


def fingerprint_of(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the classes of all modules and of shapes and dtypes of all parameters and buffers."""
    lines = [f"module {path} {kind} {first}" for path, (kind, first) in module_outline(model).items()]
    lines += [
        f"{kind} {name} " + ("none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}")
        for name, (kind, tensor, _) in registered(model).items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()


def difference_of(model: nn.Module, structure: Structure) -> str | None:
    """Say how a model that was built now first differs from the one that a structure was taken of; None if it is not known."""
    then = {entry.name: entry.built for entry in structure.registered}
    now = {name: None if tensor is None else tuple(tensor.shape) for name, (_, tensor, _) in registered(model).items()}
    for name in (*then, *(name for name in now if name not in then)):
        if name not in now or name not in then:
            return f"'{name}' is there {'now' if name in now else 'no longer'}"
        if then[name] != now[name]:
            return f"'{name}' was {_described(then[name])} and is {_described(now[name])}"
    return None


def _described(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(shape)
