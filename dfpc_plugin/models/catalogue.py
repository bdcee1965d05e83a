"""Which library a name belongs to, which names there are, and which are similar."""

from __future__ import annotations

import difflib
import fnmatch

from dfpc_plugin.errors import UnknownModelError
from dfpc_plugin.models.cifar_library import CifarLibrary
from dfpc_plugin.models.library import Library
from dfpc_plugin.models.own_code import OwnCode, is_own_code
from dfpc_plugin.models.timm_library import HUB, TimmLibrary
from dfpc_plugin.models.torchvision_library import TorchvisionLibrary

_TIMM, _OWN = TimmLibrary(), OwnCode()
_PREFIXED: tuple[Library, ...] = (TorchvisionLibrary(), CifarLibrary())
_FILES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar")
_LIBRARIES: tuple[Library, ...] = (_TIMM, *_PREFIXED)


def library_of(name: str) -> Library:
    """Return the library that a name belongs to by its form, even if it has no such model."""
    if is_own_code(name):
        return _OWN
    return next((library for library in _PREFIXED if name.startswith(library.prefix)), _TIMM)


def is_listed(name: str) -> bool:
    """Whether a name is in the list of a library: neither from a hub, nor a function of the user's."""
    return not is_own_code(name) and not name.startswith(HUB) and library_of(name).find_fault(name) is None


def require_known(name: str) -> None:
    """Raise if no model has this name.

    Raises:
        UnknownModelError: The message names the nearest.
    """
    fault = library_of(name).find_fault(name)
    if fault is not None:
        raise UnknownModelError(fault or f"No model is called '{name}'{_nowhere(name)}{_suggestion(name)}")


def _nowhere(name: str) -> str:
    """A clause on the missing file or directory, if a name looks like a path."""
    if name.endswith(_FILES):
        return ", and there is no such file"
    path = "/" in name and library_of(name) is _TIMM and not name.startswith(HUB)
    return ", and there is no such directory" if path else ""


def match_models(pattern: str) -> list[str]:
    """Return the names that match a shell-style pattern; a name without `*`, `?` or `[` is returned as it is.

    Raises:
        UnknownModelError: No name matches.
    """
    if not any(sign in pattern for sign in "*?[") or pattern.startswith(HUB):
        return [pattern]
    names = fnmatch.filter(library_of(pattern).names(), pattern)
    if not names:
        prefixes = " and ".join(f"'{library.prefix}'" for library in _PREFIXED)
        raise UnknownModelError(
            f"No model's name matches '{pattern}'; {prefixes} begin the names of other libraries' models."
        )
    return names


def _suggestion(name: str) -> str:
    """The end of the sentence: the nearest names of all libraries, or where to look."""
    full = {known: known for library in _LIBRARIES for known in library.names()}
    bare = {known.removeprefix(library.prefix): known for library in reversed(_LIBRARIES) for known in library.names()}
    stem = name
    for library in _PREFIXED:
        stem = stem.removeprefix(library.prefix)
    exact = [bare[stem]] if stem in bare else []
    near = (
        exact
        + difflib.get_close_matches(name, full, n=4)
        + [bare[n] for n in difflib.get_close_matches(stem, bare, n=6)]
    )
    found = list(dict.fromkeys(near))[:4]
    if found:
        return f"; did you mean {', '.join(found)}?"
    return (
        "; timm.list_models() lists the names, torchvision's begin with 'torchvision/', those for CIFAR with 'cifar/', and "
        "your own are written package.module:function."
    )
