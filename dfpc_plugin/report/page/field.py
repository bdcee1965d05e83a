"""A value of a record, with its path in the record for error messages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dfpc_plugin.report.page.errors import ReportError

__all__ = ["Field"]

_NAMES = {bool: "true or false", str: "text", int: "a number", float: "a number", dict: "an object", list: "a list"}


class Field:
    """A value of a record that may be absent. True if it is there."""

    def __init__(self, value: Any, path: str = "") -> None:
        """Hold `value`, which stands at `path`."""
        self.value = value
        self.path = path

    def __bool__(self) -> bool:
        """Whether the value is there: absent and null are the same."""
        return self.value is not None

    def __getitem__(self, key: str) -> Field:
        """Return what an object holds under `key`.

        Raises:
            ReportError: This is no object.
        """
        if self.value is None:
            return Field(None, self._inner(key))
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object")
        return Field(self.value.get(key), self._inner(key))

    def items(self) -> list[Field]:
        """Return the entries of a list; of what is absent, none.

        Raises:
            ReportError: This is no list.
        """
        if self.value is None:
            return []
        if isinstance(self.value, str | bytes) or not isinstance(self.value, Sequence):
            raise self.wrong("a list")
        return [Field(entry, f"{self.path}[{index}]") for index, entry in enumerate(self.value)]

    def entries(self) -> list[tuple[str, Field]]:
        """Return the entries of an object, in its order; of what is absent, none.

        Raises:
            ReportError: This is no object.
        """
        if self.value is None:
            return []
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object")
        return [(str(key), Field(entry, self._inner(str(key)))) for key, entry in self.value.items()]

    def text(self) -> str:
        """Return a text; of what is absent, an empty one.

        Raises:
            ReportError: This is no text.
        """
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def texts(self) -> list[str]:
        """Return a list of texts.

        Raises:
            ReportError: This is no list, or something in it is no text.
        """
        return [entry.text() for entry in self.items()]

    def number(self) -> float | None:
        """Return a number; None for what is absent or not finite, which no scale has a place for.

        Raises:
            ReportError: This is no number.
        """
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        try:
            return float(self.value) if math.isfinite(self.value) else None
        except OverflowError:  # a whole number beyond the largest float
            return None

    def numbers(self) -> list[float | None]:
        """Return a list of numbers.

        Raises:
            ReportError: This is no list, or something in it is no number.
        """
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
        kind = _NAMES.get(type(self.value), type(self.value).__name__)
        return ReportError(f"Cannot show this record: its {self._place()} must be {wanted}, and it is {kind}.")

    def _place(self) -> str:
        return f"'{self.path}'" if self.path else "outermost part"

    def _inner(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
