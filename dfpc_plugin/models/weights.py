"""Weights from files, in the layouts in which checkpoints come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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
    wanted = model.state_dict()
    optional = set(getattr(model, "optional_weights", ()))
    optional |= {name for name in wanted if name.endswith("num_batches_tracked")}
    faults = []
    for state in _layouts(given):
        fault = _fault(state, wanted, optional)
        if fault is None:
            model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
            return
        faults.append(fault)
    fewest = min(faults, key=lambda fault: fault[0])
    raise WeightsError(f"The weights in '{path}' are not of this model: {fewest[1]}.")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name."""
    if not path.is_file():
        raise WeightsError(f"There is no file '{path}' with weights; check the path.")
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
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    found = {str(name): t for name, t in dict(content).items() if isinstance(t, Tensor)} if isinstance(content, Mapping) else {}
    if not found:
        raise WeightsError(f"'{path}' holds no weights by name; save the model's state_dict.")
    return found


def _first_line(error: Exception) -> str:
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
    """How many names or shapes do not fit, and a sentence about the first of them; None if all do."""
    missing = [name for name in wanted if name not in state and name not in optional]
    surplus = [name for name in state if name not in wanted]
    differ = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    parts = [
        _listed("it lacks", missing, str),
        _listed("the model has no", surplus, str),
        _listed("", differ, lambda name: f"{name} has shape {_shape(state[name])} where the model's has {_shape(wanted[name])}"),
    ]
    count = len(missing) + len(surplus) + len(differ)
    return (count, "; ".join(part for part in parts if part)) if count else None


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _listed(verb: str, names: list[str], said: Callable[[str], str]) -> str:
    """The first names, and how many more there are."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{verb} {', '.join(said(name) for name in names[:_SHOWN])}{more}".strip()
