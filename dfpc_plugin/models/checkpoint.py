"""Read checkpoint files: the tensors, and what the file says about the model. No code in a file is run."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import mmap
import pathlib
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dfpc_plugin.errors import DFPCError, first_line
from dfpc_plugin.files import is_directory, is_file
from dfpc_plugin.models.catalogue import is_listed

_AVERAGES = ("state_dict_ema", "model_ema")
_KEYS = (*_AVERAGES, "state_dict", "model", "net", "model_state_dict")
"""Keys under which trainers save the weights; averages over the training are preferred, as in timm."""
_ARGUMENTS = ("args", "hyper_parameters", "config")
"""Keys under which trainers save their options: timm and torchvision, Lightning, others."""
_ARCHITECTURES = ("arch", "model", "model_name", "architecture", "backbone")
_NUMBERS = ("num_classes", "in_chans", "img_size")
_COMPILED = "_orig_mod."
ARTIFACT_KEY = "dfpc_plugin"
"""A key in the metadata of the weights of a saved model of this library."""
_REFUSED = re.compile(r"(?:GLOBAL|global|class) ([A-Za-z_]\w*(?:\.\w+)+)")
"""How torch names the class that it does not create."""
_MOST, _LONGEST = 50_000, 1000
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    np.dtype,
    type(np.dtype(np.float64)),
]
_HARMLESS += [type(np.dtype(kind)) for kind in (np.float32, np.int64, np.bool_)]
_HARMLESS += [np.float64(0).__reduce__()[0], codecs.encode]
"""Plain values that trainers save beside weights, but torch does not allow: options, paths, NumPy numbers."""


class WeightsError(DFPCError):
    """The weights of a model cannot be loaded."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        path: The file.
        tensors: The weights by their names in the file, without the prefixes of `torch.compile`.
        averaged: Whether these are averages over the training, which the file has in addition to the last weights.
        architectures: Names of models that the file may mean, the most likely first; all are listed by a library.
        options: Arguments of the model's builder that the file states.
        side: Height and width of the images in training, if the file states them and they are equal.
        of_artifact: Whether the file is a part of a model that this library has saved.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    averaged: bool = False
    architectures: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None
    of_artifact: bool = False

    @property
    def half(self) -> torch.dtype | None:
        """The type of the weights if all of them have 16 bits."""
        kinds = {tensor.dtype for tensor in self.tensors.values() if tensor.is_floating_point()}
        return kinds.pop() if len(kinds) == 1 and kinds <= {torch.float16, torch.bfloat16} else None


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a safetensors file, or one that `torch.load` reads with `weights_only=True`.

    Raises WeightsError if the file cannot be read, or holds no weights.
    """
    path = Path(path)
    if is_directory(path):
        raise WeightsError(f"'{path}' is a directory; give the file with the weights in it.")
    if not is_file(path):
        raise WeightsError(f"There is no file '{path}' with weights; check the path.")
    content = _content(path)
    place, key = _weights_in(content, path)
    tensors = {str(name).replace(_COMPILED, ""): t for name, t in dict(place).items() if isinstance(t, Tensor)}
    if not tensors:
        raise WeightsError(f"'{path}' holds no weights by name; save the model's state_dict.")
    _require_names(tensors, path)
    nested = next((name for name, tensor in tensors.items() if tensor.is_nested), None)
    if nested is not None:
        raise WeightsError(
            f"'{nested}' in '{path}' is a nested tensor, which no weight is; save the model's state_dict."
        )
    stated = _stated(content)
    architectures, options = tuple(_architectures(content, stated)), _options(stated)
    of_artifact = isinstance(content, Mapping) and isinstance(content.get(ARTIFACT_KEY), str)
    return Checkpoint(path, tensors, key in _AVERAGES, architectures, options, _side(stated), of_artifact)


def _content(path: Path) -> Any:
    """The content of a file; raises WeightsError if it cannot be read."""
    _require_uncompressed(path)
    _require_no_bytearray(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                _require_names(file.keys(), path)
                return {**(file.metadata() or {}), **{name: file.get_tensor(name) for name in file.keys()}}
        with _harmless_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except SafetensorError as error:
        raise WeightsError(f"'{path}' is not a complete safetensors file ({error}); fetch it again.") from error
    except Exception as error:  # torch and zip files report damage in many ways
        refused = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is not None:
            raise WeightsError(
                f"'{path}' holds Python objects, such as {refused[1]}, and cannot be read as tensors alone; load it where you trust "
                f"it, and save the weights of the model in it: torch.save(model.state_dict(), 'weights.pt')."
            ) from None
        if path.suffix == ".onnx" or not path.stat().st_size:
            kind = "empty" if not path.stat().st_size else "an ONNX file, which holds no weights by name"
            raise WeightsError(f"'{path}' is {kind}; give a file that torch.save or safetensors has written.") from None
        said = first_line(error).partition(". ")[0]  # torch goes on with advice
        raise WeightsError(
            f"'{path}' is damaged, or no checkpoint of PyTorch ({type(error).__name__}: {said}); fetch it again, or "
            f"give a file that torch.save or safetensors has written."
        ) from error


@contextlib.contextmanager
def _harmless_allowed() -> Iterator[None]:
    """Allow `torch.load` to create the types in `_HARMLESS`."""
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals(_HARMLESS):
            yield
        return
    before = list(torch.serialization.get_safe_globals())  # torch 2.4, which adds to this list
    torch.serialization.add_safe_globals(_HARMLESS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _require_uncompressed(path: Path) -> None:
    """Raise WeightsError if an archive is compressed, as torch's are not: it could take far more memory than disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = next((entry for entry in archive.infolist() if entry.file_size > entry.compress_size), None)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # not an archive, or damaged; the reader raises then
    if packed is not None and "/code/" in packed.filename:
        raise WeightsError(
            f"'{path}' is a TorchScript program, whose weights have no names of layers; save the state_dict of the model that it "
            f"was made from."
        )
    if packed is not None:
        raise WeightsError(
            f"'{path}' holds '{packed.filename[:100]}' compressed, which torch.save does not do; load it where you trust it, and "
            f"save its state_dict with safetensors."
        )


def _require_no_bytearray(path: Path) -> None:
    """Raise WeightsError if a pickle makes a bytearray: torch.load allows it, and it can take any amount of memory."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.find(b"\nbytearray\n") >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return  # the reader raises then
    if found:
        raise WeightsError(f"'{path}' holds a bytearray, which is no weight; save the model's state_dict.")


def _require_names(names: Collection[str], path: Path) -> None:
    """Raise WeightsError if there are far more tensors, or far longer names, than in models."""
    if len(names) > _MOST or any(len(name) > _LONGEST for name in names):
        raise WeightsError(
            f"'{path}' holds more than {_MOST} tensors, or one with a name of more than {_LONGEST} characters, which no model "
            f"has; save one model's state_dict."
        )


def _weights_in(content: Any, path: Path) -> tuple[Mapping[Any, Any], str | None]:
    """The mapping with the weights and its key: a well-known one, or the only one with tensors.

    Raises WeightsError if there are several.
    """
    visited: list[Any] = []  # a checkpoint may contain itself
    last = None
    while isinstance(content, Mapping) and not any(content is outer for outer in visited):
        visited.append(content)
        inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
        key = next((key for key in _KEYS if key in inner), None)
        if key is None and not _holds_tensors(content):
            found = [key for key, value in inner.items() if _holds_tensors(value)]
            if len(found) > 1:
                names = ", ".join(f"'{key}'" for key in found)
                raise WeightsError(
                    f"'{path}' holds weights under {names}; save the ones you want in a file of their own."
                )
            key = found[0] if found else None
        if key is None:
            break
        content, last = inner[key], str(key)
    return (content if isinstance(content, Mapping) else {}), last


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in content.values())


def _stated(content: Any) -> dict[str, Any]:
    """The options of the training that wrote a file, by name."""
    found: dict[str, Any] = {}
    for key in _ARGUMENTS if isinstance(content, Mapping) else ():
        value = content.get(key)
        value = vars(value) if isinstance(value, argparse.Namespace) else value
        found |= {str(name): entry for name, entry in value.items()} if isinstance(value, Mapping) else {}
    return found


def _architectures(content: Any, stated: Mapping[str, Any]) -> Iterator[str]:
    """Names of models that a file may mean, the most likely first. A plain name is timm's or torchvision's.

    timm writes `arch` and `args`, torchvision's references `args` and `model`, PyTorch's ImageNet example only `arch`.
    """
    outer = content if isinstance(content, Mapping) else {}
    timms = "arch" not in outer or bool(stated)
    timms = timms and not (isinstance(outer.get("model"), Mapping) and "args" in outer)
    seen = set()
    for place in (outer, stated):
        for name in (place[key] for key in _ARCHITECTURES if isinstance(place.get(key), str)):
            prefixed = f"torchvision/{name}"
            for full in (name, prefixed) if timms else (prefixed, name):
                if full not in seen and is_listed(full):
                    seen.add(full)
                    yield full


def _side(stated: Mapping[str, Any]) -> int | None:
    """The side of square images, from the options of timm's trainer."""
    size = stated.get("input_size")
    sides = set(size[-2:]) if isinstance(size, list | tuple) and len(size) == 3 else {stated.get("img_size")}
    side = sides.pop() if len(sides) == 1 else None
    return side if type(side) is int and side > 0 else None


def _options(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the model's builder among the options of a training, by timm's names."""
    found = {name: stated[name] for name in _NUMBERS if type(stated.get(name)) is int}
    if isinstance(stated.get("gp"), str):
        found["global_pool"] = stated["gp"]
    more = stated.get("model_kwargs")
    return found | ({str(name): value for name, value in more.items()} if isinstance(more, Mapping) else {})
