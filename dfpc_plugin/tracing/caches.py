"""Keep functions with a `functools.lru_cache` from caching traced numbers.

A traced size equals its plain number. So a cache would return a result that was computed for the plain number, or pass
traced numbers of one model to another; a cached method that returns a weight would keep its proxy. In the thread of a
run, such functions therefore compute anew and store nothing. einops needs this, for example.
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

_Cached: Any = type(functools.lru_cache(maxsize=1)(len))
_KEPT = frozenset(
    sys.stdlib_module_names | {"torch", "torchgen", "numpy", "sympy", "scipy", "matplotlib", "dfpc_plugin"}
) - {"__main__"}
"""Packages whose caches hold no results of a forward."""


_looked_through: set[str] = set()
_places: dict[tuple[str, str], Any] = {}
"""Python modules that hold cached functions, by the names of module and function."""


def caches_passed_by(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Let cached functions compute anew in this thread; other threads are not affected.

    This covers functions of Python modules and methods of the classes of `modules`, but not functions kept elsewhere,
    such as in a closure.
    """
    classes = {
        base for kind in {type(module) for module in modules} for base in kind.__mro__ if _is_looked_at(base.__module__)
    }
    return _exchange.block(classes)


def _install(undo: contextlib.ExitStack, classes: set[type]) -> None:
    """Replace cached functions by functions that check the thread."""
    for owner, name, cached in (*_in_modules({base.__module__ for base in classes}), *_in_classes(classes)):
        put(undo, owner, name, _passing(cached))


_exchange = Exchange(_install)


def _in_modules(changing: Iterable[str]) -> Iterator[tuple[Any, str, Any]]:
    """Cached functions of all loaded Python modules; those that define the model are searched every time."""
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
    for owner in classes:
        for name, value in list(vars(owner).items()):
            if type(value) is _Cached:
                yield owner, name, value


@functools.lru_cache(maxsize=4096)
def _passing(cached: Any) -> Callable[..., Any]:
    """Wrap a cached function so that it computes anew in the thread of a run."""

    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (cached.__wrapped__ if _exchange.here else cached)(*args, **kwargs)

    for name in ("cache_info", "cache_clear", "cache_parameters"):
        setattr(call, name, getattr(cached, name))
    return call


def _is_looked_at(module: str) -> bool:
    """Whether the caches of a Python module may hold results of a forward."""
    return module.partition(".")[0] not in _KEPT
