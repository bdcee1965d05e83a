"""`push_to_hub` and `from_pretrained`: upload saved models to the Hugging Face hub, and load them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.artifact import load_pruned, read_manifest, save_pruned
from dfpc_plugin.artifact.directory import CONFIG
from dfpc_plugin.artifact.load import Factory, load_model
from dfpc_plugin.artifact.manifest import MANIFEST, WEIGHTS
from dfpc_plugin.errors import DFPCError, first_line, system_reason
from dfpc_plugin.files import is_directory
from dfpc_plugin.hub.card import model_card
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.models import ModelSpec
from dfpc_plugin.pruning import PruneResult
from dfpc_plugin.require import require

_CARD = "README.md"


class HubError(DFPCError):
    """A repository cannot be written or read."""


@checks_arguments
def push_to_hub(
    saved: str | Path | nn.Module | PruneResult,
    repo_id: str,
    *,
    model: ModelSpec | str | None = None,
    example_inputs: ExampleInputs | None = None,
    license: str | None = None,
    base_model: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a pruned model",
    create_pr: bool = False,
    token: str | bool | None = None,
) -> str:
    """Upload a saved model to a repository of the Hugging Face hub, which is created if needed.

    Uploads the files that the manifest lists, and a model card (README.md) with the results.

    Args:
        saved: The directory of a saved model; or a model or the result of `prune`, which is first saved by
            `save_pruned`.
        repo_id: The repository, `user/name`.
        model: How the unpruned model is built, if `saved` is not a directory; see `save_pruned`.
        example_inputs: What it is called with; see `save_pruned`.
        license: The hub's name of the license, for the card.
        base_model: The repository of the unpruned model, for the card.
        private: Whether a new repository is private; None for the hub's default.
        revision: The branch to write to.
        commit_message: The commit message.
        create_pr: Open a pull request instead of writing to the branch.
        token: Token for the hub; by default that of the user who is logged in.

    Returns:
        The address of the commit.

    Raises:
        HubError: The hub refuses, or cannot be reached.
        ArtifactError: The directory holds no saved model, or a file of it is missing or damaged.
        DFPCError: As `save_pruned` raises.
        MissingDependencyError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "huggingface_hub", "hub")
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(saved, str | Path):
            directory = Path(saved)
        else:
            directory = save_pruned(saved, Path(scratch) / "saved", model=model, example_inputs=example_inputs)
        folder = _folder(directory, Path(scratch) / "upload", repo_id, license, base_model)
        api = hub.HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            written = {"commit_message": commit_message, "revision": revision, "create_pr": create_pr}
            commit: Any = api.upload_folder(repo_id=repo_id, folder_path=folder, **written)
        except _refusals(hub) as error:
            raise HubError(
                f"The hub does not take '{repo_id}': {first_line(error) or type(error).__name__}."
            ) from error
    return str(commit.pr_url or commit.commit_url)


@checks_arguments
def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    factory: Factory | None = None,
    device: torch.device | str = "cpu",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> nn.Module:
    """Load a saved model from a repository of the Hugging Face hub, or from a directory; see `load_pruned`.

    Args:
        name: A repository, `user/name`, or the directory of a saved model.
        revision: A branch, tag or commit of the repository.
        factory: Builds the unpruned model, if that was built by a function of your own.
        device: Where to put the model.
        cache_dir: Directory for downloads; by default the hub's.
        local_files_only: Use only earlier downloads, without contacting the hub.
        token: Token for the hub; by default that of the user who is logged in.

    Returns:
        The model, in evaluation mode.

    Raises:
        HubError: The repository, or the hub, cannot be reached or read.
        ArtifactError: It holds no saved model, or a damaged one.
        MissingDependencyError: huggingface_hub is not installed.
    """
    if is_directory(name):
        return load_pruned(name, factory=factory, device=device)
    hub = require("huggingface_hub", "huggingface_hub", "hub")
    try:
        snapshot = hub.snapshot_download(
            str(name), revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token,
            allow_patterns=[MANIFEST, WEIGHTS, CONFIG],
        )  # fmt: skip
    except _refusals(hub) as error:
        raise HubError(
            f"'{name}' is no directory, and the hub has no such repository to read: {first_line(error) or type(error).__name__}."
        ) from error
    with tempfile.TemporaryDirectory() as scratch:  # the cache contains links, which saved models may not
        directory = Path(scratch) / Path(name).name
        shutil.copytree(snapshot, directory)
        # Unlike `load_pruned`, this reads only the files that were downloaded.
        return load_model(directory, read_manifest(directory), factory=factory, device=device)


def _folder(directory: Path, folder: Path, repo_id: str, license: str | None, base_model: str | None) -> Path:
    """Copy the files that the manifest lists, and write the card.

    Raises ArtifactError if there is no saved model, HubError if a file cannot be read.
    """
    manifest = read_manifest(directory)
    folder.mkdir()
    for name in (MANIFEST, *manifest.files):
        try:
            shutil.copyfile(directory / name, folder / name)
        except OSError as error:
            raise HubError(f"Cannot read '{directory / name}': {system_reason(error)}.") from error
    card = model_card(manifest, repo_id, license=license, base_model=base_model)
    (folder / _CARD).write_text(card, encoding="utf-8")
    return folder


def _refusals(hub: Any) -> tuple[type[Exception], ...]:
    """What the client raises if the hub refuses or cannot be reached; the latter are errors of its HTTP library."""
    return (*hub.errors.HfHubHTTPError.__bases__, hub.errors.HFValidationError, OSError)
