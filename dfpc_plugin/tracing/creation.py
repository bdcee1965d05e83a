"""Constants that a forward makes of traced sizes: `torch.zeros(1, n, self.hidden)` has as many entries as its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dfpc_plugin.tracing.proxy import Proxy, Tracer
from dfpc_plugin.tracing.sizes import TracedInt

__all__ = ["SizedConstants"]

_CREATE = frozenset((torch.zeros, torch.ones, torch.full, torch.empty))


class SizedConstants(TorchFunctionMode):
    """Makes such a constant of equal entries a proxy that remembers its sizes; everything else is as it was.

    Each traced axis counts as one entry that was expanded, so that it follows the channels that it meets.
    """

    def __init__(self, run: Tracer) -> None:
        """Make proxies of `run`."""
        super().__init__()
        self._run = run

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; look at what it is given only if it creates a constant."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _CREATE or isinstance(result, Proxy):
            return result
        given = args[0] if args else kwargs.get("size", ())
        sizes = given if isinstance(given, list | tuple) else args
        spread = {axis: size for axis, size in enumerate(sizes) if isinstance(size, TracedInt)}
        if not spread or not result.is_floating_point() or "out" in kwargs:
            return result
        proxy = Proxy(result.shape, self._run, result.dtype, result.device, value=lambda: result)
        proxy.spread = spread
        return proxy
