"""Weights from files, in the layouts in which checkpoints come."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.models.checkpoint import Checkpoint, WeightsError, read_checkpoint

__all__ = ["Match", "MismatchError", "load_weights", "match_weights"]

_SHOWN = 4
_DEEPEST_PREFIX = 8
_COUNTER = "num_batches_tracked"
_OF_WRAPPERS = ("n_averaged",)
"""What wrappers count, beside the weights."""
_RENAMED = (
    ((r"\bshortcut\b", "downsample"), (r"^linear\b", "fc")),
    ((r"\bdownsample\b", "shortcut"), (r"^fc\b", "linear")),
    ((r"^fc\b", "linear"),),
    ((r"^linear\b", "fc"),),
)
"""What the shortcuts and the last layer of one network are called by different authors."""


class MismatchError(WeightsError):
    """The weights of a checkpoint are not those of a model.

    Attributes:
        path: The file.
        match: How it fits.
        options: Options of the model's builder with which it would fit; empty where none are known.
    """

    def __init__(self, path: Path, match: Match, advice: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Say what differs, and what to do about it."""
        self.path, self.match, self.options = path, match, dict(options or {})
        super().__init__(f"The checkpoint '{path}' does not match the model: {match.problem}. {advice}".rstrip())


@dataclass(frozen=True)
class Match:
    """How a checkpoint fits a model, by the names of the model.

    Attributes:
        state: The checkpoint's tensors that the model has, too.
        missing: Names of the model's tensors that the checkpoint lacks.
        differ: Shapes in the checkpoint and in the model, where they are not the same.
        odd: Kinds of numbers in both, where the model cannot take the checkpoint's.
        surplus: Names, as in the file, of tensors that the model does not have.
        prefix: What stands before every name in the file.
    """

    state: Mapping[str, Tensor]
    missing: tuple[str, ...] = ()
    differ: Mapping[str, tuple[torch.Size, torch.Size]] = field(default_factory=dict)
    odd: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    surplus: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model is there in the right shape."""
        return not (self.missing or self.differ or self.odd)

    @property
    def faults(self) -> tuple[int, int]:
        """How much is wrong; tensors too many weigh least."""
        return len(self.missing) + len(self.differ) + len(self.odd), len(self.surplus)

    @property
    def ends(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Classes, and channels of the input, in the checkpoint and in the model; None unless that is all that differs."""
        classes, channels = set(), set()
        for name, (given, own) in self.differ.items():
            if len(given) != len(own):
                return None, None
            if given and given[1:] == own[1:] and _alike(re.sub(r"weight$", "bias", name), self):
                classes.add((given[0], own[0]))
            elif len(given) > 1 and (given[0], *given[2:]) == (own[0], *own[2:]):
                channels.add((given[1], own[1]))
            else:
                return None, None
        if self.missing or self.odd or len(classes) > 1 or len(channels) > 1:
            return None, None
        return next(iter(classes), None), next(iter(channels), None)

    @property
    def problem(self) -> str:
        """What is wrong, the first names of each kind."""
        classes, channels = self.ends
        other = () if classes or channels else tuple(self.differ)
        parts = [
            _listed("it lacks", self.missing, str),
            _listed("the model has no", self.surplus, str),
            "" if classes is None else "the classifier has {} classes, the model {}".format(*classes),
            "" if channels is None else "the first layer reads {} channels, the model's {}".format(*channels),
            _listed("", other, lambda name: _shapes(name, *self.differ[name])),
            _listed(
                "", tuple(self.odd), lambda name: f"{name} is {self.odd[name][0]}, the model's {self.odd[name][1]}"
            ),
        ]
        return "; ".join(part for part in parts if part)


def load_weights(
    model: nn.Module, weights: Checkpoint | Path | str, *, ignore_surplus: bool = False
) -> tuple[str, ...]:
    """Give `model` the weights of a checkpoint.

    Files of safetensors, and files that `torch.load` reads as mere weights; nothing in them is run. Weights may be
    wrapped as trainers do (`state_dict`, `model`, `net`; those of an average first), all names may have a prefix in common
    (`module.`, `model.`, `_orig_mod.`), and the CIFAR networks' layers may have the names of other authors' code. Either every
    weight of the model is found, or nothing changes.

    Args:
        model: A model.
        weights: The file, or what was read from it.
        ignore_surplus: Leave out tensors that the model does not have.

    Returns:
        The names of the tensors that were left out.

    Raises:
        WeightsError: The file cannot be read, or is of another model; the message has the first differences.
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    match = match_weights(model, checkpoint)
    if not match.complete:
        classes, _ = match.ends
        raise MismatchError(
            checkpoint.path, match, f"Build the model with num_classes={classes[0]}." if classes else ""
        )
    if match.surplus and not ignore_surplus:
        raise MismatchError(checkpoint.path, match, "Pass ignore_surplus=True to leave them out.")
    _give(model, match.state, checkpoint.path)
    return match.surplus


def match_weights(model: nn.Module, checkpoint: Checkpoint) -> Match:
    """Find the prefix and the names by which a checkpoint fits a model best.

    Raises:
        WeightsError: The model holds no values, or the checkpoint holds several models that fit.
    """
    wanted = _tensors_of(model)
    optional = set(getattr(model, "optional_weights", ()))
    optional |= {name for name in wanted if name.endswith(_COUNTER)}
    found: list[Match] = []
    for prefix in _prefixes(checkpoint.tensors, len(wanted)):
        own = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
        others = tuple(name for name in checkpoint.tensors if not name.startswith(prefix) and name not in _OF_WRAPPERS)
        matches = [_match(own, names, wanted, optional, others, prefix) for names in _spellings(own)]
        found.append(min(matches, key=lambda match: match.faults))
    complete = [match for match in found if match.complete]
    if len(complete) > 1 and complete[0].prefix:
        names = " and ".join(f"'{match.prefix}'" for match in complete)
        raise WeightsError(
            f"The checkpoint '{checkpoint.path}' holds several models that fit, under {names}; save the one you want in a file "
            f"of its own."
        )
    return min(found, key=lambda match: match.faults)


def _alike(bias: str, match: Match) -> bool:
    """Whether a bias, if there is one, has another shape in the checkpoint, too, as the weight beside it."""
    return bias in match.differ or bias not in match.state


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def _prefixes(names: Mapping[str, Tensor], wanted: int) -> list[str]:
    """What may stand before the names of the weights: nothing, and all that many of the names begin with."""
    counts: Counter[str] = Counter()
    for name in names:
        dots = (place for place, sign in enumerate(name) if sign == ".")
        counts.update(name[: place + 1] for place in itertools.islice(dots, _DEEPEST_PREFIX))
    return ["", *(prefix for prefix, count in counts.items() if 2 * count >= wanted)]


def _spellings(given: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names that the tensors may have in the model, by their own, as they are first."""
    yield {name: name for name in given}
    for renames in _RENAMED:
        yield {name: _renamed(name, renames) for name in given}


def _renamed(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _match(
    given: Mapping[str, Tensor],
    names: Mapping[str, str],
    wanted: Mapping[str, Tensor],
    optional: set[str],
    others: tuple[str, ...],
    prefix: str,
) -> Match:
    """Compare tensors, by what they are called in the model, with those that it wants."""
    state = {names[name]: tensor for name, tensor in given.items() if names[name] in wanted}
    surplus = tuple(prefix + name for name in given if names[name] not in wanted and name not in _OF_WRAPPERS)
    differ = {name: (t.shape, wanted[name].shape) for name, t in state.items() if t.shape != wanted[name].shape}
    odd = {
        name: (_type(tensor), _type(wanted[name]))
        for name, tensor in state.items()
        if name not in differ and not _can_take(name, tensor, wanted[name])
    }
    missing = tuple(name for name in wanted if name not in state and name not in optional)
    return Match(state, missing, differ, odd, (*surplus, *others), prefix)


def _give(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that fit; if that fails or is interrupted, put back those that were there.

    Args:
        model: To be changed.
        state: Weights by the model's names, in the right shapes and kinds of numbers.
        path: Where they are from.

    Raises:
        WeightsError: The model is on the meta device, or refuses the weights.
    """
    wanted = _tensors_of(model)  # the model's own memory
    empty = next((name for name, tensor in wanted.items() if tensor.is_meta), None)
    if empty is not None:
        raise WeightsError(
            f"The model's '{empty}' is on the meta device, which holds no values; build the model on the CPU first."
        )
    before = {name: tensor.clone() for name, tensor in wanted.items()}
    try:
        model.load_state_dict(dict(state), strict=False)
    except BaseException as error:
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(before[name])
        if isinstance(error, RuntimeError):
            first = str(error).strip().partition("\n")[0][:200]
            raise WeightsError(f"The weights in '{path}' cannot be loaded into this model: {first}.") from error
        raise


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


def _shapes(name: str, given: torch.Size, own: torch.Size) -> str:
    return f"{name} has shape {tuple(given)}, the model's {tuple(own)}"


def _listed(verb: str, names: tuple[str, ...], said: Callable[[str], str]) -> str:
    """The first names, and how many more there are."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{verb} {', '.join(said(name) for name in names[:_SHOWN])}{more}".strip()
