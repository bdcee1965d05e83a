"""Options as people spell them: by the names that other commands have for them, and by those of other programs."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterator, Sequence

from dfpc_plugin.cli.options import option_names, section_type

__all__ = ["guessed", "respelt", "with_underscores"]

_TRUTHS = ("true", "false", "yes", "no")
_GUESSES = {
    "options.num_classes": ("num_classes", "num_class", "classes", "class_num", "n_classes", "nb_classes", "nclasses"),
    "options.in_chans": ("in_chans", "in_channels", "channels", "input_channels", "n_channels", "num_channels"),
    "weights": ("checkpoint", "checkpoint_path", "initial_checkpoint", "ckpt", "ckpt_path", "model_path", "state_dict"),
    "size": ("img_size", "image_size", "input_size", "imgsz", "resolution"),
    "target macs=": ("macs", "flops"),
    "target params=": ("params", "parameters"),
    "target ratio=": ("ratio", "pruning_ratio", "sparsity", "ch_sparsity", "amount"),
    "target speedup=": ("speedup", "speed_up"),
    "target max_drop=": ("max_drop", "drop"),
}
"""Options of ours by what programs like this one call them; one that ends in = is followed by the value."""


def with_underscores(arguments: Sequence[str]) -> Iterator[str]:
    """Spell options as the keys of a configuration file are: --batch-size becomes --batch_size."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        yield name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def respelt(arguments: Sequence[str], config: type) -> list[str]:
    """Spell the options of the model as the command has them, and give switches of sections their value.

    Where the model is a section, `--weights` is `--model.weights`; where it is an argument, the other way round.
    """
    names = list(option_names(config))
    counts = Counter(name.rpartition(".")[2] for name in names)
    found = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--"):
            name = _own(name, names, counts)
            following = next(iter(arguments[place + 1 :]), "")
            if "." in name and not equals and _is_switch(name, config) and following.lower() not in _TRUTHS:
                equals, value = "=", "true"
            argument = f"--{name}{equals}{value}"
        found.append(argument)
    return found


def _own(name: str, names: Sequence[str], counts: Counter[str]) -> str:
    """What the command calls an option of the model; other names stay."""
    first = name.partition(".")[0]
    if first not in names and counts[first] == 1 and f"model.{first}" in names:
        return f"model.{name}"
    inner = name.removeprefix("model.")
    return inner if first == "model" and "model.name" not in names and inner.partition(".")[0] in names else name


def _is_switch(path: str, config: type) -> bool:
    """Whether an option of a section, by its path, is true or false."""
    kind: typing.Any = config
    for part in path.split("."):
        section = section_type(kind)
        kind = None if section is None else typing.get_type_hints(section).get(part)
    return kind is bool


def guessed(typed: str, value: str, options: Sequence[str]) -> str | None:
    """The option that users of other programs mean by `typed`, with `value` if there is one; None if nobody knows."""
    last = typed.rpartition(".")[2]
    found = next((option for option, guesses in _GUESSES.items() if last in guesses), None)
    if found is None:
        return None
    first = found.partition(" ")[0].partition(".")[0]
    prefix = next((f"--{prefix}" for prefix in ("", "model.") if prefix + first in options), None)
    if prefix is None:
        return None
    return prefix + found + (value or "0.5" if found.endswith("=") else f" {value}".rstrip())
