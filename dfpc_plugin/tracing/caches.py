"""Functions that remember results, by `functools.lru_cache`, must not remember traced numbers.

A traced size is equal to the plain number that it stands for, so a cache would return what it once computed for that number,
without where it comes from, or hand traced numbers of one model to another; and a method that returns a weight would keep its
proxy. So in the thread of a run, such functions compute anew and keep nothing. This is what einops needs, for one.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from dfpc_plugin.exchange import Exchange, put

__all__ = ["caches_passed_by"]

_Cached: Any = type(functools.lru_cache(maxsize=1)(len))
_KEPT = frozenset(
    sys.stdlib_module_names | {"torch", "torchgen", "numpy", "sympy", "scipy", "matplotlib", "dfpc_plugin"}
) - {"__main__"}
"""Packages whose caches hold nothing of a forward."""


_looked_through: set[str] = set()
_places: dict[tuple[str, str], Any] = {}
"""Python modules that hold cached functions, by their name and that of the function."""


def caches_passed_by(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Let cached functions compute anew in this thread; nothing changes for others.

    Functions of Python modules, and methods of the classes of `modules`, are passed by; a cached function that is kept
    elsewhere, in a closure say, is not.
    """
    classes = {
        base for kind in {type(module) for module in modules} for base in kind.__mro__ if _is_looked_at(base.__module__)
    }
    return _exchange.block(classes)


def _install(undo: contextlib.ExitStack, classes: set[type]) -> None:
    """Exchange cached functions for those that ask which thread they are in."""
    for owner, name, cached in (*_in_modules({base.__module__ for base in classes}), *_in_classes(classes)):
        put(undo, owner, name, _passing(cached))


_exchange = Exchange(_install)


def _in_modules(changing: Iterable[str]) -> Iterator[tuple[Any, str, Any]]:
    """Cached functions of all loaded Python modules; those that define the model are looked through every time."""
    loaded = sys.modules
    new = loaded.keys() - _looked_through if len(loaded) != len(_looked_through) else set()
    for path in {"__main__", *changing, *new} & loaded.keys():
        namespace = getattr(loaded[path], "__dict__", {})
        if _is_looked_at(path):
            found = [name for name, value in list(namespace.items()) if type(value) is _Cached]
            _places.update(((path, name), loaded[path]) for name in found)
    _looked_through.update(new)
    for (_, name), module in _places.items():
        cached = module.__dict__.get(name)
        if type(cached) is _Cached:
            yield module, name, cached


def _in_classes(classes: Iterable[type]) -> Iterator[tuple[Any, str, Any]]:
    """Cached methods."""
    for owner in classes:
        for name, value in list(vars(owner).items()):
            if type(value) is _Cached:
                yield owner, name, value


@functools.lru_cache(maxsize=4096)
def _passing(cached: Any) -> Callable[..., Any]:
    """A function that does as a cached one, but computes anew in the thread of a run."""

    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (cached.__wrapped__ if _exchange.here else cached)(*args, **kwargs)

    for name in ("cache_info", "cache_clear", "cache_parameters"):
        setattr(call, name, getattr(cached, name))
    return call


def _is_looked_at(module: str) -> bool:
    """Whether the caches of a Python module can hold something of a forward."""
    return module.partition(".")[0] not in _KEPT
