"""Load a pruned model."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact.building import BuildLimit, Factory, built, unpruned
from dfpc_plugin.artifact.manifest import MANIFEST, WEIGHTS, Manifest, read_manifest
from dfpc_plugin.artifact.reading import ArtifactError, reported
from dfpc_plugin.artifact.restructure import restructure
from dfpc_plugin.artifact.structure import difference_of, fingerprint_of
from dfpc_plugin.artifact.weights_file import read_weights, require_weights
from dfpc_plugin.versions import installed_versions

__all__ = ["load_model", "load_pruned", "restored"]


def load_pruned(
    directory: str | Path, *, factory: Factory | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load a model that `save_pruned` has written: needs no data, no network and no tracing, and runs no code of the file's.

    The unpruned model is built by the library that has it, and is then given the saved shapes, tensors and attributes.

    Args:
        directory: What `save_pruned` has written.
        factory: Builds the unpruned model, with any weights; needed, and only then, if it was built by a function of your
            own. It has to build a new model, as its parameters are replaced.
        device: Where to put the model.

    Returns:
        The model, in evaluation mode.

    Raises:
        ArtifactError: A file is missing, damaged or not of such an artifact, or the libraries that are installed now build
            another model than those it was saved with.
    """
    manifest = read_manifest(directory)
    path = Path(directory)
    missing = sorted(name for name in manifest.files if name != WEIGHTS and not (path / name).exists())
    if missing:
        warnings.warn(
            f"'{path}' lacks the file '{missing[0]}', which its manifest lists; the model does not need it, but the directory "
            f"is not whole.",
            stacklevel=2,
        )
    return load_model(path, manifest, factory=factory, device=device)


def load_model(
    path: Path, manifest: Manifest, *, factory: Factory | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load a model as `load_pruned` does, from a directory that may lack the other files of its manifest."""
    if manifest.spec.own_code and factory is None:
        raise ArtifactError(_own_code(path, manifest))
    without_values = None
    if factory is None:
        factory, without_values = unpruned(manifest.spec)
    with torch.inference_mode(False), torch.no_grad():
        # Training mode and back: models that keep what they derive from weights drop it, as when they are trained.
        return restored(path, manifest, factory, without_values, device).train().eval()


def restored(
    directory: Path,
    manifest: Manifest,
    factory: Factory,
    without_values: Factory | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Check the tensors of an artifact and rebuild its model; raise an ArtifactError as `load_pruned` does.

    `without_values` builds the model on the meta device, to compare it before anything large is allocated; None where the
    caller trusts the factory, whatever it costs.
    """
    weights = directory / WEIGHTS
    with reported(weights):
        require_weights(weights, manifest)
    with reported(directory / MANIFEST):
        limit = None
        if without_values is not None:  # what a file names, and not the user
            limit = BuildLimit(len(manifest.structure.registered), manifest.files[WEIGHTS].bytes)
            outline = built(without_values, limit)
            limit.require_memory(outline)
            _require_same_model(outline, manifest)
        fresh = built(factory, limit)
        _require_same_model(fresh, manifest)
    with reported(weights):
        tensors = _moved(read_weights(weights), manifest, device)
    with reported(directory / MANIFEST):
        return restructure(fresh, manifest.structure, tensors)


def _moved(tensors: dict[str, Tensor], manifest: Manifest, device: torch.device | str) -> dict[str, Tensor]:
    """Put parameters and buffers on a device; other tensors stay, as `nn.Module.to` leaves them too.

    They are moved before they are in the model, since `nn.Module.to` makes several of a buffer that modules share.
    """
    plain = {entry.name for entry in manifest.structure.tensors if entry.kind == "plain"}
    try:
        return {name: tensor if name in plain else tensor.to(device) for name, tensor in tensors.items()}
    except (RuntimeError, AssertionError, TypeError) as error:
        # torch has no error type of its own for a missing device
        raise ArtifactError(
            f"it cannot be put on the device '{device}': {str(error).splitlines()[0].rstrip('.')}"
        ) from error


def _require_same_model(fresh: nn.Module, manifest: Manifest) -> None:
    """Raise if a model was built otherwise when the artifact was saved."""
    if fingerprint_of(fresh) == manifest.fingerprint:
        return
    now = installed_versions()
    changed = [
        f"{name} {then} then and {now.get(name, 'not installed')} now"
        for name, then in manifest.versions.items() if now.get(name) != then
    ]  # fmt: skip
    difference = difference_of(fresh, manifest.structure) or "classes or dtypes of its modules differ"
    raise ArtifactError(
        f"the unpruned model '{manifest.spec.name}' is built otherwise now than when it was saved: {difference} "
        f"({', '.join(changed) or 'by the same versions of all libraries'}); install the versions of then, or pass a factory "
        f"that builds the model as it was"
    )


def _own_code(directory: Path, manifest: Manifest) -> str:
    """How to load a model of the user's own."""
    module, _, name = manifest.spec.name.partition(":")
    call = ", ".join(f"{key}={value!r}" for key, value in manifest.spec.options.items())
    first = name.partition(".")[0]
    return (
        f"The model in '{directory}' is built by the function {name} of {module}, and loading runs no code that a file names; "
        f"if you trust it, import it and pass it: from {module} import {first}; "
        f"load_pruned('{directory}', factory=lambda: {name}({call}))."
    )
