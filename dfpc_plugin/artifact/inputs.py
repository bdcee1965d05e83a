"""What a model is called with, without the values: shapes and dtypes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.artifact.errors import ArtifactError, UnsavableModelError
from dfpc_plugin.artifact.plain import DTYPES, NotPlainError, decode, encode
from dfpc_plugin.artifact.schema import listing, number, record, text
from dfpc_plugin.inputs import ExampleInputs, as_call

__all__ = ["Inputs"]

_MOST_ENTRIES = 2**27
_TENSOR = record({"shape": listing(number(0, 2**40), 32), "dtype": text(longest=20)})


@dataclass(frozen=True)
class Inputs:
    """Arguments of a call, with `{"tensor": {"shape": [...], "dtype": "float32"}}` for each tensor.

    Attributes:
        positional: Positional arguments, in the plain form.
        keyword: Keyword arguments, in the plain form.
    """

    positional: tuple[Any, ...] = ()
    keyword: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, example_inputs: ExampleInputs) -> Inputs:
        """Describe example inputs.

        Raises:
            UnsavableModelError: They hold something that is no plain value and no tensor.
            ExampleInputsError: They are no example inputs at all.
        """
        args, kwargs = as_call(example_inputs)
        try:
            keyword = {key: encode(value, _described) for key, value in kwargs.items()}
            return cls(tuple(encode(value, _described) for value in args), keyword)
        except NotPlainError as error:
            raise UnsavableModelError(
                f"The example inputs cannot be described: {error}; give tensors, numbers, and lists of these."
            ) from None

    @classmethod
    def from_json(cls, content: Any) -> Inputs:
        """Read what `to_json` has written.

        Raises:
            ArtifactError: It is no such thing.
        """
        try:
            for form in (*content["positional"], *content["keyword"].values()):
                decode(form, _require_description)
        except NotPlainError as error:
            raise ArtifactError(f"its inputs are not plain: {error}") from None
        return cls(tuple(content["positional"]), content["keyword"])

    def to_json(self) -> dict[str, Any]:
        """Return the same as dicts, lists, numbers and strings."""
        return {"positional": list(self.positional), "keyword": dict(self.keyword)}

    def make(self, device: torch.device | str = "cpu") -> ExampleInputs:
        """Make such inputs, of ones.

        Raises:
            ArtifactError: They are very large, as a damaged or hostile file can say of a small model.
        """
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


def _require_description(content: Any) -> None:
    _TENSOR(content, "inputs.tensor")
    if content["dtype"] not in DTYPES:
        raise NotPlainError(f"{content['dtype']!r} is no dtype that can be stored")
