"""Which library a name belongs to, which names there are, and which are near."""

from __future__ import annotations

import difflib
import fnmatch

from dfpc_plugin.errors import UnknownModelError
from dfpc_plugin.models.cifar_library import CifarLibrary
from dfpc_plugin.models.library import Library
from dfpc_plugin.models.own_code import OwnCode, is_own_code
from dfpc_plugin.models.timm_library import HUB, TimmLibrary
from dfpc_plugin.models.torchvision_library import TorchvisionLibrary

__all__ = ["is_listed", "library_of", "match_models", "require_known"]

_TIMM, _OWN = TimmLibrary(), OwnCode()
_PREFIXED: tuple[Library, ...] = (TorchvisionLibrary(), CifarLibrary())
_FILES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar")
_LIBRARIES: tuple[Library, ...] = (_TIMM, *_PREFIXED)


def library_of(name: str) -> Library:
    """Return the library that a name belongs to by its form, whether that has such a model or not."""
    if is_own_code(name):
        return _OWN
    return next((library for library in _PREFIXED if name.startswith(library.prefix)), _TIMM)


def is_listed(name: str) -> bool:
    """Whether a name is one of a library's own models: none of a hub's, and no function of the user's."""
    return not is_own_code(name) and not name.startswith(HUB) and library_of(name).find_fault(name) is None


def require_known(name: str) -> None:
    """Raise if nothing is called `name`, with what the user may have meant.

    Raises:
        UnknownModelError: The message names the nearest.
    """
    fault = library_of(name).find_fault(name)
    if fault is not None:
        raise UnknownModelError(fault or f"No model is called '{name}'{_nowhere(name)}{_suggestion(name)}")


def _nowhere(name: str) -> str:
    """What else is not there, where a name looks like a path."""
    if name.endswith(_FILES):
        return ", and there is no such file"
    path = "/" in name and library_of(name) is _TIMM and not name.startswith(HUB)
    return ", and there is no such directory" if path else ""


def match_models(pattern: str) -> list[str]:
    """Return the names that a shell-style pattern stands for; a name without `*`, `?` or `[` stands for itself.

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
    """End the sentence with the nearest names, whichever library they are from, or with where to look."""
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
