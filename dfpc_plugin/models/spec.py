"""`ModelSpec`: how a model is built, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.models.own_code import is_own_code
from dfpc_plugin.plain_data import to_plain

_REFUSED = frozenset({
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "checkpoint_path",
    "cache_dir", "weights", "weights_backbone", "pretrained_backbone", "progress", "scriptable", "exportable", "no_jit",
})  # fmt: skip
"""Options that fetch or read weights, or change global state."""
HUB = ("hf-hub:", "hf_hub:", "local-dir:")
"""timm's prefixes for models that are not in its list."""


class ModelOptionError(DFPCError, ValueError):
    """A model cannot be built as described."""


@dataclass(frozen=True)
class ModelSpec:
    """How a model is built, with random weights.

    Attributes:
        name: A timm name, `torchvision/NAME`, `cifar/NAME`, or `package.module:factory` of your own.
        options: Keyword arguments of the builder, as JSON can hold them; lists become tuples.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ModelOptionError if an option is not a plain value, or does more than describe the model."""
        if not isinstance(self.name, str) or not self.name:
            raise ModelOptionError(f"A model's name is text, not {self.name!r}; give a timm name or torchvision/NAME.")
        if not isinstance(self.options, Mapping):
            raise ModelOptionError(f"options of '{self.name}' must be names with values, not {self.options!r}.")
        for key in self.options:
            if not isinstance(key, str) or not key.isidentifier():
                raise ModelOptionError(f"{key!r} is no name for an option of '{self.name}'; give keyword arguments.")
            if key in _REFUSED:
                raise ModelOptionError(
                    f"'{key}' is no option that describes '{self.name}': it fetches weights or changes the process; leave it "
                    f"out, and load weights from a file or with pretrained."
                )
        plain = {key: _plain(value, self.name, key) for key, value in self.options.items()}
        object.__setattr__(self, "options", plain)

    @property
    def own_code(self) -> bool:
        """Whether building it runs a function of the user's."""
        return is_own_code(self.name)

    def to_json(self) -> dict[str, Any]:
        """Return the same as dicts, lists, numbers and strings."""
        return to_plain(self)

    @classmethod
    def from_json(cls, content: Any) -> ModelSpec:
        """Read the output of `to_json` from an untrusted source.

        Raises:
            ModelOptionError: It does not describe a model that can be built without fetching anything.
        """
        if not isinstance(content, Mapping) or set(content) != {"name", "options"}:
            raise ModelOptionError("A model is described by its name and options, and by nothing else.")
        spec = cls(content["name"], content["options"])
        if spec.name.startswith(HUB):
            raise ModelOptionError(f"'{spec.name}' would be fetched; describe a model by the name of its architecture.")
        return spec


BUILT_AS = "_dfpc_built_as"
"""Attribute of models that `build_model` has built: the spec, as plain data."""


def remember(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Note in a model how it was built, so that its copies can be saved without being told; return it."""
    if isinstance(model, nn.Module):  # a function of the user's may return anything
        vars(model)[BUILT_AS] = spec.to_json()
    return model


def remembered(model: nn.Module) -> ModelSpec | None:
    """Return what `remember` has noted, also in a model that was copied and pruned since; None if nothing."""
    found = vars(model).get(BUILT_AS)
    return None if found is None else ModelSpec.from_json(found)


def _plain(value: Any, name: str, key: str) -> Any:
    """Convert lists to tuples; raises ModelOptionError unless all values are plain."""
    if isinstance(value, list | tuple):
        return tuple(_plain(entry, name, key) for entry in value)
    if isinstance(value, Mapping) and all(isinstance(inner, str) for inner in value):
        return {inner: _plain(entry, name, key) for inner, entry in value.items()}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ModelOptionError(
        f"The option {key}={value!r} of '{name}' is a {type(value).__name__}; options are numbers, text, and lists of these."
    )
