"""Build the model that matches a checkpoint: its architecture, if the file names it, its classes and input channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dfpc_plugin.generators import generators_kept
from dfpc_plugin.models.checkpoint import Checkpoint, WeightsError
from dfpc_plugin.models.construct import construct
from dfpc_plugin.models.spec import ModelOptionError, ModelSpec
from dfpc_plugin.models.weights import Match, MismatchError, load_weights, match_weights
from dfpc_plugin.wrappers import HoldsModel

_IMAGE_CHANNELS = 3
_SHOWN = 4
_SYNONYMS = {"num_classes": ("classes", "n_classes"), "in_chans": ("in_channels", "channels")}
"""Other names for timm's options in functions of the user's own."""


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
    """Build a model and load a checkpoint into it.

    If the weights do not fit, the numbers of classes and input channels are inferred, unless given, from shapes and
    from what the file states. They are used only if every tensor of the model then fits.

    Args:
        name: The model's name; None for the one in the file.
        options: Arguments of its builder.
        checkpoint: The content of a file.
        ignore_surplus: Ignore tensors that the model does not have.

    Raises:
        WeightsError: No architecture is named, or the weights do not fit.
        DFPCError: As `build_model` raises.
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
    if left_out:
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        names = ", ".join(left_out[:_SHOWN])
        notes.append(f"Tensors of the checkpoint that the model does not have are left out: {names}{more}.")
    return FittedModel(model, spec, tuple(notes))


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
    for candidate in (by_shape, numbers, {**checkpoint.options, **by_shape}, dict(checkpoint.options)):
        yield candidate
        if spec.own_code:
            yield from ({_SYNONYMS[k][n]: v for k, v in candidate.items() if k in _SYNONYMS} for n in (0, 1))


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
    if error.match.complete or spec.name in checkpoint.architectures or not others:
        return error
    return MismatchError(error.path, error.match, f"The file was saved from '{others[0]}'.")


def _assigned(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
