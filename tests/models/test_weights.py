import argparse
import copy
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dfpc_plugin.models import WeightsError, build_model, load_weights


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randint(0, 9, tensor.shape))
    return model


def states_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def source():
    return network()


@pytest.fixture
def target():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "timm": lambda state: {"state_dict": prefixed(state, "module."), "arch": "x", "args": argparse.Namespace(lr=1)},
    "average": lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state},
    "net": lambda state: {"net": prefixed(state, "module."), "acc": 95.0},
    "compiled": lambda state: prefixed(state, "_orig_mod.module."),
    "without counters": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_however_they_are_wrapped(kind, source, target, tmp_path):
    state = WRAPPED[kind](source.state_dict())
    torch.save(state, tmp_path / "w.pth")
    if kind == "without counters":
        source[1].num_batches_tracked.zero_()
    load_weights(target, tmp_path / "w.pth")
    assert states_equal(source, target)


def test_safetensors(source, target, tmp_path):
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert states_equal(source, target)


def test_other_authors_names(tmp_path):
    source, target = build_model("cifar/resnet50"), build_model("cifar/resnet50")
    renamed = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in source.state_dict().items()
    }
    torch.save({"net": renamed}, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert states_equal(source, target)


def test_shortcuts_without_weights(tmp_path):
    source, target = build_model("cifar/resnet20"), build_model("cifar/resnet20")
    state = {name: t for name, t in source.state_dict().items() if "shortcut" not in name}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert states_equal(source, target)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_file_is_run(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": target.state_dict(), "evil": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"such as \w+\.mkdir, and cannot be read as tensors alone"):
        load_weights(target, tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_whole_model_in_a_file_is_answered_with_its_state_dict(wrapped, source, target, tmp_path):
    torch.save({"model": source, "epoch": 3} if wrapped else source, tmp_path / "whole.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(target, tmp_path / "whole.pt")
    assert str(caught.value) == (
        f"'{tmp_path / 'whole.pt'}' holds Python objects, such as torch.nn.modules.container.Sequential, and cannot be read as "
        f"tensors alone; load it where you trust it, and save the weights of the model in it: "
        f"torch.save(model.state_dict(), 'weights.pt')."
    )


@pytest.mark.filterwarnings("ignore")  # of torch, about TorchScript
def test_torchscript_is_answered_with_the_state_dict(source, target, tmp_path):
    torch.jit.script(source).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match=r"is a TorchScript program, .*; save the state_dict of the model"):
        load_weights(target, tmp_path / "script.pt")


@pytest.mark.parametrize("content", [b"not weights", b"\x80\x02v.", b"PK\x03\x04 cut"])
def test_damage_is_said_without_what_torch_advises(content, target, tmp_path):
    (tmp_path / "noise.pth").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_weights(target, tmp_path / "noise.pth")
    assert "is damaged, or no checkpoint of PyTorch (" in str(caught.value)
    assert "\x1b" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "kind"), [("a.pth", b"", "is empty"), ("a.onnx", b"ir", "is an ONNX file")]
)
def test_files_that_hold_no_weights_are_named(name, content, kind, target, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{kind}.*; give a file that torch.save or safetensors has written"):
        load_weights(target, tmp_path / name)
    with pytest.raises(WeightsError, match="is a directory; give the file with the weights in it"):
        load_weights(target, tmp_path)


def test_a_classifier_that_became_a_sequence_needs_a_function(tmp_path):
    model = build_model("torchvision/resnet18", num_classes=7)
    state = {name.replace("fc.", "fc.1."): tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "tuned.pth")
    with pytest.raises(WeightsError, match=r"Its 'fc' is a sequence of layers.* as package\.module:function"):
        load_weights(model, tmp_path / "tuned.pth")


def faulty(tmp_path, source):
    state = source.state_dict()
    torch.save({**state, "extra": torch.ones(1)}, tmp_path / "surplus.pth")
    torch.save({k: v for k, v in state.items() if not k.startswith("3.")}, tmp_path / "missing.pth")
    torch.save({**state, "3.weight": torch.ones(5, 4)}, tmp_path / "shape.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    save_file(state, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    (tmp_path / "noise.pth").write_bytes(b"not weights")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "surplus.pth",
            "does not match the model: the model has no extra. Pass ignore_surplus=True to leave them out.",
        ),
        (
            "missing.pth",
            "it lacks 3.weight, 3.bias. Build the architecture that it was saved from, with the same options.",
        ),
        ("shape.pth", "3.weight has shape (5, 4), the model's (2, 4). Build the architecture that it was saved from,"),
        ("list.pth", "holds no weights by name"),
        ("cut.safetensors", "is not a complete safetensors file"),
        ("noise.pth", "is damaged, or no checkpoint of PyTorch"),
        ("absent.pth", "There is no file"),
    ],
)
def test_what_can_be_wrong_changes_nothing(name, said, source, target, tmp_path):
    faulty(tmp_path, source)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(target, tmp_path / name)
    assert said in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


ODD = {
    "sparse": lambda weight: weight.to_sparse(),
    "quantised": lambda weight: torch.quantize_per_tensor(weight, 1.0, 0, torch.qint8),
    "meta": lambda weight: weight.to("meta"),
    "complex": lambda weight: weight.to(torch.complex64),
    "integer": lambda weight: weight.to(torch.int64),
    "boolean": lambda weight: weight.to(torch.bool),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")  # of torch, about reading sparse and quantised tensors
def test_tensors_of_another_kind_change_nothing(kind, source, target, tmp_path):
    state = source.state_dict()
    torch.save({**state, "3.weight": ODD[kind](state["3.weight"])}, tmp_path / "w.pth")
    before = copy.deepcopy(target)
    with pytest.raises(
        WeightsError, match=r"does not match the model: 3\.weight is .*, the model's float32\. Save the"
    ):
        load_weights(target, tmp_path / "w.pth")
    assert states_equal(before, target)


def test_other_precisions_and_averaged_counters_are_loaded(source, target, tmp_path):
    state = {name: tensor.double() for name, tensor in source.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert states_equal(source, target) and target[3].weight.dtype == torch.float32


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_model_that_raises_while_it_is_loaded_has_its_weights_back(error, source, target, tmp_path):
    def raising(*args):
        raise error("no")

    target[3]._register_load_state_dict_pre_hook(raising)  # public from torch 2.5
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    before = copy.deepcopy(target)
    with pytest.raises(WeightsError if error is RuntimeError else error):
        load_weights(target, tmp_path / "w.safetensors")
    assert states_equal(before, target)


def test_a_model_without_values_is_refused(source, tmp_path):
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'0\.weight' is on the meta device"):
        load_weights(source.to("meta"), tmp_path / "w.safetensors")


@pytest.mark.timeout(20)
def test_a_checkpoint_that_contains_itself(target, tmp_path):
    content = {}
    content["model"] = {"net": content}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no weights by name"):
        load_weights(target, tmp_path / "w.pth")


def test_compressed_archives_are_not_inflated(source, target, tmp_path):
    torch.save(source.state_dict(), tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as old,
        zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry) + bytes(10_000) * ("/data/" in entry))
    with pytest.raises(WeightsError, match=r"compressed, which torch\.save does not do"):
        load_weights(target, tmp_path / "z.pth")


def test_a_counter_with_an_axis_is_named(source, target, tmp_path):
    torch.save(source.state_dict() | {"1.num_batches_tracked": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"1.num_batches_tracked has shape \(1,\), the model's \(\)"):
        load_weights(target, tmp_path / "x.pth")
