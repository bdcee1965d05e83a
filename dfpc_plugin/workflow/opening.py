"""Open what a recipe or a command names: models by name or from an artifact, and images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.artifact import load_pruned, read_manifest
from dfpc_plugin.data import ImageDataset, calibration_images, evaluation_transform, open_images, training_transform
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.files import is_directory, is_file
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs, as_call, fresh
from dfpc_plugin.models import (
    MismatchError,
    ModelSpec,
    Preprocessing,
    WeightsError,
    build_fitted,
    build_model,
    example_inputs,
    preprocessing_of,
    read_checkpoint,
)
from dfpc_plugin.plain_data import PlainDataError, checked
from dfpc_plugin.preserve import evaluating, watched
from dfpc_plugin.record import RunRecord
from dfpc_plugin.workflow.sections import DataSection, ModelSection, RecipeError
from dfpc_plugin.wrappers import HoldsModel

_CALIBRATION = 256
_LARGEST_RECORDED = 2048  # pixels that a file decides on: memory grows with their square


@dataclass(frozen=True)
class Opened(HoldsModel):
    """A model with what is known of it.

    Attributes:
        model: The model in evaluation mode.
        spec: How it, or what it was before it was pruned, is built.
        inputs: Example inputs.
        preprocessing: How images become its inputs.
        record: What the artifact says of how it came about; empty for a model by name.
        notes: What was inferred from a checkpoint, in sentences.
        trained: Its weights are not the random ones that a model by name begins with.
    """

    model: nn.Module
    spec: ModelSpec
    inputs: ExampleInputs
    preprocessing: Preprocessing
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    trained: bool = True


is_artifact, is_checkpoint = is_directory, is_file
"""Whether a model's name is that of a directory, and so of a saved model, or that of a file, and so of a checkpoint."""


def device_of(name: str) -> torch.device:
    """Return the device of that name, `auto` being a GPU if there is one; raise a RecipeError if it is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # the meta device makes tensors too, and has no values
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise RecipeError(
            f"device='{name}' is not here ({str(error).splitlines()[0]}); give cpu, cuda, or auto."
        ) from error
    return device


def open_model(section: ModelSection, device: torch.device, seed: int = 0, factory: str | None = None) -> Opened:
    """Build a model, with the weights of a checkpoint if there is one, or load an artifact.

    `seed` is for random weights; `factory` names the function that builds an artifact's model, if that is the user's own.

    Raises:
        RecipeError: Options that an artifact does not take.
        DFPCError: As `build_model`, `build_fitted` and `load_pruned` raise.
    """
    if is_artifact(section.name):
        return _open_artifact(section, device, factory or section.factory)
    with generators_kept():
        torch.manual_seed(seed)
        if section.weights is not None or is_checkpoint(section.name):
            return _open_checkpoint(section, device)
        spec = ModelSpec(section.name, section.options)
        model = build_model(spec, pretrained=section.pretrained)
    opened = _opened(model, spec, section, device, {})
    return dataclasses.replace(opened, trained=section.pretrained or spec.own_code)


def _open_checkpoint(section: ModelSection, device: torch.device) -> Opened:
    """Build the model of a checkpoint, which is its weights or has its name, too."""
    named = is_checkpoint(section.name)
    if named and (section.pretrained or section.weights is not None):
        raise RecipeError(f"'{section.name}' is a checkpoint, which has its weights; give none beside it.")
    checkpoint = read_checkpoint(section.name if section.weights is None else section.weights)
    if named and not checkpoint.architectures:
        raise RecipeError(
            f"The checkpoint '{section.name}' does not name its architecture; give that as the model, such as resnet50 or "
            f"torchvision/resnet50, and --model.weights {section.name}."
        )
    name = None if named else section.name
    try:
        found = build_fitted(name, section.options, checkpoint, ignore_surplus=section.ignore_surplus)
    except MismatchError as error:
        raise _by_options(error) from error
    notes, side = found.notes, checkpoint.side
    usual = preprocessing_of(found.model, found.spec.name).size[-1]
    if section.size is None and side not in (None, usual):
        section = dataclasses.replace(section, size=side)
        notes = (
            *notes,
            f"Images have {side} x {side} pixels, as the checkpoint says; {setting('size', usual)} takes others.",
        )
    return _opened(found.model, found.spec, section, device, {}, notes)


def _by_options(error: MismatchError) -> DFPCError:
    """The same error, with the options of the command line that help."""
    if error.options:
        values = " ".join(f"--model.options.{name} {value}" for name, value in error.options.items())
        return WeightsError(
            f"The checkpoint '{error.path}' does not match the model: {error.match.problem}. Give {values}."
        )
    if error.match.complete:
        return WeightsError(
            f"The checkpoint '{error.path}' does not match the model: {error.match.problem}. Add --model.ignore_surplus to leave "
            f"out what the model does not have."
        )
    return error


def _open_artifact(section: ModelSection, device: torch.device, factory: str | None) -> Opened:
    if section.pretrained or section.weights is not None or section.options or section.ignore_surplus:
        raise RecipeError(f"'{section.name}' is a saved model, which has its weights and options; give none beside it.")
    manifest = read_manifest(section.name)
    spec = manifest.spec
    if spec.own_code and factory is None:
        raise RecipeError(
            f"The model in '{section.name}' is built by a function of your own, and no file decides which code is run; if you "
            f"trust it, say so by --factory {spec.name}."
        )
    build = None if factory is None else ModelSpec(factory, spec.options)
    model = load_pruned(section.name, factory=None if build is None else lambda: build_model(build))
    record = manifest.record or {}
    if section.size is None:
        side = None if manifest.inputs is None else manifest.inputs.side
        section = dataclasses.replace(section, size=_recorded_size(record, section.name) or side)
    guessed = (
        f"'{section.name}' does not say how images become inputs, so mean and standard deviation are guessed; accuracy is wrong if "
        f"they differ: give {setting('mean')} and {setting('std')}."
    )
    notes = () if "preprocessing" in record else (guessed,)
    return _opened(model, spec, section, device, record, notes)


def _opened(
    model: nn.Module,
    spec: ModelSpec,
    section: ModelSection,
    device: torch.device,
    record: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> Opened:
    model = model.to(device).eval()
    inputs = _inputs(model, spec.name, section.batch_size, section.size)
    _require_callable(model, section.name, inputs)
    known = record.get("preprocessing")
    preprocessing = (
        preprocessing_of(model, spec.name, section.size) if known is None else _read_preprocessing(known, section)
    )
    return Opened(model, spec, inputs, preprocessing, record, notes)


def _recorded_size(record: Mapping[str, Any], name: str) -> int | None:
    """The size of images that a saved model was made with, if its record says one."""
    size = RunRecord.from_json(record).model.get("size")
    if size is None or (type(size) is int and 1 <= size <= _LARGEST_RECORDED):
        return size
    raise RecipeError(
        f"'{name}' has the size {str(size)[:40]} in its record, which is no number of pixels from 1 to {_LARGEST_RECORDED}; give the "
        f"size of its images."
    )


def _inputs(model: nn.Module, name: str, batch_size: int, size: int | None) -> ExampleInputs:
    """Example inputs."""
    try:
        return example_inputs(model, name, batch_size=batch_size, size=size)
    except (RuntimeError, OverflowError, TypeError) as error:
        # torch raises each of these for sizes that are too large
        at = "" if size is None else f" of size={size}"
        raise RecipeError(
            f"There is no memory for batch_size={batch_size} example inputs{at} ({str(error).splitlines()[0]}); give fewer or "
            f"smaller ones."
        ) from error


def _require_callable(model: nn.Module, name: str, inputs: ExampleInputs) -> None:
    """Raise unless a model takes its example inputs."""
    args, kwargs = as_call(fresh(inputs))
    try:
        with evaluating(model), torch.no_grad(), watched():
            model(*args, **kwargs)
    except Exception as error:  # a model's forward is anybody's code
        shapes = " and ".join("x".join(map(str, tensor.shape)) for tensor in args)
        first = next(iter(str(error).splitlines()), "")
        raise RecipeError(
            f"'{name}' cannot be called with inputs of {shapes} ({type(error).__name__}: {first}); give the size of its images."
        ) from error


def _read_preprocessing(content: Any, section: ModelSection) -> Preprocessing:
    """What a record says of images."""
    try:
        found = checked(Preprocessing, content, "preprocessing")
    except PlainDataError as error:
        raise RecipeError(
            f"'{section.name}' does not say how images become inputs ({error}); save it again."
        ) from error
    if section.size is None:
        return found
    return dataclasses.replace(found, size=(found.size[0], section.size, section.size))


def prepared(preprocessing: Preprocessing, data: DataSection) -> Preprocessing:
    """What the model needs, with what the data section says instead; raise a RecipeError if that has not its channels."""
    given = {name: getattr(data, name) for name in ("mean", "std") if getattr(data, name) is not None}
    for name, values in given.items():
        if len(values) not in (1, preprocessing.size[0]):
            raise RecipeError(
                f"data.{name} has {len(values)} values for {preprocessing.size[0]} channels; give one for each."
            )
    return dataclasses.replace(preprocessing, **given)


def images_to_validate(data: DataSection, preprocessing: Preprocessing) -> ImageDataset | None:
    """Open the images that accuracy is measured on; None if there are none."""
    if data.val is None:
        return None
    transform = evaluation_transform(prepared(preprocessing, data))
    return open_images(data.val, data.val_split, transform, limit=data.limit, **_place(data, data.val))


def images_to_train(data: DataSection, preprocessing: Preprocessing, *, varied: bool = True) -> ImageDataset:
    """Open the images to train on, varied as the section says; or as they are, to calibrate with, whatever their labels."""
    if data.train is None:
        raise RecipeError("Images to train or to calibrate with are needed; say where they are in data.train.")
    ready = prepared(preprocessing, data)
    transform = training_transform(ready, data.augment) if varied else evaluation_transform(ready)
    split = data.train_split or ("train" if varied else None)
    return open_images(data.train, split, transform, labelled=varied, **_place(data, data.train))


def images_to_calibrate(data: DataSection, preprocessing: Preprocessing, count: int | None, seed: int) -> Tensor:
    """Draw some of the training images, without their labels and not varied, `(count, C, H, W)`."""
    dataset = images_to_train(data, preprocessing, varied=False)
    return calibration_images(dataset, min(count or _CALIBRATION, len(dataset)), seed)


def _place(data: DataSection, source: str) -> dict[str, Any]:
    """Where torchvision's data sets are; other sources are their own places."""
    return {"root": data.root, "download": data.download} if source.startswith("torchvision/") else {}
