"""timm's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import timm.models
from timm.data.config import resolve_model_data_config
from torch import nn

from dfpc_plugin.models.library import Library, Preprocessing, configuration_of, spread
from dfpc_plugin.models.spec import HUB, ModelSpec

_SIZE = 224


class TimmLibrary(Library):
    """timm."""

    def names(self) -> Sequence[str]:
        """Names of architectures, without tags."""
        return list(timm.list_models())

    def find_fault(self, name: str) -> str | None:
        """See `Library.find_fault`; also checks the tag after the dot."""
        if name.startswith(HUB):
            return None
        if not timm.is_model(name):
            return ""
        architecture, _, tag = name.partition(".")
        names = timm.list_models(f"{architecture}.*", pretrained=True) if tag else []
        if not tag or name in names:
            return None
        found = f"there are: {', '.join(names)}." if names else "there are none at all."
        return f"timm's '{architecture}' has no weights tagged '{tag}'; {found}"

    def build(self, name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
        """Build a model by timm."""
        return timm.create_model(name, pretrained=pretrained, **options)

    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """The preprocessing by which timm evaluates the model's weights."""
        size, own = _input_size(model), configuration_of(model)
        given = {name: spread(own[name], size[0]) for name in ("mean", "std") if own.get(name)}  # or timm warns
        config = resolve_model_data_config(model, given)
        mean, std = (spread(config[name], size[0]) for name in ("mean", "std"))
        return Preprocessing(size, mean, std, config["interpolation"], config["crop_pct"])


def _input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width that the model was built for; with older versions of timm, those of its weights."""
    config = configuration_of(model)
    if config and hasattr(timm.models, "get_model_input_config"):
        config = config | timm.models.get_model_input_config(model)
    channels, height, width = config.get("input_size") or (3, _SIZE, _SIZE)
    return channels, height, width


def spec_of(model: nn.Module) -> ModelSpec | None:
    """Return how timm built `model`, even if pruned since; None for models that are not timm's."""
    config = configuration_of(model)
    name = config.get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        return None
    tagged = f"{name}.{config['tag']}" if config.get("tag") else name
    name = tagged if TimmLibrary().find_fault(tagged) is None else name
    if hasattr(timm.models, "get_model_args"):
        return ModelSpec(name, timm.models.get_model_args(model))
    classes, usual = getattr(model, "num_classes", None), config.get("num_classes")
    return ModelSpec(name, {} if classes in (None, usual) else {"num_classes": classes})
