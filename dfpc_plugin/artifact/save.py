"""Save a pruned model."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.artifact.deep_equal import same_bits
from dfpc_plugin.artifact.directory import CONFIG, new_directory, require_place, write_file
from dfpc_plugin.artifact.load import built, restored
from dfpc_plugin.artifact.manifest import MANIFEST, WEIGHTS, Manifest
from dfpc_plugin.artifact.plain import Inputs
from dfpc_plugin.artifact.reading import ArtifactError, UnsavableModelError
from dfpc_plugin.artifact.records import Structure
from dfpc_plugin.artifact.structure import fingerprint_of, structure_of, tensors_of
from dfpc_plugin.artifact.weights_file import described, packed
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.models import ModelSpec, build_model, remembered, spec_of
from dfpc_plugin.models import example_inputs as usual_inputs
from dfpc_plugin.models.catalogue import write_hub_config
from dfpc_plugin.plain_data import parse_json
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.pruning import PruneResult
from dfpc_plugin.repairing import RepairResult
from dfpc_plugin.require import installed_versions
from dfpc_plugin.wrappers import HoldsModel, as_model


@checks_arguments
def save_pruned(
    pruned: nn.Module | HoldsModel,
    directory: str | Path,
    *,
    model: ModelSpec | str | None = None,
    example_inputs: ExampleInputs | None = None,
    record: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Save a pruned model as plain data: `model.safetensors`, `manifest.json` and a `config.json` in one directory.

    What was written is loaded and compared, bit by bit, before it gets its name; if anything fails, nothing is left of it.

    Args:
        pruned: The model, or what `prune`, `repair` or `finetune` returned; it stays as it is.
        directory: What to make; its parent has to exist.
        model: How the unpruned model is built: its name, or name and options. Models of timm and those that
            `build_model` has built know that themselves.
        example_inputs: What the model is called with, of which shapes and dtypes are noted; by default what its library
            has for it.
        record: What else to note, as JSON; by default that of the result of `prune` or `repair`.
        overwrite: Replace an artifact that is there, also one that another process writes meanwhile; other files never.
        finish: Called with the directory before it gets its name, to write a report or the like beside the model; what it
            writes is listed in the manifest.

    Returns:
        The directory.

    Raises:
        UnsavableModelError: The model is not made as `model` says, or holds something that is no plain data; says where.
        ArtifactError: It cannot be written there.
        Exception: Whatever `finish` raises; what was there is as it was then.
        ModelFormError: Something else than a model was given.
        DFPCError: As `build_model` raises, for the model's name.
    """
    target = require_place(directory, overwrite=overwrite)
    network = as_model(pruned, "pruned")
    with exclusive(network):
        spec = _spec_of(network, model)
    written = _json_of(_own_record(pruned) if record is None else record)
    with exclusive(network), torch.inference_mode(False), torch.no_grad():
        fresh = _fresh(spec)
        structure = structure_of(network, fresh)
        manifest = Manifest(
            spec, fingerprint_of(fresh), structure, {}, _inputs_of(network, spec, example_inputs), written,
            installed_versions(), datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip
        data = packed(tensors_of(network, structure), manifest.binding)
        with new_directory(target, overwrite=overwrite) as place:
            write_file(place / WEIGHTS, data)
            write_hub_config(network, spec, place / CONFIG)
            if finish is not None:
                finish(place)
            files = {path.name: described(path) for path in sorted(place.iterdir())}
            text = dataclasses.replace(manifest, files=files).to_text().encode()
            _verify(network, place, Manifest.from_json(parse_json(text)))
            write_file(place / MANIFEST, text)  # last, as a directory without one is no artifact
    return Path(directory)


def _own_record(result: nn.Module | HoldsModel) -> dict[str, Any] | None:
    if isinstance(result, PruneResult):
        return result.to_json()
    return {"repair": result.to_json()} if isinstance(result, RepairResult) else None


def _spec_of(network: nn.Module, model: ModelSpec | str | None) -> ModelSpec:
    found = ModelSpec(model) if isinstance(model, str) else model or spec_of(network) or remembered(network)
    if found is not None and not isinstance(found, ModelSpec):
        name = getattr(found, "__name__", type(found).__name__)
        raise UnsavableModelError(
            f"model is {name}, which a file cannot hold; give the path of what builds the model as text, such as "
            f'model="{getattr(found, "__module__", "package.module")}:{name}".'
        )
    if found is None:
        raise UnsavableModelError(
            f"How this {type(network).__name__} is built is not known, as it is neither timm's nor of build_model; name it: "
            f'model="torchvision/resnet50", say, or model="package.module:factory" for a function of your own that builds it.'
        )
    return ModelSpec.from_json(found.to_json())


def _fresh(spec: ModelSpec) -> nn.Module:
    try:
        return built(lambda: build_model(spec))
    except ArtifactError as error:
        raise UnsavableModelError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error.__cause__


def _inputs_of(network: nn.Module, spec: ModelSpec, example_inputs: ExampleInputs | None) -> Inputs | None:
    """What the model is called with; unknown for models of the user's own."""
    if example_inputs is None and spec.own_code:
        return None
    return Inputs.of(
        usual_inputs(network, spec.name, device="meta") if example_inputs is None else as_inputs(example_inputs)
    )


def _json_of(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The record as it will be read again."""
    if record is None:
        return None
    try:
        return parse_json(json.dumps(dict(record), allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsavableModelError(f"The record cannot be written as JSON: {error}.") from None


def _verify(network: nn.Module, place: Path, manifest: Manifest) -> None:
    loaded = restored(place, manifest, lambda: build_model(manifest.spec))
    found = structure_of(network, loaded)
    if found.attributes:
        attribute = found.attributes[0]
        raise _differs(f"'{attribute.name}' of '{attribute.module}'")
    again = structure_of(loaded, loaded)
    if _bare(again) != _bare(found):
        raise _differs("its list of tensors")
    mine, other = (tensors_of(each, _bare(found)) for each in (network, loaded))
    for name, tensor in mine.items():
        if not same_bits(tensor, other[name]):
            raise _differs(f"'{name}'")


def _bare(structure: Structure) -> Structure:
    """Without attributes and their tensors."""
    return Structure(tuple(entry for entry in structure.tensors if entry.kind != "plain"), structure.absent)


def _differs(what: str) -> UnsavableModelError:
    return UnsavableModelError(
        f"The model was written and does not come back the same: {what} differs. It may share tensors in a way that is not "
        f"seen, or build itself at random; nothing was saved."
    )
