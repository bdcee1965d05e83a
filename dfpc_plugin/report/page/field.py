"""A value of a record, with its path in the record for error messages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import PlainDataError, checked, inside, wrong


class ReportError(DFPCError, ValueError):
    """A record holds something that is not what its place is for."""


class Field:
    """A value of a record that may be absent. True if it is there: absent and null are the same.

    Its methods read it as a type, and raise a `ReportError` with its path if it is of another; what is absent is empty.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        """Hold `value`, which stands at `path`."""
        self.value = value
        self.path = path

    def __bool__(self) -> bool:
        """Whether the value is there."""
        return self.value is not None

    def __getitem__(self, key: str) -> Field:
        """Return what an object holds under `key`."""
        return Field(self._object().get(key), inside(self.path, key))

    def entries(self) -> list[tuple[str, Field]]:
        """Return the entries of an object, in its order."""
        return [(key, Field(entry, inside(self.path, key))) for key, entry in self._object().items()]

    def items(self) -> list[Field]:
        """Return the entries of a list."""
        return [Field(entry, f"{self.path}[{index}]") for index, entry in enumerate(self._as(list[Any], []))]

    def text(self) -> str:
        """Return a text."""
        return str(self._as(str, ""))

    def texts(self) -> list[str]:
        """Return a list of texts."""
        return [entry.text() for entry in self.items()]

    def number(self) -> float | None:
        """Return a number; None for what is absent or not finite, which no scale has a place for."""
        value = self._as(float, None)
        try:
            return float(value) if value is not None and math.isfinite(value) else None
        except OverflowError:  # a whole number beyond the largest float
            return None

    def numbers(self) -> list[float | None]:
        """Return a list of numbers."""
        return [entry.number() for entry in self.items()]

    def anything(self) -> str:
        """Return whatever it is as text for a reader."""
        if isinstance(self.value, str):
            return self.value
        if isinstance(self.value, float):
            return f"{self.value:.6g}"
        if self.value is None:
            return "none"
        try:
            return json.dumps(self.value, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise self.wrong("something that JSON can hold") from error

    def wrong(self, wanted: str) -> ReportError:
        """Return the error of a value that is not `wanted`."""
        return _cannot_show(wrong(self.path, wanted, self.value))

    def _as(self, kind: Any, absent: Any) -> Any:
        try:
            return absent if self.value is None else checked(kind, self.value, self.path or "all of it")
        except PlainDataError as error:
            raise _cannot_show(error) from None

    def _object(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._as(dict[str, Any], {})
        return found


def _cannot_show(error: PlainDataError) -> ReportError:
    return ReportError(f"Cannot show this record: {error.sentence}")
