"""Directories are written whole or not at all, and what is wrong with one is said in one sentence."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from artifact_nets import IMAGE, Odd, Tied, convolutional, failing, number
from artifact_tools import TESTS, assert_same_model
from test_artifact_structure import cut_some
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.artifact import (
    ArtifactError,
    UnsavableModelError,
    directory,
    load,
    load_pruned,
    manifest,
    read_manifest,
    save,
)
from dfpc_plugin.artifact import save_pruned as save_any
from dfpc_plugin.errors import UnknownModelError
from dfpc_plugin.models import ModelSpec, build_model, example_inputs
from dfpc_plugin.plain_data import checksum

OWN = "artifact_nets:convolutional"
FILES = {"manifest.json", "model.safetensors", "config.json"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return cut_some(convolutional().eval(), IMAGE)


def save_pruned(network, path, **options):
    return save_any(network, path, **{"example_inputs": IMAGE, "model": OWN, **options})


def names(path):
    return sorted(file.name for file in path.iterdir())


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def message_of(call, kind=ArtifactError):
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_of_ones_own_comes_back(model, tmp_path):
    before = copy.deepcopy(model)
    path = save_pruned(model.train(), tmp_path / "small", record={"asked": "macs=0.5"})
    assert path == tmp_path / "small" and set(contents(path)) == FILES and names(tmp_path) == ["small"]
    (tmp_path / "any").mkdir()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    assert_same_model(before, model)
    assert model.training
    loaded = load_pruned(path, factory=convolutional)
    assert not any(module.training for module in loaded.modules())
    assert_same_model(model, loaded)
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGE), loaded(IMAGE))
    found = read_manifest(path)
    assert found.spec == ModelSpec(OWN) and found.record == {"asked": "macs=0.5"}
    assert found.versions["torch"] == torch.__version__.partition("+")[0] or "torch" in found.versions
    assert found.inputs.make().shape == IMAGE.shape


def test_loading_runs_no_code_that_a_file_names(model, tmp_path):
    path = save_pruned(
        cut_some(convolutional(classes=7).eval(), IMAGE), tmp_path / "a", model=ModelSpec(OWN, {"classes": 7})
    )
    text = message_of(lambda: load_pruned(path))
    assert (
        f"from artifact_nets import convolutional; load_pruned('{path}', factory=lambda: convolutional(classes=7))"
        in text
    )
    assert load_pruned(path, factory=lambda: convolutional(7))[-1].out_features == 7


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (failing, "the unpruned model cannot be built: 'nothing to build from'"),
        (number, "the factory returned a int"),
        (lambda: convolutional(5), "'7.weight' was (4, 8) and is (5, 8) (by the same versions of all libraries)"),
        (Odd, "built otherwise now than when it was saved: '0.weight' is there no longer"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(factory, text, model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    found = message_of(lambda: load_pruned(path, factory=factory))
    assert text in found and str(path) in found


def test_the_model_of_a_factory_stays_as_it_is(model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    mine = convolutional().train()
    mine[0].weight.grad = torch.ones_like(mine[0].weight)
    before, own = copy.deepcopy(mine), dict(mine.named_parameters())
    loaded = load_pruned(path, factory=lambda: mine)
    assert_same_model(loaded, model)
    assert_same_model(mine, before)
    assert mine.training and mine[0].weight.grad is not None
    assert all(parameter is own[name] for name, parameter in mine.named_parameters())
    assert not {id(tensor) for tensor in loaded.parameters()} & {id(tensor) for tensor in mine.parameters()}


def test_saving_leaves_the_model_of_a_factory_as_it_is(model, tmp_path, monkeypatch):
    mine = convolutional()
    before = copy.deepcopy(mine)
    monkeypatch.setattr("artifact_nets.convolutional", lambda: mine)
    save_pruned(model, tmp_path / "a", model=OWN)
    assert_same_model(mine, before)


@pytest.mark.parametrize("given", [convolutional(), "artifact_nets:convolutional"], ids=["model", "name"])
def test_a_factory_that_is_no_function_is_answered_with_one(given, model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    assert message_of(lambda: load_pruned(path, factory=given)) == (
        f"factory must be a function that returns the unpruned model, not a {type(given).__name__}; pass the function itself, "
        f"or factory=lambda: model."
    )


def test_versions_are_named_where_the_library_builds_another_model(model, tmp_path, monkeypatch):
    path = save_pruned(model, tmp_path / "a")
    monkeypatch.setattr(load, "installed_versions", lambda: {"torch": "0.1"})
    assert " then and 0.1 now" in message_of(lambda: load_pruned(path, factory=lambda: convolutional(5)))


def test_a_model_of_timm_knows_how_it_was_built(tmp_path):
    model = build_model("test_resnet").eval()
    result = dfpc.prune(model, example_inputs(model, "test_resnet"), "ratio=0.3")
    path = save_any(result, tmp_path / "a")
    found = read_manifest(path)
    assert found.spec.name.startswith("test_resnet") and found.record == json.loads(json.dumps(result.to_json()))
    assert found.inputs.make().shape == (1, 3, 160, 160)
    config = json.loads((path / "config.json").read_text())
    assert (
        config["architecture"] == "test_resnet" and config["num_classes"] == 1000 and config["pretrained_cfg"]["mean"]
    )
    assert_same_model(result.model, load_pruned(path))


def test_half_precision_and_another_head_come_back(tmp_path):
    model = build_model("test_vit").bfloat16()
    model.reset_classifier(5)
    loaded = load_pruned(save_any(model, tmp_path / "a"))
    assert loaded.head.weight.shape[0] == 5 and loaded.pos_embed.dtype == torch.bfloat16
    assert_same_model(model, loaded)


def test_who_cannot_be_asked_is_named(tmp_path):
    text = message_of(lambda: save_any(torchvision.models.resnet18(), tmp_path / "a"), UnsavableModelError)
    assert "How this ResNet is built is not known" in text and 'model="torchvision/resnet50"' in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torchvision/resnet34", "where a freshly built one has BasicBlock"),
        ("torchvision/resnet81", "No model is called 'torchvision/resnet81'; did you mean torchvision/resnet18"),
        ("no_such_package:model", "cannot be imported (ModuleNotFoundError"),
        ("artifact_nets:failing", "cannot be built with no options (KeyError"),
        (3, "A model's name is text"),
        (ModelSpec("torchvision/resnet18", {"widths": 3}), "cannot be built with widths=3"),
    ],
)
def test_another_description_is_refused_and_nothing_is_left(name, text, tmp_path):
    network = build_model("torchvision/resnet18")
    if name == 3:
        assert text in message_of(lambda: save_any(network, tmp_path / "a", model=ModelSpec(3)), dfpc.errors.DFPCError)
    else:
        assert text in message_of(lambda: save_any(network, tmp_path / "a", model=name), UnsavableModelError)
    assert names(tmp_path) == []


@pytest.mark.parametrize("record", [{"a": float("nan")}, {"a": {1, 2}}, {"a": "\ud800"}])
def test_a_record_is_json(record, model, tmp_path):
    assert "The record cannot be written as JSON" in message_of(
        lambda: save_pruned(model, tmp_path / "a", record=record)
    )
    said = message_of(lambda: save_pruned({}, tmp_path / "a"), dfpc.errors.ModelFormError)
    assert said.startswith("pruned is a dict; give a torch.nn.Module")
    assert names(tmp_path) == []


def test_inputs_are_described_as_they_are_given(model, tmp_path):
    inputs = {"x": torch.ones(2, dtype=torch.int64), "flags": [True, (torch.zeros(0, 3), 0.5)]}
    found = read_manifest(save_pruned(model, tmp_path / "a", example_inputs=inputs)).inputs.make()
    assert found["x"].dtype == torch.int64 and found["flags"][1][0].shape == (0, 3) and found["flags"][0] is True
    assert read_manifest(save_pruned(model, tmp_path / "b", example_inputs=None)).inputs is None
    assert "cannot be described" in message_of(lambda: save_pruned(model, tmp_path / "c", example_inputs=({1},)))


def test_what_does_not_come_back_is_not_left(model, tmp_path, monkeypatch):
    packed = save.packed
    monkeypatch.setattr(
        save, "packed", lambda tensors, binding: packed({k: t + (k == "0.bias") for k, t in tensors.items()}, binding)
    )
    assert "does not come back the same: '0.bias' differs" in message_of(lambda: save_pruned(model, tmp_path / "a"))
    assert names(tmp_path) == []


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure", [full, interrupted])
@pytest.mark.parametrize("name", ["write", "fsync", "mkdir", "rename"])
@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_what_was_there(failure, name, there, model, tmp_path, monkeypatch):
    path = tmp_path / "a"
    before = contents(save_pruned(convolutional(), path)) if there else None
    monkeypatch.setattr(directory, "_exchanged", lambda *args: False)
    with monkeypatch.context() as patch:
        patch.setattr(Path if name == "mkdir" else os, name, failure)  # Python 3.10's Path keeps an os.mkdir of its own
        with pytest.raises(ArtifactError if failure is full else KeyboardInterrupt) as caught:
            save_pruned(model, path, overwrite=True)
    if failure is full:
        assert str(caught.value) == f"Cannot write '{path}': No space left on device; what was there is as it was."
    assert names(tmp_path) == (["a"] if there else [])
    assert before is None or contents(path) == before


@pytest.mark.parametrize("exchange", [True, False])
def test_an_artifact_is_replaced(exchange, model, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(directory, "_exchanged", lambda *args: False)
    save_pruned(convolutional(), tmp_path / "a")
    (tmp_path / "link").symlink_to("a")
    assert "it exists; name another directory, or pass overwrite=True" in message_of(
        lambda: save_pruned(model, tmp_path / "a")
    )
    for path in (tmp_path / "a", tmp_path / "link"):
        save_pruned(model, path, overwrite=True)
        assert_same_model(model, load_pruned(path, factory=convolutional))
    assert names(tmp_path) == ["a", "link"] and (tmp_path / "link").is_symlink()


def test_more_files_are_written_and_replaced_with_the_model(model, tmp_path):
    path = save_pruned(model, tmp_path / "a", finish=lambda place: (place / "my report.html").write_text("<p>"))
    assert contents(path)["my report.html"] == b"<p>" and read_manifest(path).files["my report.html"].bytes == 3
    before = contents(path)
    for failure in (full, interrupted, lambda place: (place / "folder").mkdir()):
        with pytest.raises((ArtifactError, KeyboardInterrupt)):
            save_pruned(model, path, overwrite=True, finish=failure)
        assert contents(path) == before and names(tmp_path) == ["a"]
    (path / "other.html").touch()
    assert "it holds 'other.html'" in message_of(lambda: save_pruned(model, path, overwrite=True))
    (path / "other.html").unlink()
    assert set(contents(save_pruned(model, path, overwrite=True))) == FILES


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's rename")
def test_directories_are_exchanged_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert directory._exchanged(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == ["b"]


def test_the_second_rename_may_fail(model, tmp_path, monkeypatch):
    before = contents(save_pruned(convolutional(), tmp_path / "a"))
    monkeypatch.setattr(directory, "_exchanged", lambda *args: False)
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(target)
        full() if len(calls) == 2 else rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    message_of(lambda: save_pruned(model, tmp_path / "a", overwrite=True))
    assert len(calls) == 3 and names(tmp_path) == ["a"] and contents(tmp_path / "a") == before


KILLED = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import artifact_nets
from dfpc_plugin.artifact import save, save_pruned
write = save.write_file
save.write_file = lambda path, data: os._exit(9) if path.name == "manifest.json" else write(path, data)
save_pruned(artifact_nets.convolutional(), sys.argv[3], model="artifact_nets:convolutional", overwrite=True)
"""


def test_a_killed_process_leaves_nothing_that_looks_like_an_artifact(model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    before = contents(path)
    command = [sys.executable, "-c", KILLED, str(TESTS), str(TESTS / "artifact"), str(path)]
    assert subprocess.run(command, cwd=TESTS.parent).returncode == 9
    assert contents(path) == before
    left = [name for name in names(tmp_path) if name != "a"]
    assert len(left) == 1 and left[0].startswith(".a.") and left[0].endswith(".unfinished")
    assert "there is no such file" in message_of(lambda: read_manifest(tmp_path / left[0]))


@pytest.mark.parametrize(
    ("fill", "text"),
    [
        (lambda p: p.write_text("x"), "it is a file; name a directory"),
        (lambda p: (p.mkdir(), (p / "notes.txt").touch()), "it holds 'notes.txt', which is no part of an artifact"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text("{}")), "it is no artifact of this library"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text("{")), "it is no artifact of this library"),
        (lambda p: (p.mkdir(), (p / "config.json").touch()), "it is no artifact of this library"),
        (lambda p: (save_pruned(convolutional(), p), (p / "notes.txt").touch()), "it holds 'notes.txt'"),
    ],
)  # fmt: skip
def test_nothing_but_an_artifact_is_replaced(fill, text, model, tmp_path):
    fill(tmp_path / "a")
    before = contents(tmp_path / "a") if (tmp_path / "a").is_dir() else None
    assert text in message_of(lambda: save_pruned(model, tmp_path / "a", overwrite=True))
    assert before is None or contents(tmp_path / "a") == before


def test_an_empty_directory_and_a_damaged_artifact_are_replaced(model, tmp_path):
    (tmp_path / "a").mkdir()
    path = save_pruned(model, tmp_path / "a", overwrite=True)
    (path / "model.safetensors").unlink()
    (path / "manifest.json").write_text('{"format": "dfpc-plugin"}')
    assert_same_model(model, load_pruned(save_pruned(model, path, overwrite=True), factory=convolutional))


@pytest.mark.parametrize(
    ("name", "text"),
    [("none/a", "there is no directory"), ("a\0b", "null byte"), ("a" * 300, "too long"), ("loop", "")],
)
def test_places_where_nothing_can_be_written(name, text, model, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert text in message_of(lambda: save_pruned(model, tmp_path / name))


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_what_is_no_name(name, model):
    assert "it is no name for a directory" in message_of(lambda: save_pruned(model, name, overwrite=True))


def test_long_names_and_what_is_no_path(model, tmp_path):
    assert save_pruned(model, tmp_path / ("ä" * 120)).is_dir()
    assert "give its path, not a int" in message_of(lambda: load_pruned(5))


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_a_read_only_place(model, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "permission denied" in message_of(lambda: save_pruned(model, tmp_path / "a"))
    finally:
        tmp_path.chmod(0o700)


def rewritten(path, change):
    """Change a manifest, and make its checksum fit."""
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    content["checksum"] = checksum({key: value for key, value in content.items() if key != "checksum"})
    (path / "manifest.json").write_text(json.dumps(content))


def outside(path, name):
    (path / name).rename(path.parent / "elsewhere")
    (path / name).symlink_to("../elsewhere")


def pipe(path, name):
    (path / name).unlink()
    os.mkfifo(path / name)


def swapped(path):
    """The tensors of another artifact, with a manifest that says so."""
    other = save_pruned(convolutional(), path.parent / "other")
    (path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    files = json.loads((other / "manifest.json").read_text())["files"]
    rewritten(path, lambda content: content.update(files=files))


@pytest.mark.parametrize(
    ("change", "file", "text"),
    [
        (lambda p: (p / "manifest.json").unlink(), "manifest.json", "there is no such file; a directory that save_pruned"),
        (lambda p: (p / "model.safetensors").unlink(), "model.safetensors", "there is no such file"),
        (lambda p: outside(p, "manifest.json"), "manifest.json", "a link that leads out of its directory"),
        (lambda p: outside(p, "model.safetensors"), "model.safetensors", "a link that leads out of its directory"),
        (lambda p: pipe(p, "model.safetensors"), "model.safetensors", "it is not an ordinary file"),
        (lambda p: (p / "manifest.json").write_bytes(b"\xff{}"), "manifest.json", "it is not UTF-8 text (byte 0)"),
        (lambda p: (p / "manifest.json").write_text("[" * 100_000), "manifest.json", "it is n"),
        (lambda p: (p / "manifest.json").write_text("[" * 200 + "]" * 200), "manifest.json", "nested deeper than 100 levels"),
        (lambda p: (p / "manifest.json").write_text('{"a": 1, "a": 2}'), "manifest.json", "it has the key 'a' twice"),
        (lambda p: (p / "manifest.json").write_text('{"a": NaN}'), "manifest.json", "it has NaN, which is no JSON"),
        (lambda p: (p / "manifest.json").write_text('{"a": 1e999}'), "manifest.json", "a number that is too large"),
        (lambda p: (p / "manifest.json").write_text('{"a": 1' + "0" * 400 + "}"), "manifest.json", "a number that is too large"),
        (lambda p: (p / "manifest.json").write_text(f'{{"a": {"9" * 9999}}}'), "manifest.json", "a number that is too large"),
        (lambda p: (p / "manifest.json").write_text('{"a": "\\ud800"}'), "manifest.json", "half a character"),
        (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json", "it is no manifest of this library"),
        (lambda p: rewritten(p, lambda c: c.update(version=2)), "manifest.json", "a later version of this library (format 2"),
        (lambda p: rewritten(p, lambda c: c.update(version=True)), "manifest.json", "version must be 1, not True"),
        (lambda p: rewritten(p, lambda c: c["files"].update({"../a": c["files"].popitem()[1]})), "manifest.json", "lists the file '../a'"),
        (lambda p: rewritten(p, lambda c: c["model"].update(name="resnet81")), "model.safetensors", "of another artifact"),
        (lambda p: rewritten(p, lambda c: c["model"]["options"].update(pretrained=True)), "manifest.json", "'pretrained' is no"),
        (lambda p: rewritten(p, lambda c: c["attributes"][0].update(name="__class__")), "model.safetensors", "of another artifact"),
        (lambda p: rewritten(p, lambda c: c["attributes"][0].update(name="a.b.c")), "manifest.json", "the name of an attribute"),
        (lambda p: rewritten(p, lambda c: c["tensors"].append(c["tensors"][0])), "manifest.json", "it lists '0.weight' twice"),
        (swapped, "model.safetensors", "it is of another artifact"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_directory_is_said(change, file, text, model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    change(path)
    found = message_of(lambda: load_pruned(path, factory=convolutional))
    assert text in found and str(path / file) in found and found.endswith(".") and not found.endswith("..")


def test_directories_that_are_none(model, tmp_path, monkeypatch):
    assert "there is no directory" in message_of(lambda: load_pruned(tmp_path / "a"))
    (tmp_path / "file").touch()
    assert "is a file, where the directory" in message_of(lambda: load_pruned(tmp_path / "file"))
    assert "there is no directory" in message_of(lambda: load_pruned(tmp_path / "a\0b"))
    path = save_pruned(model, tmp_path / "a")
    monkeypatch.setattr(manifest, "LARGEST", 100)
    assert "it has more than 100 bytes" in message_of(lambda: read_manifest(path))


def test_a_name_that_is_gone_is_reported_with_the_nearest(tmp_path, monkeypatch):
    path = save_any(build_model("test_resnet"), tmp_path / "a")

    def gone(*args, **kwargs):
        raise UnknownModelError("No model is called 'test_resnet'; did you mean test_resnet2?")

    monkeypatch.setattr("dfpc_plugin.artifact.load.build_model", gone)
    text = message_of(lambda: load_pruned(path))
    assert "the unpruned model cannot be built: No model is called 'test_resnet'; did you mean test_resnet2?" in text


def states():
    keys = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), keys[1].tolist(), keys[2], torch.get_default_dtype()


def drawn() -> nn.Module:
    random.random(), np.random.rand()  # noqa: NPY002
    return convolutional()


def test_the_process_is_left_as_it_was_and_does_not_matter(model, tmp_path):
    usual = save_pruned(model, tmp_path / "usual")
    torch.set_default_dtype(torch.float64)
    try:
        before = states()
        with torch.inference_mode(), torch.device("meta"):
            path = save_pruned(model, tmp_path / "a")
            loaded = load_pruned(path, factory=drawn)
            assert_same_model(loaded, load_pruned(usual, factory=convolutional))
            assert torch.is_inference_mode_enabled()
        with pytest.raises(ArtifactError):
            load_pruned(path, factory=lambda: (drawn(), failing()))
        assert states() == before
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_model(model, loaded)
    assert loaded[0].weight.dtype == torch.float32 and not loaded[0].weight.is_inference()
    loaded(IMAGE).sum().backward()
    assert loaded[0].weight.grad is not None


def test_a_device_that_is_not_there(model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    for device in ("cuda:99", "toaster"):
        assert f"it cannot be put on the device '{device}'" in message_of(
            lambda device=device: load_pruned(path, factory=convolutional, device=device)
        )


def test_ties_are_kept_on_any_device(tmp_path):
    path = save_any(Tied(), tmp_path / "a", model="artifact_nets:Tied", example_inputs=torch.rand(2, 6))
    loaded = load_pruned(path, factory=Tied, device="meta")
    assert all(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert loaded.first.mask is loaded.second.mask and loaded.first.weight is loaded.second.weight


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_models_go_to_and_come_from_a_gpu(tmp_path):
    model = Tied().cuda()
    model.second.mask = model.first.mask
    path = save_any(model, tmp_path / "a", model="artifact_nets:Tied", example_inputs=torch.rand(2, 6))
    loaded = load_pruned(path, factory=Tied, device="cuda")
    assert loaded.first.weight.is_cuda and loaded.first.mask is loaded.second.mask
    assert_same_model(model, loaded)
    x = torch.rand(2, 6, device="cuda")
    assert torch.equal(model(x), loaded(x))
    assert not load_pruned(path, factory=Tied).first.weight.is_cuda


def test_paths_may_be_text(model, tmp_path):
    path = str(tmp_path / "a")
    assert save_pruned(model, path) == Path(path)
    assert read_manifest(path) == manifest.read_manifest(Path(path))


@pytest.mark.parametrize("name", ["test_resnet", "torchvision/resnet18", "cifar/resnet20"])
def test_a_repaired_model_of_build_model_is_saved_without_being_told_how_it_is_built(name, tmp_path):
    image = torch.zeros(1, 3, 32, 32)
    model = dfpc.build_model(name, num_classes=7)
    repaired = dfpc.repair(dfpc.prune(model, image, "macs=0.9"), model, image)
    assert repaired.method == "merge", "the default without images"
    dfpc.save_pruned(repaired, tmp_path / "a")
    manifest = dfpc.read_manifest(tmp_path / "a")
    assert manifest.spec.name.startswith(name) and manifest.record["repair"]["method"] == "merge"
    assert_same_model(repaired.model, dfpc.load_pruned(tmp_path / "a"))
    dfpc.save_pruned(dfpc.load_pruned(tmp_path / "a"), tmp_path / "again")
