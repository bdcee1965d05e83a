"""Tell whether attributes of two models are equal, whatever they hold.

Tensors and modules of the one model are like those of the other at the same path; everything else is compared by value,
objects by their state.
"""

from __future__ import annotations

import functools
import operator
import types
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def same_bits(mine: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one dtype and shape and hold the same bits, wherever they are."""
    if mine.dtype != other.dtype or mine.shape != other.shape:
        return False
    mine, other = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (mine, other))
    return torch.equal(mine, other)


def paths_of(model: nn.Module) -> dict[int, str]:
    """Paths of the modules, parameters and buffers of a model by `id`, the first of several."""
    result: dict[int, str] = {}
    for path, module in model.named_modules():
        result[id(module)] = f"module {path}"
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                result.setdefault(id(tensor), f"{path}.{name}" if path else name)
    return result


def holds_parts(value: Any) -> bool:
    """Whether a value is an object that its attributes define, such as timm's `FeatureInfo`."""
    state = _state(value)
    compared = isinstance(value, (nn.Module, *(kinds for kinds, _ in _COMPARISONS)))
    return bool(state) and state == getattr(value, "__dict__", None) and not compared


class DeepEqual:
    """Compares values that two models hold."""

    def __init__(self, model: nn.Module, other: nn.Module) -> None:
        """Compare values that `model` holds with values that `other` holds."""
        self._paths = paths_of(model), paths_of(other)
        self._seen: dict[tuple[int, int], tuple[Any, Any]] = {}

    def __call__(self, mine: Any, other: Any) -> bool:
        """Whether `mine`, of the model, equals `other`, of the other model."""
        if mine is other:
            return True
        paths = self._paths[0].get(id(mine)), self._paths[1].get(id(other))
        if paths != (None, None):
            return paths[0] == paths[1]
        if type(mine) is not type(other):
            # Parametrisations make a class anew for every module, always of the same name.
            names = [(kind.__module__, kind.__qualname__) for kind in (type(mine), type(other))]
            return names[0] == names[1] and self._states(mine, other)
        if (id(mine), id(other)) in self._seen:  # on the way round a cycle, or done before
            return True
        self._seen[id(mine), id(other)] = mine, other  # kept, so that no other object gets their ids
        for kinds, compare in _COMPARISONS:
            if isinstance(mine, kinds):
                result = compare(self, mine, other)
                break
        else:
            result = self._states(mine, other)
        if not result:
            del self._seen[id(mine), id(other)]
        return result

    def _states(self, mine: Any, other: Any) -> bool:
        """Compare objects by their attributes; those without any by equality, or else by their type."""
        states = [_state(value) for value in (mine, other)]
        return not any(states) or self(*states)


def _equal(equal: DeepEqual, mine: Any, other: Any) -> bool:
    return mine == other or (mine != mine and other != other)  # NaN is like NaN


def _parts(names: str) -> Callable[[DeepEqual, Any, Any], bool]:
    parts = operator.attrgetter(*names.split())
    return lambda equal, mine, other: equal(parts(mine), parts(other))


def _functions(equal: DeepEqual, mine: types.FunctionType, other: types.FunctionType) -> bool:
    parts = [
        [function.__defaults__, function.__kwdefaults__, [_content(cell) for cell in function.__closure__ or ()]]
        for function in (mine, other)
    ]
    return mine.__code__ == other.__code__ and equal(*parts)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _state(value: Any) -> dict[str, Any]:
    """Attributes of an object, in its dict or in slots."""
    result = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                result[name] = getattr(value, name)
    return result


_COMPARISONS: tuple[tuple[Any, Callable[[DeepEqual, Any, Any], bool]], ...] = (
    (Tensor, lambda equal, mine, other: same_bits(mine, other)),
    (torch.device, lambda equal, mine, other: True),  # a matter of where a model is, not of what it is
    (float, lambda equal, mine, other: repr(mine) == repr(other)),  # which tells zero from minus zero
    ((int, str, bytes, complex, torch.dtype, type, set, frozenset, types.BuiltinFunctionType), _equal),
    ((np.ndarray, np.generic), lambda equal, mine, other: np.array_equal(mine, other)),
    (Mapping, lambda equal, mine, other: list(mine) == list(other) and all(equal(mine[k], other[k]) for k in mine)),
    ((tuple, list, deque), lambda equal, mine, other: len(mine) == len(other) and all(map(equal, mine, other))),
    (functools.partial, _parts("func args keywords")),
    (types.MethodType, _parts("__func__ __self__")),
    (types.FunctionType, _functions),
    (weakref.ref, lambda equal, mine, other: equal(mine(), other())),
)
"""How values of each kind are compared; of several kinds that fit, the first."""
