"""What is read from checkpoint files, beside their weights."""

import argparse
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dfpc_plugin.models import WeightsError, read_checkpoint

WEIGHT = {"fc.weight": torch.ones(2, 3)}


def read(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    return read_checkpoint(tmp_path / "x.pth")


def of_timm(**options):
    return {"state_dict": WEIGHT, "arch": "resnet18", "args": argparse.Namespace(model="resnet18", **options)}


ARCHITECTURES = {
    "timm": (of_timm(), ("resnet18", "torchvision/resnet18")),
    "torchvision": (
        {"model": WEIGHT, "args": argparse.Namespace(model="resnet18")},
        ("torchvision/resnet18", "resnet18"),
    ),
    "ImageNet example": ({"state_dict": WEIGHT, "arch": "resnet18"}, ("torchvision/resnet18", "resnet18")),
    "Lightning": ({"state_dict": WEIGHT, "hyper_parameters": {"model_name": "test_vit", "lr": 0.1}}, ("test_vit",)),
    "prefixed": ({"state_dict": WEIGHT, "config": {"arch": "cifar/resnet20"}}, ("cifar/resnet20",)),
    "no name": ({"state_dict": WEIGHT, "arch": 3, "args": argparse.Namespace(model=None)}, ()),
    "no list has it": ({"state_dict": WEIGHT, "arch": "os:system", "args": {"model": "hf-hub:me/mine"}}, ()),
    "weights alone": (WEIGHT, ()),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures_are_those_that_trainers_note(kind, tmp_path):
    content, expected = ARCHITECTURES[kind]
    assert read(content, tmp_path).architectures == expected


def test_options_are_those_that_timm_notes(tmp_path):
    options = {"num_classes": 7, "in_chans": None, "gp": "avg", "img_size": 96, "model_kwargs": {"depth": 3}, "lr": 1}
    found = read(of_timm(**options), tmp_path).options
    assert found == {"num_classes": 7, "img_size": 96, "global_pool": "avg", "depth": 3}


def test_metadata_of_safetensors_names_an_architecture(tmp_path):
    save_file(WEIGHT, tmp_path / "x.safetensors", metadata={"architecture": "test_vit", "format": "pt"})
    found = read_checkpoint(tmp_path / "x.safetensors")
    assert found.architectures == ("test_vit",)
    assert torch.equal(found.tensors["fc.weight"], WEIGHT["fc.weight"])


def test_the_averages_are_preferred(tmp_path):
    average = {"fc.weight": torch.zeros(2, 3)}
    found = read({"model": WEIGHT, "model_ema": average}, tmp_path)
    assert found.averaged and not found.tensors["fc.weight"].any()
    assert not read({"model": WEIGHT}, tmp_path).averaged


def test_what_compiled_parts_have_in_their_names_is_dropped(tmp_path):
    assert set(read({"net": {"body._orig_mod.fc.weight": WEIGHT["fc.weight"]}}, tmp_path).tensors) == {"body.fc.weight"}


def test_a_key_that_nobody_knows_will_do_if_it_is_the_only_one(tmp_path):
    others = {"optimiser": {"state": {0: {"momentum": torch.ones(1)}}}, "epoch": 3}
    assert set(read({"student": WEIGHT, **others}, tmp_path).tensors) == {"fc.weight"}
    with pytest.raises(WeightsError, match=r"holds weights under 'one', 'two'; save the ones you want in a file of"):
        read({"one": WEIGHT, "two": WEIGHT}, tmp_path)


def test_plain_values_beside_the_weights_are_no_obstacle(tmp_path):
    content = {"model": WEIGHT, "best": np.float64(0.9), "step": np.int64(3), "place": pathlib.Path("runs") / "a"}
    assert set(read(content, tmp_path).tensors) == {"fc.weight"}
    with pytest.raises(Exception, match="weights_only"):  # what was let in is only for this
        torch.load(tmp_path / "x.pth", weights_only=True)


class Bytes:
    """A pickle of some bytes that says how many gibibytes it takes."""

    def __reduce__(self):
        return bytearray, (2**33,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_small_file_cannot_ask_for_much_memory(legacy, tmp_path):
    torch.save({**WEIGHT, "x": Bytes()}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="holds a bytearray, which is no weight"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("names", [[f"w{number}" for number in range(50_001)], ["a." * 501]])
def test_names_that_no_model_has_are_refused_before_tensors_are_read(names, tmp_path):
    header = "{" + ",".join(f'"{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for name in names) + "}"
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(WeightsError, match="more than 50000 tensors, or one with a name of more than 1000 characters"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_no_weights(tmp_path):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(2)])
    with pytest.raises(WeightsError, match=r"'fc.bias' in .* is a nested tensor"):
        read(WEIGHT | {"fc.bias": nested}, tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_no_file(name):
    with pytest.raises(WeightsError, match="There is no file"):
        read_checkpoint(name)
