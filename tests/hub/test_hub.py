"""Repositories of the hub, played by a directory: what is uploaded loads again, and its card has the record's figures."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from types import SimpleNamespace
from unittest import mock

import huggingface_hub
import pytest
import torch
import yaml

import dfpc_plugin as dfpc
from dfpc_plugin.artifact import ArtifactError, read_manifest, save_pruned
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.hub import HubError, from_pretrained, model_card, push_to_hub
from page_records import small_record

NAME = "cifar/resnet20"
IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    model = dfpc.build_model(NAME)
    return dfpc.prune(model, IMAGE, "macs=0.6", importance=dfpc.DFPCImportance())


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    def report(directory):
        (directory / "report.html").write_text("<html></html>")

    place = tmp_path_factory.mktemp("saved") / "small"
    record = small_record() | {"exports": [{"path": "m.onnx", "kind": "ONNX", "bytes": 10, "max_difference": 0.0}]}
    return save_pruned(result, place, model=NAME, record=record, finish=report)


def test_the_card_has_the_notes_of_the_repair(saved):
    card = model_card(read_manifest(saved), "user/small")
    assert "- Channels are kept in multiples of 8" in card
    assert "- Images match the statistics of BatchNorm to within 3%." in card


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that keeps repositories in a directory, and hands them out as links into a cache, as the real client does."""
    repositories, tokens = tmp_path / "hub", []

    def upload_folder(api, *, repo_id, folder_path, **options):
        assert (repositories / repo_id).is_dir(), "the repository has to be made first"
        shutil.copytree(folder_path, repositories / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1", pr_url=None)

    def create_repo(api, repo_id, *, private=None, exist_ok=False):
        (repositories / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def snapshot_download(repo_id, *, allow_patterns, **options):
        if not (repositories / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"Cannot find '{repo_id}'.\nMore.")
        snapshot = tmp_path / "cache" / "snapshot"
        snapshot.mkdir(parents=True)
        for file in (repositories / repo_id).iterdir():
            if file.name in allow_patterns:
                (snapshot / file.name).symlink_to(file)
        return str(snapshot)

    def made(token=None):
        tokens.append(token)
        return real(token=token)

    real = huggingface_hub.HfApi
    # The real methods' signatures: what they do not take is an error here as well.
    for name, fake in (("create_repo", create_repo), ("upload_folder", upload_folder)):
        monkeypatch.setattr(real, name, mock.create_autospec(getattr(real, name), side_effect=fake))
    checked = mock.create_autospec(huggingface_hub.snapshot_download, side_effect=snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", checked)
    monkeypatch.setattr(huggingface_hub, "HfApi", made)
    return SimpleNamespace(root=repositories, tokens=tokens, api=real)


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_saved_model_goes_to_the_hub_and_comes_back(saved, result, hub):
    before = sorted(path.name for path in saved.iterdir())
    assert push_to_hub(saved, "me/small", token="secret") == "https://hub/me/small/commit/1"
    assert hub.tokens == ["secret"]
    assert {path.name for path in (hub.root / "me/small").iterdir()} == {*before, "README.md"}
    assert sorted(path.name for path in saved.iterdir()) == before, "the card is the repository's, not the directory's"
    assert same(from_pretrained("me/small"), result.model)


def test_only_what_the_manifest_lists_is_uploaded(saved, hub, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "passwords.txt").write_text("secret")
    push_to_hub(tmp_path / "copy", "me/small")
    assert not (hub.root / "me/small/passwords.txt").exists()


def test_a_result_is_saved_on_the_way(result, hub):
    push_to_hub(result, "me/small", model=NAME, private=True, license="mit", base_model="me/large")
    assert hub.api.create_repo.call_args.kwargs == {"private": True, "exist_ok": True}
    assert same(from_pretrained("me/small"), result.model)
    front, text = (hub.root / "me/small/README.md").read_text().split("---\n")[1:]
    assert yaml.safe_load(front)["license"] == "mit" and yaml.safe_load(front)["base_model"] == "me/large"
    assert f"| MACs | {result.before.macs:,} |".replace(",", " ") in text


def test_a_directory_is_loaded_without_the_hub(saved, result, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert same(from_pretrained(saved), result.model)
    with pytest.raises(MissingDependencyError, match=r"'huggingface_hub'.*dfpc-plugin\[hub\]"):
        from_pretrained("me/small")
    with pytest.raises(MissingDependencyError, match=r"'huggingface_hub'.*dfpc-plugin\[hub\]"):
        push_to_hub(saved, "me/small")


def test_the_card_has_the_figures_of_the_record(saved):
    card = model_card(read_manifest(saved), "me/small_net", license="mit").replace("\N{NARROW NO-BREAK SPACE}", " ")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "dfpc-plugin" and "pruning" in front["tags"] and "base_model" not in front
    for said in (
        "# small\\_net",
        "`cifar/resnet20`, pruned to the target `macs=0.6` and repaired by `synthetic`",
        "| MACs | 125 485 706 | 75 054 000 | 59.8% |",
        "Latency was measured in PyTorch with 2 threads, both models in turns.",
        "| repaired | val.zip | 10000 | 90.87% | 99.60% |",
        "| m.onnx | ONNX |",
        'model = from_pretrained("me/small_net")',
        "- Channels are kept in multiples of 8",
    ):
        assert said in card, said


def test_what_a_record_says_cannot_break_the_card(saved):
    manifest = read_manifest(saved)
    manifest.record["evaluations"][0]["data"] = "<script>|\n# heading"
    card = model_card(manifest, "me/small")
    assert "\\<script\\>\\| \\# heading" in card and "\n# heading" not in card


def test_a_model_of_ones_own_is_loaded_with_its_function(saved):
    manifest = dataclasses.replace(read_manifest(saved), spec=dfpc.ModelSpec("shop.networks:classifier"))
    card = model_card(manifest, "me/own")
    assert 'model = from_pretrained("me/own", factory=build)  # a function of your own' in card


def test_what_the_hub_says_is_one_sentence(saved, hub):
    with pytest.raises(
        HubError, match=r"^'me/none' is no directory, and the hub has no such .*: Cannot find 'me/none'.$"
    ):
        from_pretrained("me/none")
    refused = huggingface_hub.errors.HFValidationError("Repo id must be in the form 'repo_name'")
    hub.api.create_repo.side_effect = refused
    with pytest.raises(HubError, match=r"The hub does not take 'a/b/c': Repo id must be in the form 'repo_name'\."):
        push_to_hub(saved, "a/b/c")


def test_a_hub_that_cannot_be_reached_is_the_hubs_error(saved, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(HubError, match=r"^The hub does not take 'me/small': .+\.$"):
        push_to_hub(saved, "me/small", token="hf_none")


def test_what_is_no_saved_model_is_not_uploaded(hub, tmp_path, saved):
    with pytest.raises(ArtifactError):
        push_to_hub(tmp_path / "nothing", "me/small")
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    with pytest.raises(HubError, match=r"Cannot read '.*model.safetensors': No such file"):
        push_to_hub(tmp_path / "copy", "me/small")
    assert not hub.root.exists()


def test_a_damaged_repository_is_refused(saved, hub):
    push_to_hub(saved, "me/small")
    manifest = hub.root / "me/small/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": "other"}))
    with pytest.raises(ArtifactError, match="it is no manifest of this library"):
        from_pretrained("me/small")
