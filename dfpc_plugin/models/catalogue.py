"""Which library a name belongs to and which are similar; the example inputs, preprocessing and hub configuration by it."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
from pathlib import Path
from typing import Any

import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.errors import UnknownModelError
from dfpc_plugin.models.cifar import CifarLibrary
from dfpc_plugin.models.library import Library, Preprocessing
from dfpc_plugin.models.own_code import OwnCode, is_own_code
from dfpc_plugin.models.spec import HUB, ModelSpec
from dfpc_plugin.models.timm_library import TimmLibrary
from dfpc_plugin.models.torchvision_library import TorchvisionLibrary

_TIMM, _OWN = TimmLibrary(), OwnCode()
_PREFIXED: tuple[Library, ...] = (TorchvisionLibrary(), CifarLibrary())
_FILES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar")
_LIBRARIES: tuple[Library, ...] = (_TIMM, *_PREFIXED)
_LIBRARY = "dfpc-plugin"


def library_of(name: str) -> Library:
    """Return the library that a name belongs to by its form, even if it has no such model."""
    if is_own_code(name):
        return _OWN
    return next((library for library in _PREFIXED if name.startswith(library.prefix)), _TIMM)


def is_listed(name: str) -> bool:
    """Whether a name is in the list of a library: neither from a hub, nor a function of the user's."""
    return not is_own_code(name) and not name.startswith(HUB) and library_of(name).find_fault(name) is None


def require_known(name: str) -> None:
    """Raise UnknownModelError, which names the nearest, if no model has this name."""
    fault = library_of(name).find_fault(name)
    if fault is not None:
        raise UnknownModelError(fault or f"No model is called '{name}'{_nowhere(name)}{_suggestion(name)}")


def _nowhere(name: str) -> str:
    """A clause on the missing file or directory, if a name looks like a path."""
    if name.endswith(_FILES):
        return (
            f"; give the name of its architecture, and the file as {setting('weights')}"
            if Path(name).is_file()
            else ", and there is no such file"
        )
    path = "/" in name and library_of(name) is _TIMM and not name.startswith(HUB)
    return ", and there is no such directory" if path else ""


def match_models(pattern: str) -> list[str]:
    """Return the names that match a shell-style pattern; a name without `*`, `?` or `[` is returned as it is.

    Raises UnknownModelError if no name matches.
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
    full = [known for library in _LIBRARIES for known in library.names()]
    bare = {known.removeprefix(library.prefix): known for library in reversed(_LIBRARIES) for known in library.names()}
    stem = name.removeprefix(library_of(name).prefix)
    exact = [bare[stem]] if stem in bare else []
    near = (bare[known] for known in difflib.get_close_matches(stem, bare, n=6))
    found = list(dict.fromkeys((*exact, *difflib.get_close_matches(name, full, n=4), *near)))[:4]
    if found:
        return f"; did you mean {', '.join(found)}?"
    return (
        "; timm.list_models() lists the names, torchvision's begin with 'torchvision/', those for CIFAR with 'cifar/', and "
        "your own are written package.module:function."
    )


def example_inputs(
    model: nn.Module,
    name: str,
    *,
    batch_size: int = 1,
    size: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return `batch_size` inputs that `model`, built as `name`, can be called with; for a detector, a batch of images.

    `size` is the height and width in pixels, instead of the model's own; `device` is by default that of the parameters.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    made = tuple(
        torch.ones(batch_size, *shape, device=device or parameter.device, dtype=parameter.dtype)
        for shape in library_of(name).shapes(model, name, size)
    )
    return made if len(made) > 1 else made[0]


def preprocessing_of(model: nn.Module, name: str, size: int | None = None) -> Preprocessing:
    """Return how images are prepared for `model`, according to the library that built it as `name`.

    `size` is the height and width in pixels, instead of the model's own.
    """
    found = library_of(name).preprocessing(model, name)
    return found if size is None else dataclasses.replace(found, size=(found.size[0], size, size))


def write_hub_config(model: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the hub's configuration of a model, built by `spec` and pruned since, to `path`: timm's own for timm's."""
    path.write_text(json.dumps(_config_of(model, spec, path), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _config_of(model: nn.Module, spec: ModelSpec, path: Path) -> dict[str, Any]:
    marks = {"library_name": _LIBRARY, "pruned": True}
    whole = getattr(model, "pretrained_cfg", None) and hasattr(model, "num_classes")  # no feature extractor
    if whole and isinstance(library_of(spec.name), TimmLibrary):
        where: Any = path  # timm 1.0.9 needs a Path, and 1.0.31 says str
        save_config_for_hf(model, where)  # timm writes it, and has no function that returns it
        return {**json.loads(path.read_text(encoding="utf-8")), **marks}
    classes = spec.options.get("num_classes", getattr(model, "num_classes", None))
    known = {"num_classes": classes} if isinstance(classes, int) else {}
    return {"architecture": spec.name, **known, **marks}
