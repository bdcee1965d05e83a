"""Load the weights of checkpoints, in the layouts of various trainers."""

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

from dfpc_plugin.advice import setting
from dfpc_plugin.errors import first_line
from dfpc_plugin.models.checkpoint import Checkpoint, WeightsError, read_checkpoint

_SHOWN = 4
"""Most names of one kind in a message; of more, the first is shown."""
_DEEPEST_PREFIX = 8
_COUNTER = "num_batches_tracked"
_OF_WRAPPERS = ("n_averaged",)
"""Counters that wrappers save beside the weights."""
_RENAMED = (
    ((r"\bshortcut\b", "downsample"), (r"^linear\b", "fc")),
    ((r"\bdownsample\b", "shortcut"), (r"^fc\b", "linear")),
    ((r"^fc\b", "linear"),),
    ((r"^linear\b", "fc"),),
)
"""Names that different authors give to the shortcuts and the last layer of the same network."""


class MismatchError(WeightsError):
    """The weights of a checkpoint do not match a model.

    Attributes:
        path: The file.
        match: How it fits.
        options: Options of the model's builder with which it would fit; empty if none are known.
    """

    def __init__(self, path: Path, match: Match, advice: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Describe what differs, and give advice, by default the general one."""
        self.path, self.match, self.options = path, match, dict(options or {})
        super().__init__(f"The checkpoint '{path}' does not match the model: {match.problem}. {advice or match.advice}")


@dataclass(frozen=True)
class Match:
    """How a checkpoint fits a model, by the model's names.

    Attributes:
        state: The checkpoint's tensors that the model has, too.
        missing: Names of the model's tensors that the checkpoint lacks.
        differ: Shapes in the checkpoint and in the model, if they differ.
        odd: Types in both, if the model cannot hold the checkpoint's.
        surplus: Names, as in the file, of tensors that the model does not have.
        prefix: The prefix of every name in the file.
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
        """Numbers of faults, for comparison: first unusable tensors, then surplus ones."""
        return len(self.missing) + len(self.differ) + len(self.odd), len(self.surplus)

    @property
    def ends(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """(Classes, input channels), each as (checkpoint's, model's) or None; both None if anything else differs."""
        classes, channels = set(), set()
        for name, (given, own) in self.differ.items():
            if len(given) != len(own) or name in self.tokens:
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
    def tokens(self) -> dict[str, tuple[int, int]]:
        """Numbers of tokens in the checkpoint and in the model, by the names of position embeddings that differ."""
        return {
            name: (given[1], own[1])
            for name, (given, own) in self.differ.items()
            if name.rpartition(".")[2] != "weight" and len(given) == len(own) == 3 and given[::2] == own[::2]
        }

    @property
    def problem(self) -> str:
        """What is wrong, with the first names of each kind."""
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

    @property
    def _replaced_by_sequence(self) -> str | None:
        """The layer whose weights are all that is missing, where the checkpoint has numbered layers under its name."""
        layers = {name.rpartition(".")[0] for name in self.missing}
        layer = layers.pop() if len(layers) == 1 else None
        numbered = layer and all(re.match(rf"{re.escape(layer)}\.\d+\.", name) for name in self.surplus)
        return layer if layer and numbered and self.surplus and not self.differ else None

    @property
    def advice(self) -> str:
        """What to do, as far as shapes tell."""
        classes, channels = self.ends
        if classes is not None:
            return f"Build the model with {setting('num_classes', classes[0])}."
        if channels is not None:
            return "Build the model with the checkpoint's number of input channels."
        replaced = self._replaced_by_sequence
        if replaced is not None:
            return (
                f"Its '{replaced}' is a sequence of layers, which no option makes. Write a function that builds the model with it, and "
                f"give that as package.module:function."
            )
        if self.missing or self.differ:
            return "Build the architecture that it was saved from, with the same options."
        if self.odd:
            return "Save the weights as ordinary tensors of the model's types."
        return f"Pass {setting('ignore_surplus', True)} to leave them out."


def load_weights(
    model: nn.Module, weights: Checkpoint | Path | str, *, ignore_surplus: bool = False
) -> tuple[str, ...]:
    """Load the weights of a checkpoint into `model`.

    The file is in safetensors format, or one that `torch.load` reads with `weights_only=True`; no code in it is run.
    Weights may be nested as trainers do it (`state_dict`, `model`, `net`; averages are preferred), all or some of the
    names may have a prefix (`module.`, `model.`, `_orig_mod.`), and layers of the CIFAR networks may have the names
    that other authors use. Unless every weight of the model is found, nothing changes.

    Args:
        model: A model.
        weights: The file, or its content.
        ignore_surplus: Ignore tensors that the model does not have.

    Returns:
        The names of the ignored tensors.

    Raises:
        WeightsError: The file cannot be read, or does not match the model; the message has the first differences.
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    match = match_weights(model, checkpoint)
    if not match.complete or (match.surplus and not ignore_surplus):
        raise MismatchError(checkpoint.path, match)
    _give(model, match.state, checkpoint.path)
    return match.surplus


def match_weights(model: nn.Module, checkpoint: Checkpoint) -> Match:
    """Find the prefix and the names with which a checkpoint fits a model best; each name may have its own prefix.

    Raises WeightsError if it holds several models that fit.
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
    by_ends = {name: _end(name, wanted) for name in checkpoint.tensors}
    if len(set(by_ends.values())) == len(by_ends):
        found.append(_match(checkpoint.tensors, by_ends, wanted, optional, (), ""))
    return min(found, key=lambda match: match.faults)


def _end(name: str, wanted: Mapping[str, Tensor]) -> str:
    """The longest end of a name, from a dot on, that is a name in the model; the name if there is none."""
    parts = name.split(".")
    ends = (".".join(parts[place:]) for place in range(min(len(parts), _DEEPEST_PREFIX + 1)))
    return next((end for end in ends if end in wanted), name)


def _alike(bias: str, match: Match) -> bool:
    """Whether the bias beside a weight differs in shape, too, or does not exist."""
    return bias in match.differ or bias not in match.state


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def _prefixes(names: Mapping[str, Tensor], wanted: int) -> list[str]:
    """Possible prefixes of the weights' names: none, and all that many of the names share."""
    counts: Counter[str] = Counter()
    for name in names:
        dots = (place for place, sign in enumerate(name) if sign == ".")
        counts.update(name[: place + 1] for place in itertools.islice(dots, _DEEPEST_PREFIX))
    return ["", *(prefix for prefix, count in counts.items() if 2 * count >= wanted)]


def _spellings(given: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Possible names of the tensors in the model, by their names in the file; the unchanged names come first."""
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
    """Compare the tensors `given`, by their `names` in the model, with the `wanted` ones."""
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
    """Load weights that fit, or restore the old ones and raise WeightsError if the model refuses them or is on meta."""
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
            raise WeightsError(
                f"The weights in '{path}' cannot be loaded into this model: {first_line(error)}."
            ) from error
        raise


def _can_take(name: str, given: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor has the model's kind of values (real, complex or integer), in any precision."""
    plain = type(given) in (Tensor, nn.Parameter) and given.layout == torch.strided
    if not plain or given.is_quantized or given.is_meta:
        return False
    if name.endswith(_COUNTER):  # averaged checkpoints have fractions here, which no layer uses
        return not given.is_complex()
    kinds = [(tensor.is_floating_point(), tensor.is_complex()) for tensor in (given, wanted)]
    return kinds[0] == kinds[1] and torch.can_cast(given.dtype, wanted.dtype)


def _type(tensor: Tensor) -> str:
    """The type of a tensor, such as "sparse_coo float32"."""
    layout = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype if layout == "strided" else f"{layout} {dtype}"


def _shapes(name: str, given: torch.Size, own: torch.Size) -> str:
    return f"{name} has shape {tuple(given)}, the model's {tuple(own)}"


def _listed(verb: str, names: tuple[str, ...], said: Callable[[str], str]) -> str:
    """All names of a few, or else the first and the number of the others."""
    if not names:
        return ""
    shown = names if len(names) <= _SHOWN else names[:1]
    more = f" and {len(names) - 1} more" if len(names) > len(shown) else ""
    return f"{verb} {', '.join(said(name) for name in shown)}{more}".strip()
