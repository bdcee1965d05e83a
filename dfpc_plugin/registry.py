"""Registries: what users choose by name is registered once, and is known by that name everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from dfpc_plugin.errors import DFPCError, RegistryError
from dfpc_plugin.plain_data import did_you_mean

__all__ = ["EXTENSIONS", "Named", "Registry"]

EXTENSIONS = "dfpc_plugin"
"""The group of entry points that names modules of other packages, which register their own when they are imported."""


class Named(Protocol):
    """What a registry holds.

    Attributes:
        name: In Python, in recipes and on the command line.
        summary: What help texts and the documentation say of it, in one line.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def summary(self) -> str: ...  # noqa: D102


N = TypeVar("N", bound=Named)


class Registry(Mapping[str, N]):
    """Entries by name, in the order of their registration.

    Installed packages add entries of their own: they name a module under the entry point group `dfpc_plugin`, which is
    imported the first time that a name is unknown, or that all names are asked for.
    """

    _extended = False

    def __init__(self, setting: str, *entries: N) -> None:
        """Hold some entries.

        Args:
            setting: The setting that takes such names, for errors.
            *entries: The first entries.
        """
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
        """The entry of a name."""
        if name not in self._entries:
            _import_extensions()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """All names."""
        _import_extensions()
        return iter(dict(self._entries))

    def __len__(self) -> int:
        """How many entries there are."""
        _import_extensions()
        return len(self._entries)

    def find(self, name: str, error: type[DFPCError], *others: str, setting: str | None = None) -> N:
        """Return the entry of a name.

        Args:
            name: What the user gave.
            error: What to raise if there is no such entry.
            *others: Names that the setting takes beside those of the registry.
            setting: What the user calls the setting, if it is not the registry's own.

        Raises:
            DFPCError: There is none; the message names the nearest.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        names = (*others, *self)
        hint = did_you_mean(name, names, "; choose one of them.")
        raise error(f"{setting or self._setting}={name!r} is none of {', '.join(names)}{hint}")


def _import_extensions() -> None:
    """Import the modules that installed packages name, once.

    Raises:
        RegistryError: One of them cannot be imported.
    """
    if Registry._extended:
        return
    Registry._extended = True  # first, as the modules may look names up
    for point in entry_points(group=EXTENSIONS):
        try:
            point.load()
        except Exception as error:  # importing runs whatever the module says
            Registry._extended = False
            raise RegistryError(
                f"The extension '{point.name}' ({point.value}) cannot be imported ({type(error).__name__}: {error}); "
                f"repair or uninstall the package that names it."
            ) from error
