"""Build models: by name, or to match a checkpoint (its architecture, if the file names it, its classes and input channels)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfpc_plugin.advice import setting
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.models.catalogue import library_of, preprocessing_of, require_known
from dfpc_plugin.models.checkpoint import Checkpoint, WeightsError, read_checkpoint
from dfpc_plugin.models.spec import ModelOptionError, ModelSpec, remember
from dfpc_plugin.models.weights import Match, MismatchError, load_weights, match_weights
from dfpc_plugin.wrappers import HoldsModel

_IMAGE_CHANNELS = 3
_NAMED = 4
_SYNONYMS = {"num_classes": ("classes", "n_classes"), "in_chans": ("in_channels", "channels")}
"""Other names for timm's options in functions of the user's own."""
_SIDES = ("img_size", "image_size")
"""The options for the height and width of images: timm's and torchvision's."""
_MOST_TOKENS = 5
"""Most tokens in front of those of the image: a class token and four registers."""


@checks_arguments
def build_model(
    spec: ModelSpec | str,
    *,
    pretrained: bool = False,
    weights: Path | str | None = None,
    ignore_surplus: bool = False,
    meta: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a model.

    Args:
        spec: The model's name, or a `ModelSpec` with options.
        pretrained: Load the weights of timm or torchvision; otherwise weights are random. A function of your own is
            called with pretrained=True.
        weights: Load the weights of this checkpoint. The numbers of classes and input channels and the size of
            images are taken from it, unless `spec` sets them.
        ignore_surplus: Ignore tensors of the checkpoint that the model does not have.
        meta: Build on the meta device, with shapes but no weights: fast for any size.
        options: Options of the model, such as `num_classes=10`, in addition to those of `spec`.

    Raises:
        UnknownModelError: No library has it; the message names the nearest.
        ModelOptionError: It cannot be built with these options.
        WeightsError: There are no such weights, they cannot be loaded, or they do not match the model.
    """
    spec = spec if isinstance(spec, ModelSpec) else ModelSpec(spec)
    spec = replace(spec, options={**spec.options, **options})
    if weights is None:
        return remember(construct(spec, pretrained=pretrained, meta=meta), spec)
    if pretrained or meta:
        raise WeightsError(
            f"{setting('weights')}, pretrained and meta all say where weights come from; give one of them."
        )
    checkpoint = read_checkpoint(weights)
    return build_fitted(spec.name, spec.options, checkpoint, ignore_surplus=ignore_surplus).model


def construct(spec: ModelSpec, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model with random or pretrained weights; options and errors are as for `build_model`."""
    if pretrained and meta:
        raise WeightsError("A model on the meta device has no weights; ask for pretrained or for meta, not both.")
    require_known(spec.name)
    try:
        with torch.device("meta") if meta else contextlib.nullcontext():
            return library_of(spec.name).build(spec.name, spec.options, pretrained=pretrained)
    except Exception as error:  # libraries and constructors can raise anything
        if meta and isinstance(error, RuntimeError | TypeError | ValueError):
            return construct(spec).to("meta")  # the constructor computes with values
        if pretrained:
            raise WeightsError(
                f"The pretrained weights of '{spec.name}' could not be loaded ({type(error).__name__}: {error}); check the "
                f"connection and the name's tag, or use random weights or a file."
            ) from error
        if meta or not (spec.options or spec.own_code):
            raise
        raise ModelOptionError(
            f"'{spec.name}' cannot be built with {_assigned(spec.options) or 'no options'} ({type(error).__name__}: {error}); "
            f"check its options."
        ) from error


@dataclass(frozen=True)
class FittedModel(HoldsModel):
    """A model with the weights of a checkpoint.

    Attributes:
        model: The model.
        spec: How it is built.
        notes: What was inferred or ignored, in sentences.
    """

    model: nn.Module
    spec: ModelSpec
    notes: tuple[str, ...]


def build_fitted(
    name: str | None, options: Mapping[str, Any], checkpoint: Checkpoint, *, ignore_surplus: bool = False
) -> FittedModel:
    """Build a model, called `name` or as the file says, and load a checkpoint into it.

    If the weights do not fit, the numbers of classes and input channels and the size of images are inferred, unless
    they are in `options`, from shapes and from what the file states. They are used only if every tensor of the model then fits. Raises
    WeightsError if no architecture is named, or the weights do not fit; and as `build_model` does.
    """
    spec = _named(options, checkpoint) if name is None else ModelSpec(name, options)
    found = [f"the architecture {spec.name}"] if name is None else []
    model = construct(spec)
    match = match_weights(model, checkpoint)
    inferred = {} if match.complete else _inferred(spec, match, checkpoint)
    if inferred:
        spec = ModelSpec(spec.name, {**spec.options, **inferred})
        model = construct(spec)
        found.append(_assigned(inferred))
    if checkpoint.averaged:
        found.append("weights averaged over the training")
    try:
        left_out = load_weights(model, checkpoint, ignore_surplus=ignore_surplus)
    except MismatchError as error:
        raise _with_advice(error, spec, checkpoint) from None
    notes = [f"From the checkpoint '{checkpoint.path}': {', '.join(found)}."] if found else []
    kind = checkpoint.half
    if kind is not None:
        notes.append(
            f"The checkpoint's weights are {kind}; here they are {next(model.parameters()).dtype}, with the same values."
        )
    if left_out:
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        names = ", ".join(left_out[:_NAMED])
        notes.append(f"Tensors of the checkpoint that the model does not have are left out: {names}{more}.")
    return FittedModel(remember(model, spec), spec, tuple(notes))


def _named(options: Mapping[str, Any], checkpoint: Checkpoint) -> ModelSpec:
    """The first model named in a file that its weights fit, with some options; raises WeightsError if none is named."""
    for name in checkpoint.architectures:
        spec = ModelSpec(name, options)
        match = _match_on_meta(spec, checkpoint)
        if match.complete or _inferred(spec, match, checkpoint):
            return spec
    if checkpoint.architectures:
        return ModelSpec(checkpoint.architectures[0], options)  # loading it raises, and says what differs
    raise WeightsError(
        f"The checkpoint '{checkpoint.path}' does not name its architecture; give the name of the model, and the file as its "
        f"weights."
    )


def _inferred(spec: ModelSpec, match: Match, checkpoint: Checkpoint) -> dict[str, Any]:
    """Options, in addition to the given ones, that make a checkpoint fit; empty if there are none."""
    for candidate in _candidates(spec, match, checkpoint):
        own = {name: value for name, value in candidate.items() if name not in spec.options}
        if own and _fits(spec, own, checkpoint):
            return own
    return {}


def _candidates(spec: ModelSpec, match: Match, checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """Options that may make a checkpoint fit: from differing shapes, from what the file states, and from both."""
    by_shape: dict[str, Any] = {}
    outputs = {given[0] for given, own in match.differ.values() if given and given[0] != own[0]}
    for given, own in match.differ.values():
        if len(given) == len(own) > 1 and given[:1] + given[2:] == own[:1] + own[2:] and given[1] != own[1]:
            channels, rest = divmod(_IMAGE_CHANNELS * given[1], own[1])  # a layer may read several pixels at once
            by_shape |= {} if rest else {"in_chans": channels}
    if len(outputs) == 1:
        by_shape["num_classes"] = outputs.pop()
    elif match.missing and not outputs and not match.surplus:
        by_shape["num_classes"] = 0  # a backbone, without the classifier
    numbers = {name: checkpoint.options[name] for name in _SYNONYMS if name in checkpoint.options}
    sized = [{**by_shape, side: size} for size in _image_sizes(spec, match) for side in _SIDES]
    for candidate in (*(sized or [by_shape]), numbers, {**checkpoint.options, **by_shape}, dict(checkpoint.options)):
        yield candidate
        if spec.own_code:
            yield from ({_SYNONYMS[k][n]: v for k, v in candidate.items() if k in _SYNONYMS} for n in (0, 1))


def _image_sizes(spec: ModelSpec, match: Match) -> Iterator[int]:
    """Sizes of square images (pixels) that may give a position embedding as many tokens as the checkpoint's has."""
    for patches, patch in _patches(spec, match):
        if math.isqrt(patches) ** 2 == patches:
            yield math.isqrt(patches) * patch


def _patches(spec: ModelSpec, match: Match) -> Iterator[tuple[int, int]]:
    """Numbers of patches that the checkpoint's position embeddings may be for, and the side of a patch (pixels)."""
    for given, own in set(match.tokens.values()):
        size = preprocessing_of(construct(spec, meta=True), spec.name).size[-1]
        for before in range(min(_MOST_TOKENS, given - 1, own - 1) + 1):
            side = math.isqrt(own - before)
            if side**2 == own - before:
                yield given - before, size // side


def _fits(spec: ModelSpec, options: Mapping[str, Any], checkpoint: Checkpoint) -> bool:
    """Whether the weights fit the model if it is built with these options, too."""
    try:
        return _match_on_meta(ModelSpec(spec.name, {**spec.options, **options}), checkpoint).complete
    except ModelOptionError:  # the builder does not take them, or they are not plain values
        return False


def _match_on_meta(spec: ModelSpec, checkpoint: Checkpoint) -> Match:
    with generators_kept():  # some constructors draw random values even on the meta device
        return match_weights(construct(spec, meta=True), checkpoint)


def _with_advice(error: MismatchError, spec: ModelSpec, checkpoint: Checkpoint) -> MismatchError:
    """The error with advice: which given options to change, or which model the file names."""
    for candidate in _candidates(spec, error.match, checkpoint):
        changed = {name: value for name, value in candidate.items() if spec.options.get(name, value) != value}
        if changed and _fits(spec, candidate, checkpoint):
            return MismatchError(error.path, error.match, f"Build the model with {_assigned(changed)}.", changed)
    others = [name for name in checkpoint.architectures if name != spec.name]
    advice = _advice_on_size(spec, error.match)
    if checkpoint.of_artifact:
        advice = f"It belongs to the saved model '{checkpoint.path.parent}'; give that directory as the model."
    if not advice and others and not error.match.complete and spec.name not in checkpoint.architectures:
        advice = f"The file was saved from '{others[0]}'; build that model."
    return MismatchError(error.path, error.match, advice)


def _advice_on_size(spec: ModelSpec, match: Match) -> str:
    """What to do if position embeddings differ, and else at most the first and the last layer; '' if more differs."""
    rest = {name: shapes for name, shapes in match.differ.items() if "pos" not in name.rpartition(".")[2]}
    if match.missing or len(rest) == len(match.differ) or (rest and not any(replace(match, differ=rest).ends)):
        return ""
    example = "img_size in timm, image_size in torchvision"
    for patches, patch in _patches(spec, match):
        short = next(side for side in range(math.isqrt(patches), 0, -1) if patches % side == 0)
        height, width = short * patch, patches // short * patch
        example = f"such as img_size=({height}, {width}) or ({width}, {height})"
        break
    return f"Its position embeddings are for images of another size: build the model with that size, {example}."


def _assigned(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
