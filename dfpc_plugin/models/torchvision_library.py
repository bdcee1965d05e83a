"""torchvision's models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torchvision
from torch import nn

from dfpc_plugin.models.library import IMAGENET, Library, Preprocessing

_SIZE, _DETECTION_SIZE, _FLOW_SIZE, _FRAMES = 224, 320, 128, 16


class TorchvisionLibrary(Library):
    """torchvision."""

    prefix = "torchvision/"

    def names(self) -> Sequence[str]:
        """Names, with the prefix."""
        return [self.prefix + name for name in torchvision.models.list_models()]

    def build(self, name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
        """Build a model by torchvision; nothing is fetched unless `pretrained`."""
        short = name.removeprefix(self.prefix)
        given: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
        if not pretrained:
            if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(short)).parameters:
                given["weights_backbone"] = None
            if short.removeprefix("quantized_") in ("googlenet", "inception_v3"):
                given["init_weights"] = True  # their default, without their warning that it may change
        return torchvision.models.get_model(short, **given, **options)

    def shapes(self, model: nn.Module, name: str, size: int | None) -> list[tuple[int, ...]]:
        """Shapes of one example, by the kind of model, which is the subpackage of its builder."""
        kind = self._kind(name)
        if kind == "optical_flow":
            return [(3, size or _FLOW_SIZE, size or _FLOW_SIZE)] * 2
        if kind == "detection":
            return [(3, size or _DETECTION_SIZE, size or _DETECTION_SIZE)]
        side = size or getattr(model, "image_size", None) or self._evaluated_at(name).get("crop_size") or _SIZE
        return [(3, _FRAMES, side, side) if kind == "video" else (3, side, side)]

    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """The preprocessing by which torchvision evaluates the default weights."""
        known = self._evaluated_at(name)
        side = getattr(model, "image_size", None) or known.get("crop_size") or _SIZE
        resized = known.get("resize_size") or side
        interpolation = getattr(known.get("interpolation"), "value", "bilinear")
        mean, std = known.get("mean", IMAGENET[0]), known.get("std", IMAGENET[1])
        return Preprocessing((3, side, side), tuple(mean), tuple(std), interpolation, side / resized)

    def _kind(self, name: str) -> str:
        builder = torchvision.models.get_model_builder(name.removeprefix(self.prefix))
        return builder.__module__.removeprefix("torchvision.models.").split(".")[0]

    def _evaluated_at(self, name: str) -> dict[str, Any]:
        """Settings of the default weights' transforms, sizes as one number; needs no download."""
        builder = torchvision.models.get_model_builder(name.removeprefix(self.prefix))
        weights = getattr(torchvision.models.get_model_weights(builder), "DEFAULT", None)
        known = dict(vars(weights.transforms())) if weights is not None else {}
        return known | {key: int(known[key][0]) for key in ("crop_size", "resize_size") if known.get(key)}
