"""Settings: dataclasses that check their fields against their type hints when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data.checking import PlainDataError, checked, fields_of, to_plain

__all__ = ["Checked"]


@dataclass(frozen=True)
class Checked:
    """A base for frozen dataclasses of settings: `class Size(Checked, error=SizeError)`.

    Every field is checked against its type hint and the limits in it; lists become tuples, and texts become paths. A
    subclass that checks more than one field at once does so in its own `__post_init__`, after it has called this one.
    """

    _error: ClassVar[type[DFPCError]] = DFPCError

    def __init_subclass__(cls, error: type[DFPCError] | None = None) -> None:
        """Say which error is raised; that of the base class if none is given."""
        super().__init_subclass__()
        if error is not None:
            cls._error = error

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            DFPCError: The class's error; names every field that is wrong, what it must be, and what it is.
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
        """Return the settings as dicts, lists, numbers and texts by name."""
        return dict(to_plain(self))
