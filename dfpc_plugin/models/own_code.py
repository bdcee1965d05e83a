"""Models built by functions of the user."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.models.library import IMAGENET, Library, Preprocessing, configuration_of, spread

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SIZE = 224
_MOST_CHANNELS = 4
"""Images have at most this many channels; a layer that reads more is not the first to run, even if created first."""


class ModelInputError(DFPCError, ValueError):
    """A model of the user's own states impossible inputs."""


def is_own_code(name: str) -> bool:
    """Whether a name is of the form `package.module:factory`."""
    return _FACTORY.fullmatch(name) is not None


class OwnCode(Library):
    """Functions and classes of the user that return a model."""

    def names(self) -> Sequence[str]:
        """Empty, as they cannot be listed."""
        return ()

    def find_fault(self, name: str) -> str | None:
        """Import the function; see `Library.find_fault`."""
        try:
            _factory(name)
        except Exception as error:  # importing runs any code of the module
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
            raise TypeError(f"it returned a {type(model).__name__}, not a model")
        return model

    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """The preprocessing in the model's `default_cfg`, as for timm's models, or else a guess.

        The guess has the input channels of the first convolution, if an image can have as many. Three channels get
        ImageNet's statistics; other numbers of channels are only scaled to 0..1. Raises ModelInputError if the model
        states an impossible size.
        """
        said = configuration_of(model)
        stated, height, width = _size(said.get("input_size"), name)
        channels = _channels(model) or stated
        mean, std = IMAGENET if channels == len(IMAGENET[0]) else ((0.0,) * channels, (1.0,) * channels)
        return Preprocessing(
            (channels, height, width), spread(said.get("mean") or mean, channels), spread(said.get("std") or std, channels),
            said.get("interpolation") or Preprocessing.interpolation, said.get("crop_pct") or Preprocessing.crop_pct,
        )  # fmt: skip


def _size(said: Any, name: str) -> tuple[int, int, int]:
    """Channels, height and width of an image; raises ModelInputError if they are impossible."""
    if said is None:
        return len(IMAGENET[0]), _SIZE, _SIZE
    if (
        not isinstance(said, list | tuple)
        or len(said) != len(IMAGENET[0])
        or any(type(n) is not int or n < 1 for n in said)
    ):
        raise ModelInputError(
            f"'{name}' has default_cfg['input_size'] = {said!r}; let it be channels, height and width, as (3, 224, 224)."
        )
    return said[0], said[1], said[2]


def _channels(model: nn.Module) -> int | None:
    """The input channels of a model's first convolution, if an image can have as many."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels <= _MOST_CHANNELS else None


def _factory(name: str) -> Callable[..., Any]:
    found = pkgutil.resolve_name(name)
    if not callable(found):
        raise TypeError(f"it is a {type(found).__name__}, and no function")
    return found
