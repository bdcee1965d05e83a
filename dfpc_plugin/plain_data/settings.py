"""`Checked`: dataclasses of settings that check their fields against their type hints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data.checking import PlainDataError, checked, fields_of, to_plain


@dataclass(frozen=True)
class Checked:
    """A base for frozen dataclasses of settings: `class Size(Checked, error=SizeError)`.

    Every field is checked against its type hint and limits; lists become tuples, and strings become paths. A subclass
    can check several fields together in its own `__post_init__`, after calling this one.
    """

    _error: ClassVar[type[DFPCError]] = DFPCError

    def __init_subclass__(cls, error: type[DFPCError] | None = None) -> None:
        """Set the class of errors; by default that of the base class."""
        super().__init_subclass__()
        if error is not None:
            cls._error = error

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            DFPCError: The class's error; for every invalid field it says what is expected and what is there.
        """
        own: Any = type(self)
        problems: list[str] = []
        for name, kind in fields_of(own).items():
            try:
                object.__setattr__(self, name, checked(kind, getattr(self, name), name))
            except PlainDataError as error:
                problems.append(error.sentence)
        if problems:
            raise self._error(" ".join(problems))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as dicts, lists, numbers and strings by name."""
        return dict(to_plain(self))
