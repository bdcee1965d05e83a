"""Weights from files, in the layouts in which checkpoints come."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from dfpc_plugin.models.build import WeightsError

__all__ = ["load_weights"]

_SHOWN = 4
_KEYS = ("net", "model", "state_dict", "model_state_dict")
"""Where trainers put the weights among other things."""
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What trainers put before every name."""
_COUNTER = "num_batches_tracked"
_RENAMED = (
    ((r"\bshortcut\b", "downsample"), (r"^linear\b", "fc")),
    ((r"\bdownsample\b", "shortcut"), (r"^fc\b", "linear")),
    ((r"^fc\b", "linear"),),
    ((r"^linear\b", "fc"),),
)
"""What the shortcuts and the last layer of one network are called by different authors."""


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Give `model` the weights of a checkpoint.

    Files of safetensors, and files that `torch.load` reads as mere weights; nothing in them is run. Weights may be
    wrapped as trainers do (`state_dict`, `model`, `net`, `module.`; those of an average first), and the CIFAR networks' layers may
    have the names of other authors' code. Either every weight of the model is found, or nothing changes.

    Args:
        model: A model.
        path: The file.

    Raises:
        WeightsError: The file cannot be read, or is of another model; the message has the first differences.
    """
    path = Path(path)
    given = _read(path)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    empty = next((name for name, tensor in wanted.items() if tensor.is_meta), None)
    if empty is not None:
        raise WeightsError(
            f"The model's '{empty}' is on the meta device, which holds no values; build the model on the CPU first."
        )
    optional = set(getattr(model, "optional_weights", ()))
    optional |= {name for name in wanted if name.endswith(_COUNTER)}
    faults = []
    for state in _layouts(given):
        fault = _fault(state, wanted, optional)
        if fault is None:
            _give(model, wanted, {name: state[name] for name in wanted if name in state}, path)
            return
        faults.append(fault)
    fewest = min(faults, key=lambda fault: fault[0])
    raise WeightsError(f"The weights in '{path}' are not of this model: {fewest[1]}.")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name."""
    if not path.is_file():
        raise WeightsError(f"There is no file '{path}' with weights; check the path.")
    _require_uncompressed(path)
    try:
        content = load_state_dict(str(path), weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"'{path}' is no whole file of safetensors ({error}); fetch it again.") from error
    except (AttributeError, TypeError):  # what timm makes of content that has no names
        content = None
    except Exception as error:  # torch and zip files report damage in many ways
        raise WeightsError(
            f"'{path}' cannot be read as mere weights ({type(error).__name__}: {_first_line(error)}); if it holds Python objects, "
            f"load it where you trust it, and save its state_dict with safetensors."
        ) from error
    visited: list[Any] = []  # a checkpoint may contain itself
    while isinstance(content, Mapping) and not any(content is outer for outer in visited):
        visited.append(content)
        content = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    found = (
        {str(name): t for name, t in dict(content).items() if isinstance(t, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not found:
        raise WeightsError(f"'{path}' holds no weights by name; save the model's state_dict.")
    return found


def _require_uncompressed(path: Path) -> None:
    """Raise if a file takes far more memory than disk; torch itself writes archives without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = next((entry for entry in archive.infolist() if entry.file_size > entry.compress_size), None)
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
    ):  # of another kind, or damaged, as its reader will say
        return
    if packed is not None:
        raise WeightsError(
            f"'{path}' holds '{packed.filename[:100]}' compressed, which torch.save does not do; load it where you trust it, and "
            f"save its state_dict with safetensors."
        )


def _give(model: nn.Module, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that fit; if that fails or is interrupted, put back those that were there.

    Args:
        model: To be changed.
        wanted: Its state dict, of which the tensors are the model's own memory.
        state: Weights of the same names, shapes and kinds of numbers.
        path: Where they are from.
    """
    before = {name: tensor.clone() for name, tensor in wanted.items()}
    try:
        model.load_state_dict(dict(state), strict=False)
    except BaseException as error:
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(before[name])
        if isinstance(error, RuntimeError):
            raise WeightsError(
                f"The weights in '{path}' cannot be loaded into this model: {_first_line(error)}."
            ) from error
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _layouts(given: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The weights under the names that they may have in other people's code, as they are first."""
    bare = dict(given)
    for _ in _WRAPPERS:
        wrapper = next((w for w in _WRAPPERS if all(name.startswith(w) for name in bare)), None)
        if wrapper is None:
            break
        bare = {name.removeprefix(wrapper): tensor for name, tensor in bare.items()}
    if bare.keys() != given.keys():
        yield given
    yield bare
    for renames in _RENAMED:
        yield {_renamed(name, renames): tensor for name, tensor in bare.items()}


def _renamed(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _fault(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], optional: set[str]) -> tuple[int, str] | None:
    """How many names, shapes or types do not fit, and a sentence about the first of them; None if all do."""
    missing = [name for name in wanted if name not in state and name not in optional]
    surplus = [name for name in state if name not in wanted]
    both = [name for name in wanted if name in state]
    differ = [name for name in both if state[name].shape != wanted[name].shape]
    odd = [name for name in both if name not in differ and not _can_take(name, state[name], wanted[name])]
    parts = [
        _listed("it lacks", missing, str),
        _listed("the model has no", surplus, str),
        _listed(
            "",
            differ,
            lambda name: f"{name} has shape {_shape(state[name])} where the model's has {_shape(wanted[name])}",
        ),
        _listed("", odd, lambda name: f"{name} is {_type(state[name])} where the model's is {_type(wanted[name])}"),
    ]
    count = len(missing) + len(surplus) + len(differ) + len(odd)
    return (count, "; ".join(part for part in parts if part)) if count else None


def _can_take(name: str, given: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor has values of the kind that the model's has: real, complex or whole numbers, in any precision."""
    if (
        type(given) not in (Tensor, nn.Parameter)
        or given.layout != torch.strided
        or given.is_quantized
        or given.is_meta
    ):
        return False
    if name.endswith(_COUNTER):  # averages of checkpoints have fractions there, which no layer uses
        return not given.is_complex()
    kinds = [(tensor.is_floating_point(), tensor.is_complex()) for tensor in (given, wanted)]
    return kinds[0] == kinds[1] and torch.can_cast(given.dtype, wanted.dtype)


def _type(tensor: Tensor) -> str:
    """What a tensor is made of, such as "sparse_coo float32"."""
    layout = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype if layout == "strided" else f"{layout} {dtype}"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _listed(verb: str, names: list[str], said: Callable[[str], str]) -> str:
    """The first names, and how many more there are."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{verb} {', '.join(said(name) for name in names[:_SHOWN])}{more}".strip()
