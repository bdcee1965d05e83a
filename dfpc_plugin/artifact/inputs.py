"""What a model is called with, without the values: shapes and dtypes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor

from dfpc_plugin.artifact.plain import DTYPES, NotPlainError, decode, encode
from dfpc_plugin.artifact.reading import ArtifactError, UnsavableModelError
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.plain_data import at_most, checked, one_of, within

__all__ = ["Inputs"]

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
