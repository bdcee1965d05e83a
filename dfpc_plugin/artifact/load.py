"""Load a pruned model: build the unpruned one, within limits and without a trace in the process, and give it the tensors."""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dfpc_plugin.artifact.manifest import MANIFEST, WEIGHTS, Manifest, read_manifest
from dfpc_plugin.artifact.reading import ArtifactError, reported
from dfpc_plugin.artifact.restructure import restructure
from dfpc_plugin.artifact.structure import difference_of, fingerprint_of
from dfpc_plugin.artifact.weights_file import read_weights, require_weights
from dfpc_plugin.errors import first_line
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.interrupts import undone
from dfpc_plugin.models import build_model
from dfpc_plugin.pruning.prunable_model import copy_of
from dfpc_plugin.require import installed_versions

_building = threading.RLock()
Factory = Callable[[], nn.Module]
"""Builds the unpruned model, or returns one that the user has."""


def built(factory: Factory, limit: BuildLimit | None = None, *, copied: bool = False) -> nn.Module:
    """Call a factory; random states, default dtype, device and gradient mode are left as they were, and do not matter.

    With `copied`, return a copy of its model, which may be one that the user has and uses.

    Raises:
        ArtifactError: It fails, returns no model, or costs more than `limit`.
    """
    with _undisturbed(), limit or contextlib.nullcontext():
        try:
            model = factory()
            if copied and isinstance(model, nn.Module):
                model = copy_of(model)
        except Exception as error:  # whatever somebody's constructor raises
            if limit is not None and limit.reached is not None:
                raise limit.reached from error
            raise ArtifactError(
                f"the unpruned model cannot be built: {str(error).rstrip('.') or type(error).__name__}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"the factory returned a {type(model).__name__}, not a model")
    return model


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what constructors read and change of the process."""
    with _building:  # torch has one default dtype for all threads
        dtype = torch.get_default_dtype()
        with undone(lambda: torch.set_default_dtype(dtype)), generators_kept():
            torch.set_default_dtype(torch.float32)
            with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
                yield


_OPERATORS_PER_TENSOR = 100
_OPERATORS = 5_000
_MEMORY_PER_BYTE = 256
_MEMORY = 2**29


class BuildLimit(TorchDispatchMode):
    """Stops the construction of a model that takes far more operators or memory than its saved tensors explain.

    Initialisers and position tables are operators, so a constructor that loops over a huge option meets the limit on their
    number; models of timm and torchvision take up to 45 for a tensor. Tensors on the meta device take no memory.

    Attributes:
        reached: What was raised; a constructor may catch it.
    """

    def __init__(self, tensors: int, size: int) -> None:
        """Allow what a model may need of which `tensors` tensors of `size` bytes in all are saved."""
        super().__init__()
        self.reached: ArtifactError | None = None
        self._operators = _OPERATORS + _OPERATORS_PER_TENSOR * tensors
        self._memory = _MEMORY + _MEMORY_PER_BYTE * size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operator, and count it and what it returns; raise an ArtifactError at a limit."""
        kwargs = kwargs or {}
        self._operators -= 1
        if func is torch.ops.aten.unbind.int:  # a loop over a tensor makes one of every row before it uses the first
            self._require(args[0].shape[args[1] if len(args) > 1 else 0] <= self._operators)
        names = [argument.name for argument in func._schema.arguments[:1]]
        on_cpu = getattr(kwargs.get("device"), "type", "cpu") != "meta"
        if names == ["size"] and on_cpu:  # it would be filled before its size is seen
            self._require(math.prod(args[0]) <= self._memory)
        result = func(*args, **kwargs)
        view = any(value.alias_info is not None for value in func._schema.returns)  # of memory that it was given
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta and not func._schema.is_mutable and not view:
                self._memory -= tensor.nbytes
        self._require(self._memory >= 0 and self._operators >= 0)
        return result

    def require_memory(self, outline: nn.Module) -> None:
        """Raise an ArtifactError if a model, which is on the meta device, takes too much memory elsewhere."""
        self._require(sum(tensor.nbytes for tensor in (*outline.parameters(), *outline.buffers())) <= self._memory)

    def _require(self, allowed: bool) -> None:
        if not allowed:
            self.reached = ArtifactError(
                "the unpruned model that it names takes far more memory or time than one needs of which so little is saved; if you "
                "trust the file, pass a factory that builds it"
            )
            raise self.reached


def load_pruned(
    directory: str | Path, *, factory: Factory | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load a model that `save_pruned` has written: needs no data, no network and no tracing, and runs no code of the file's.

    The unpruned model is built by the library that has it, and is then given the saved shapes, tensors and attributes.

    Args:
        directory: What `save_pruned` has written.
        factory: Builds the unpruned model, with any weights; needed, and only then, if it was built by a function of your
            own. The pruned model is made of a copy of what it returns, which stays as it is.
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
    if factory is not None and (isinstance(factory, nn.Module) or not callable(factory)):
        raise ArtifactError(
            f"factory must be a function that returns the unpruned model, not a {type(factory).__name__}; pass the function "
            f"itself, or factory=lambda: model."
        )
    with torch.inference_mode(False), torch.no_grad():
        # Training mode and back: models that keep what they derive from weights drop it, as when they are trained.
        return restored(path, manifest, factory, device).train().eval()


def restored(
    directory: Path, manifest: Manifest, factory: Factory | None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Check the tensors of an artifact and rebuild its model; raise an ArtifactError as `load_pruned` does.

    A `factory` is trusted, whatever it costs, and its model is copied. Without one, the model that the manifest names is built
    within limits, and on the meta device first, to compare it before anything large is allocated.
    """
    weights = directory / WEIGHTS
    with reported(weights):
        require_weights(weights, manifest)
    with reported(directory / MANIFEST):
        limit = None
        if factory is None:
            limit = BuildLimit(len(manifest.structure.registered), manifest.files[WEIGHTS].bytes)
            outline = built(lambda: build_model(manifest.spec, meta=True), limit)
            limit.require_memory(outline)
            _require_same_model(outline, manifest)
        fresh = built(factory or (lambda: build_model(manifest.spec)), limit, copied=factory is not None)
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
        raise ArtifactError(f"it cannot be put on the device '{device}': {first_line(error)}") from error


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
