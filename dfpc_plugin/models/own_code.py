"""Models that functions of the user's build."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from dfpc_plugin.models.library import IMAGENET, Preprocessing

__all__ = ["OwnCode", "is_own_code"]

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SIZE = 224


def is_own_code(name: str) -> bool:
    """Whether a name is of the form `package.module:factory`."""
    return _FACTORY.fullmatch(name) is not None


class OwnCode:
    """Functions and classes that return a model."""

    prefix = ""

    def names(self) -> Sequence[str]:
        """None, as they cannot be listed."""
        return ()

    def find_fault(self, name: str) -> str | None:
        """Import the function, and say what went wrong."""
        try:
            _factory(name)
        except Exception as error:  # importing runs whatever the module says
            return (
                f"'{name}' cannot be imported ({type(error).__name__}: {error}); name a function that returns the model as "
                f"package.module:function, of a package that Python finds from here."
            )
        return None

    def build(self, name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
        """Call the function."""
        given = dict(options) | ({"pretrained": True} if pretrained else {})
        model = _factory(name)(**given)
        if not isinstance(model, nn.Module):
            raise TypeError(f"it returned a {type(model).__name__}, and a model is wanted")
        return model

    def shapes(self, model: nn.Module, name: str, size: int | None) -> list[tuple[int, ...]]:
        """Shape of one image."""
        channels, height, width = self.preprocessing(model, name).size
        return [(channels, size or height, size or width)]

    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """What the model's `default_cfg` says, as timm's models have one, or else what can be guessed.

        That is as many channels as the first convolution reads, and ImageNet's statistics for three of them; other numbers of
        channels are scaled to 0..1 and no further.
        """
        said = dict(getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {})
        size = tuple(said.get("input_size") or (_channels(model), _SIZE, _SIZE))
        mean, std = IMAGENET if size[0] == len(IMAGENET[0]) else ((0.0,) * size[0], (1.0,) * size[0])
        return Preprocessing(
            size, tuple(said.get("mean") or mean), tuple(said.get("std") or std),
            said.get("interpolation") or Preprocessing.interpolation, said.get("crop_pct") or Preprocessing.crop_pct,
        )  # fmt: skip


def _channels(model: nn.Module) -> int:
    """How many channels the images of a model have: what its first convolution reads."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return len(IMAGENET[0]) if first is None else first.in_channels


def _factory(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"it is a {type(found).__name__}, and no function")
    return found
