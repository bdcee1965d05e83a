"""Registries of everything that users choose by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from dfpc_plugin.errors import DFPCError, RegistryError
from dfpc_plugin.plain_data import did_you_mean

EXTENSIONS = "dfpc_plugin"
"""The entry point group in which other packages name modules that register their own entries."""


class Named(Protocol):
    """An entry of a registry: its name, and a line for help texts and the documentation."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def summary(self) -> str: ...  # noqa: D102


N = TypeVar("N", bound=Named)


class Registry(Mapping[str, N]):
    """Entries by name, in the order of their registration.

    Installed packages can add entries: they name a module under the entry point group `dfpc_plugin`. It is imported when a
    name is unknown, or all names are requested, for the first time.
    """

    _extended = False

    def __init__(self, setting: str, *entries: N) -> None:
        """Register the first entries; `setting` names the setting in error messages."""
        self._setting = setting
        self._entries: dict[str, N] = {}
        for entry in entries:
            self.register(entry)

    def register(self, entry: N) -> N:
        """Add an entry, and return it.

        Raises:
            RegistryError: The name is taken.
        """
        if entry.name in self._entries:
            raise RegistryError(f"{self._setting} '{entry.name}' is registered already; choose another name.")
        self._entries[entry.name] = entry
        return entry

    def __getitem__(self, name: str) -> N:
        """Return the entry of a name."""
        if name not in self._entries:
            _import_extensions()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names."""
        _import_extensions()
        return iter(dict(self._entries))

    def __len__(self) -> int:
        """Return the number of entries."""
        _import_extensions()
        return len(self._entries)

    def find(self, name: str, error: type[DFPCError], *others: str, setting: str | None = None) -> N:
        """Return the entry of a name.

        Args:
            name: What the user gave.
            error: Type of the error to raise.
            *others: Further names that the setting takes.
            setting: Name of the setting for the user, if it is not the registry's.

        Raises:
            DFPCError: There is no such entry; the message has the nearest name.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        names = (*others, *self)
        hint = did_you_mean(name, names, "; choose one of them.")
        raise error(f"{setting or self._setting}={name!r} is none of {', '.join(names)}{hint}")


def _import_extensions() -> None:
    """Import the modules that installed packages name, once; raise RegistryError if one of them cannot be imported."""
    if Registry._extended:
        return
    Registry._extended = True  # before importing, as the modules may look up names
    for point in entry_points(group=EXTENSIONS):
        try:
            point.load()
        except Exception as error:  # an import may raise anything
            Registry._extended = False
            raise RegistryError(
                f"The extension '{point.name}' ({point.value}) cannot be imported ({type(error).__name__}: {error}); "
                f"repair or uninstall the package that names it."
            ) from error
