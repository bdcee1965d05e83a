"""Models by name: build them, with or without weights, and say what to call them with.

The only module that knows timm and torchvision. A plain name is timm's (`resnet50`, `vit_base_patch16_224.augreg_in21k`),
`torchvision/NAME` is torchvision's.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from dfpc_plugin.errors import DFPCError, UnknownModelError

__all__ = ["WeightsError", "create_model", "example_inputs", "match_models"]

_TORCHVISION = "torchvision/"
_HUB = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's own prefixes for models that are in no list
_SIZE, _DETECTION_SIZE, _FLOW_SIZE, _FRAMES = 224, 320, 128, 16


class WeightsError(DFPCError):
    """The pretrained weights of a model cannot be had."""


def create_model(name: str, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model.

    Args:
        name: A timm name, or `torchvision/NAME`.
        pretrained: Load the weights that timm or torchvision hold for it; otherwise weights are random.
        meta: Build on the meta device, where a model has shapes and no weights: fast, whatever its size.

    Raises:
        UnknownModelError: Neither library has it; the message names the nearest.
        WeightsError: `pretrained` was asked for, and there are no weights or they cannot be loaded.
    """
    if pretrained and meta:
        raise WeightsError(
            "A model on the meta device has no weights; ask for pretrained or for meta, not both."
        )
    _require_known(name)
    if meta:
        return _build_on_meta(name)
    if not pretrained:
        return _build(name, pretrained=False)
    try:
        return _build(name, pretrained=True)
    except (
        Exception
    ) as error:  # the network, the cache, the checkpoint: each library reports these in its own way
        raise WeightsError(
            f"The pretrained weights of '{name}' could not be loaded ({type(error).__name__}: {error}); check the "
            f"connection and the name's tag, or score it with random weights."
        ) from error


def example_inputs(
    model: nn.Module,
    name: str,
    *,
    batch_size: int = 1,
    size: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return inputs that `model` can be called with; for a detector, a batch of images.

    Args:
        model: The model, as built by `create_model`.
        name: The name it was built by.
        batch_size: Images, clips or pairs of images.
        size: Height and width in pixels, instead of the size the model was made for.
        device: Where to make them; where the model's parameters are if not given.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    shapes = (
        _torchvision_shapes(model, name, size)
        if name.startswith(_TORCHVISION)
        else [_timm_shape(model, size)]
    )
    made = tuple(
        torch.ones(batch_size, *shape, device=device or parameter.device, dtype=parameter.dtype)
        for shape in shapes
    )
    return made if len(made) > 1 else made[0]


def match_models(pattern: str) -> list[str]:
    """Return the names that a shell-style pattern stands for; a name without `*`, `?` or `[` stands for itself.

    Raises:
        UnknownModelError: No name matches.
    """
    if not any(sign in pattern for sign in "*?[") or pattern.startswith(_HUB):
        return [pattern]
    names = fnmatch.filter(
        _torchvision_names() if pattern.startswith(_TORCHVISION) else _timm_names(), pattern
    )
    if not names:
        raise UnknownModelError(
            f"No model's name matches '{pattern}'; torchvision's begin with '{_TORCHVISION}'."
        )
    return names


def _timm_names() -> list[str]:
    return list(timm.list_models())


def _torchvision_names() -> list[str]:
    return [_TORCHVISION + name for name in torchvision.models.list_models()]


def _require_known(name: str) -> None:
    """Raise if nothing is called `name`, with what the user may have meant."""
    if name.startswith(_HUB):
        return
    if name.startswith(_TORCHVISION):
        if name in _torchvision_names():
            return
    elif timm.is_model(name):
        _require_tag(name)
        return
    raise UnknownModelError(f"No model is called '{name}'{_suggestion(name)}")


def _require_tag(name: str) -> None:
    """Raise if timm has the architecture, but not the tag after the dot."""
    architecture, _, tag = name.partition(".")
    if not tag:
        return
    names = timm.list_models(f"{architecture}.*", pretrained=True)
    if name not in names:
        raise UnknownModelError(
            f"timm's '{architecture}' has no weights tagged '{tag}'; "
            + (f"there are: {', '.join(names)}." if names else "there are none at all.")
        )


def _suggestion(name: str) -> str:
    """End the sentence with the nearest names, whichever library they are from, or with where to look."""
    names = {known: known for known in _timm_names()}
    for known in _torchvision_names():
        names |= {
            known: known,
            known.removeprefix(_TORCHVISION): names.get(known.removeprefix(_TORCHVISION), known),
        }
    near = difflib.get_close_matches(name, names, n=6)
    near += difflib.get_close_matches(name.removeprefix(_TORCHVISION), names, n=6)
    found = list(dict.fromkeys(names[match] for match in near))[:4]
    if found:
        return f"; did you mean {', '.join(found)}?"
    return f"; timm.list_models() lists the names, and torchvision's begin with '{_TORCHVISION}'."


def _build(name: str, *, pretrained: bool) -> nn.Module:
    if not name.startswith(_TORCHVISION):
        return timm.create_model(name, pretrained=pretrained)
    short = name.removeprefix(_TORCHVISION)
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained:
        if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(short)).parameters:
            options["weights_backbone"] = None
        if short.removeprefix("quantized_") in ("googlenet", "inception_v3"):
            options["init_weights"] = True  # their default, without their warning that it may change
    return torchvision.models.get_model(short, **options)


def _build_on_meta(name: str) -> nn.Module:
    """Build without weights; some constructors compute with values, so their model is made first and emptied after."""
    try:
        with torch.device("meta"):
            return _build(name, pretrained=False)
    except RuntimeError:
        return _build(name, pretrained=False).to("meta")


def _timm_shape(model: nn.Module, size: int | None) -> tuple[int, ...]:
    """Shape of one image by the model's own configuration."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, _SIZE, _SIZE)
    return (channels, size or height, size or width)


def _torchvision_shapes(model: nn.Module, name: str, size: int | None) -> list[tuple[int, ...]]:
    """Shapes of one example by the kind of model, which is the package that its builder lives in."""
    short = name.removeprefix(_TORCHVISION)
    builder = torchvision.models.get_model_builder(short)
    kind = builder.__module__.removeprefix("torchvision.models.").split(".")[0]
    if kind == "optical_flow":
        return [(3, size or _FLOW_SIZE, size or _FLOW_SIZE)] * 2
    if kind == "detection":
        return [(3, size or _DETECTION_SIZE, size or _DETECTION_SIZE)]
    side = size or getattr(model, "image_size", None) or _evaluation_size(builder)
    return [(3, _FRAMES, side, side) if kind == "video" else (3, side, side)]


def _evaluation_size(builder: Callable[..., nn.Module]) -> int:
    """Side that torchvision crops images to for the model's default weights; needs no download."""
    weights = getattr(torchvision.models.get_model_weights(builder), "DEFAULT", None)
    crop = getattr(weights.transforms(), "crop_size", None) if weights is not None else None
    return int(crop[0]) if crop else _SIZE
