"""Attributes of modules and inputs of models as JSON: plain values with their Python types, and nothing that runs.

`None`, bools, ints and strings are themselves; every other value is an object with one key, which is its type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor

from dfpc_plugin.artifact.reading import ArtifactError, UnsavableModelError
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.plain_data import at_most, checked, one_of, within

SAFETENSORS = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""torch's names of dtypes by those of safetensors."""
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in SAFETENSORS.values()}
"""Types of numbers that both torch and safetensors have, by name."""

_THEMSELVES = (type(None), bool, int, str)
_SEQUENCES: dict[str, type] = {"tuple": tuple, "list": list, "size": torch.Size}
_MOST_KEYS = 10_000  # numbers can be chosen so that all have one hash, and each key is then compared with all others
_NOT_FINITE = ("inf", "-inf", "nan")


class NotPlainError(ValueError):
    """A value has no plain form, or a form is not of any value."""


def encode(value: Any, save: Callable[[Tensor], Any]) -> Any:
    """Return the plain form of a value, with what `save` returns of a tensor in the tensor's place.

    Raises:
        NotPlainError: Something in it is not of exactly one of the plain types.
    """
    kind = type(value)
    if kind in _THEMSELVES:
        return value
    if kind is float:
        return {"float": value if abs(value) < float("inf") else repr(value)}
    if isinstance(value, Tensor):
        return {"tensor": save(value)}
    if kind is torch.dtype:
        return {"dtype": str(value).removeprefix("torch.")}
    if kind is dict:
        return {"dict": [[encode(key, save), encode(entry, save)] for key, entry in value.items()]}
    for name, sequence in _SEQUENCES.items():
        if kind is sequence:
            return {name: [encode(entry, save) for entry in value]}
    raise NotPlainError(f"a {kind.__module__}.{kind.__qualname__} is no plain value")


def decode(form: Any, load: Callable[[Any], Any]) -> Any:
    """Return the value of a plain form, with what `load` makes of a tensor's place; raise a NotPlainError if it is none."""
    if type(form) in _THEMSELVES:
        return form
    if type(form) is not dict or len(form) != 1:
        raise NotPlainError(
            "a value is null, true, false, a whole number, text, or an object with its type as the one key"
        )
    name, content = next(iter(form.items()))
    decoder = _DECODERS.get(name)
    if decoder is None:
        raise NotPlainError(f"'{name}' is none of the types {', '.join(_DECODERS)}")
    return decoder(content, load)


def tensor_names(form: Any) -> Iterator[Any]:
    """Yield what stands for tensors in a plain form that has been checked."""
    if type(form) is list:
        for entry in form:
            yield from tensor_names(entry)
    elif type(form) is dict:
        for name, content in form.items():
            yield from (content,) if name == "tensor" else tensor_names(content)


def _float(content: Any, load: Callable[[Any], Any]) -> float:
    if type(content) is float or (type(content) is str and content in _NOT_FINITE):
        return float(content)
    raise NotPlainError("a float is written with a point, or as 'inf', '-inf' or 'nan'")


def _dtype(content: Any, load: Callable[[Any], Any]) -> torch.dtype:
    if type(content) is str and content in DTYPES:
        return DTYPES[content]
    raise NotPlainError(f"{content!r} is no dtype that can be stored")


def _sequence(kind: type) -> Callable[[Any, Callable[[Any], Any]], Any]:
    def decoded(content: Any, load: Callable[[Any], Any]) -> Any:
        entries = [decode(entry, load) for entry in _listed(content)]
        if kind is torch.Size and any(type(entry) is not int for entry in entries):
            raise NotPlainError("a size is of whole numbers")
        return kind(entries)

    return decoded


def _dict(content: Any, load: Callable[[Any], Any]) -> dict[Any, Any]:
    if len(_listed(content)) > _MOST_KEYS:
        raise NotPlainError(f"a dict has at most {_MOST_KEYS} keys")
    pairs = [tuple(decode(entry, load) for entry in _listed(pair)) for pair in content]
    if any(len(pair) != 2 or isinstance(pair[0], Tensor) for pair in pairs):
        raise NotPlainError("a dict is a list of keys with their values")
    try:
        result = dict(pairs)
    except TypeError:  # lists and dicts, also within tuples
        raise NotPlainError("a list or a dict cannot be the key of a dict") from None
    if len(result) != len(pairs):
        raise NotPlainError("a dict has no key twice")
    return result


def _listed(content: Any) -> list[Any]:
    if type(content) is not list:
        raise NotPlainError("entries are written as a list")
    return content


_DECODERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "float": _float,
    "tensor": lambda content, load: load(content),
    "dtype": _dtype,
    "dict": _dict,
    **{name: _sequence(kind) for name, kind in _SEQUENCES.items()},
}


_MOST_ENTRIES = 2**27


class _Description(TypedDict):
    """What stands for a tensor."""

    shape: Annotated[tuple[Annotated[int, within(0, 2**40)], ...], at_most(32)]
    dtype: Annotated[str, one_of(DTYPES)]


@dataclass(frozen=True)
class Inputs:
    """Arguments of a call, with `{"tensor": {"shape": [...], "dtype": "float32"}}` for each tensor.

    Attributes:
        positional: Positional arguments, in the plain form.
        keyword: Keyword arguments, in the plain form.
    """

    positional: Annotated[tuple[Any, ...], at_most(1000)] = ()
    keyword: Annotated[Mapping[str, Any], at_most(1000)] = field(default_factory=dict)

    @classmethod
    def of(cls, example_inputs: ExampleInputs) -> Inputs:
        """Describe example inputs; raise an UnsavableModelError if they hold more than tensors and plain values."""
        args, kwargs = as_call(example_inputs)
        try:
            keyword = {key: encode(value, _described) for key, value in kwargs.items()}
            return cls(tuple(encode(value, _described) for value in args), keyword)
        except NotPlainError as error:
            raise UnsavableModelError(
                f"The example inputs cannot be described: {error}; give tensors, numbers, and lists of these."
            ) from None

    @property
    def side(self) -> int | None:
        """Height and width of the square images, `(N, C, side, side)`, that come first; None for other inputs."""
        first: Any = next(iter(self.positional), None)
        shape = first["tensor"].get("shape", ()) if isinstance(first, Mapping) and "tensor" in first else ()
        *_, height, width = (*shape, None, None) if len(shape) != len("NCHW") else shape
        return width if height == width else None

    def require_plain(self) -> None:
        """Raise an ArtifactError unless all arguments are in the plain form, as a file may say anything."""
        try:
            for form in (*self.positional, *self.keyword.values()):
                decode(form, lambda tensor: checked(_Description, tensor, "inputs.tensor", ArtifactError))
        except NotPlainError as error:
            raise ArtifactError(f"its inputs are not plain: {error}") from None

    def make(self, device: torch.device | str = "cpu") -> ExampleInputs:
        """Make such inputs, of ones; raise an ArtifactError if a hostile file says that they are huge."""
        left = _MOST_ENTRIES

        def ones(tensor: Any) -> Tensor:
            nonlocal left
            left -= math.prod(tensor["shape"])
            if left < 0:
                raise ArtifactError(
                    f"The manifest says that the model is called with more than {_MOST_ENTRIES} numbers; give example inputs of your own."
                )
            return torch.ones(tensor["shape"], dtype=DTYPES[tensor["dtype"]], device=device)

        if self.keyword:
            return {key: decode(form, ones) for key, form in self.keyword.items()}
        made = tuple(decode(form, ones) for form in self.positional)
        return made[0] if len(made) == 1 and isinstance(made[0], Tensor) else made


def _described(tensor: Tensor) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise NotPlainError(f"a tensor of {dtype} cannot be stored")
    return {"shape": list(tensor.shape), "dtype": dtype}
