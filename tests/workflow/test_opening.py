import argparse

import pytest
import timm
import torch

from dfpc_plugin.artifact import save_pruned
from dfpc_plugin.models import Preprocessing
from dfpc_plugin.record import RecordError
from dfpc_plugin.workflow.opening import (
    device_of,
    images_to_calibrate,
    images_to_train,
    images_to_validate,
    is_artifact,
    is_checkpoint,
    open_model,
    prepared,
)
from dfpc_plugin.workflow.sections import DataSection, ModelSection, RecipeError
from workflow_nets import colour_net
from workflow_runs import NET

CPU = torch.device("cpu")
RGB = Preprocessing((3, 8, 8), (0.3,), (0.35,))


@pytest.fixture
def saved(tmp_path):
    def save(record):
        return str(
            save_pruned(
                colour_net().eval(), tmp_path / "net", model=NET, record=record, example_inputs=torch.ones(1, 3, 8, 8)
            )
        )

    return save


def test_a_saved_model_knows_the_size_of_its_images_by_its_inputs(saved):
    """Even without a record; what it does not know is said."""
    found = open_model(ModelSection(saved({}), factory=NET), CPU)
    assert found.preprocessing.size == (3, 8, 8)
    (note,) = found.notes
    assert "does not say how images become inputs, so mean and standard deviation are guessed" in note


def test_devices():
    assert device_of("cpu") == CPU
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("meta", "gpu", "cuda:99", ""):
        with pytest.raises(RecipeError, match=rf"device='{name}' is not here \(.*\); give cpu, cuda, or auto"):
            device_of(name)


def test_the_size_is_the_recipes_or_the_records(saved):
    name = saved({"model": {"size": 8}})
    assert open_model(ModelSection(name, batch_size=2), CPU, factory=NET).inputs.shape == (2, 3, 8, 8)
    with pytest.raises(RecipeError, match="cannot be called with inputs of 1x3x12x12"):
        open_model(ModelSection(name, size=12), CPU, factory=NET)


@pytest.mark.parametrize("size", ["8", 0, -1, True, [8], 8.0, 12_000])
def test_a_recorded_size_that_is_none(saved, size):
    with pytest.raises(
        RecipeError, match="in its record, which is no number of pixels from 1 to 2048; give the size of its images"
    ):
        open_model(ModelSection(saved({"model": {"size": size}})), CPU, factory=NET)


def test_a_record_of_something_else(saved):
    with pytest.raises(RecordError, match="The record was not written by this library: model must be an object"):
        open_model(ModelSection(saved({"model": "resnet"})), CPU, factory=NET)


def test_the_seed_decides_random_weights_and_nothing_else_changes():
    before = torch.get_rng_state()
    one, same, other = (open_model(ModelSection(NET, size=8), CPU, seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_means_and_deviations_are_those_given():
    assert prepared(RGB, DataSection()) == RGB
    assert prepared(RGB, DataSection(mean=(0.1, 0.2, 0.3), std=(0.5,))) == Preprocessing(
        (3, 8, 8), (0.1, 0.2, 0.3), (0.5,)
    )
    with pytest.raises(RecipeError, match=r"data.std has 2 values for 3 channels; give one for each."):
        prepared(RGB, DataSection(std=(0.1, 0.2)))


def test_images_are_opened_as_they_are_used():
    data = DataSection("digits", "digits", limit=20)
    assert images_to_validate(DataSection(), RGB) is None
    assert len(images_to_validate(data, RGB)) == 20
    plain, varied = images_to_train(data, RGB, varied=False), images_to_train(data, RGB)
    assert len(plain) == len(varied) == 1257
    assert torch.equal(plain[0][0], plain[0][0])
    assert any(not torch.equal(varied[0][0], varied[0][0]) for _ in range(20))
    chosen = images_to_calibrate(data, RGB, 5, 0)
    assert chosen.shape == (5, 3, 8, 8)
    assert torch.equal(chosen, images_to_calibrate(data, RGB, 5, 0))
    assert not torch.equal(chosen, images_to_calibrate(data, RGB, 5, 1))
    assert len(images_to_calibrate(data, RGB, 10**9, 0)) == 1257
    assert len(images_to_calibrate(data, RGB, None, 0)) == 256


def test_without_training_images_it_says_so():
    for opening in (images_to_train, lambda data, ready: images_to_calibrate(data, ready, 3, 0)):
        with pytest.raises(RecipeError, match=r"say where they are in data\.train"):
            opening(DataSection(), RGB)


def test_a_name_that_no_file_can_have_is_that_of_a_model():
    assert not is_artifact("'" * 9000) and not is_checkpoint("'" * 9000)


@pytest.mark.parametrize(("stated", "given", "side"), [
    ({"input_size": (1, 96, 96)}, None, 96),
    ({"img_size": 64}, None, 64),
    ({"input_size": (1, 96, 96)}, 128, 128),
    ({"input_size": (1, 96, 64)}, None, 224),
    ({"input_size": None, "img_size": None}, None, 224),
])  # fmt: skip
def test_the_size_of_images_comes_from_the_checkpoint(stated, given, side, tmp_path):
    model = timm.create_model("resnet18", num_classes=3, in_chans=1)
    options = argparse.Namespace(model="resnet18", **stated)
    torch.save({"state_dict": model.state_dict(), "args": options}, tmp_path / "tuned.pth")
    opened = open_model(ModelSection(str(tmp_path / "tuned.pth"), size=given), CPU)
    assert opened.inputs.shape[-2:] == (side, side) and opened.preprocessing.size == (1, side, side)
    assert any("as the checkpoint says; size=224 takes others" in note for note in opened.notes) is (side in (96, 64))
