"""The model that a checkpoint is of is built; the oracle is the model that was saved."""

import argparse

import pytest
import timm
import torch
import torchvision

import dfpc_plugin as dfpc
from dfpc_plugin.models import ModelSpec, WeightsError, build_fitted, build_model, read_checkpoint
from workflow_nets import colour_net

NET = "workflow_nets:colour_net"


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def fitted(content, path, name=None, options=None, **choices):
    torch.save(content, path)
    return build_fitted(name, options or {}, read_checkpoint(path), **choices)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pth"


@pytest.fixture(scope="module")
def grey():
    """A network for seven classes of images with one channel."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=7, in_chans=1)


def equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


WRAPPED = {
    "plain": lambda state: state,
    "DistributedDataParallel": lambda state: prefixed("module.", state),
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "both": lambda state: prefixed("module._orig_mod.", state),
    "Lightning": lambda state: {"state_dict": prefixed("model.", state), "hyper_parameters": {"lr": 0.1}},
    "any": lambda state: {"state_dict": prefixed("learner.backbone.net.", state)},
    "averaged": lambda state: {"model_ema": prefixed("module.", state) | {"n_averaged": torch.tensor(9)}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_classes_and_channels_are_those_of_the_checkpoint(kind, grey, path):
    found = fitted(WRAPPED[kind](grey.state_dict()), path, "test_resnet")
    assert equal(found.model, grey)
    assert found.spec == ModelSpec("test_resnet", {"in_chans": 1, "num_classes": 7})
    assert found.notes[0].startswith(f"From the checkpoint '{path}': in_chans=1, num_classes=7")


def test_a_checkpoint_that_fits_needs_no_word(path):
    model = timm.create_model("test_resnet")
    found = fitted(model.state_dict(), path, "test_resnet")
    assert equal(found.model, model) and found.notes == () and found.spec.options == {}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_told(path, kind):
    state = timm.create_model("test_resnet").state_dict()
    half = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    found = fitted(half, path, "test_resnet")
    assert found.notes == (f"The checkpoint's weights are {kind}; here they are torch.float32, with the same values.",)
    assert all(torch.equal(tensor, half[name].to(tensor)) for name, tensor in found.model.state_dict().items())
    some = state | {"fc.weight": state["fc.weight"].half()}
    assert fitted(some, path, "test_resnet").notes == ()


def test_the_weights_in_a_saved_model_are_recognised(tmp_path):
    model = timm.create_model("test_resnet").eval()
    dfpc.save_pruned(dfpc.prune(model, torch.randn(1, 3, 64, 64), "macs=0.7", repair=None), tmp_path / "small")
    with pytest.raises(WeightsError) as caught:
        build_fitted("test_resnet", {}, read_checkpoint(tmp_path / "small" / "model.safetensors"))
    assert str(caught.value).endswith(
        f" It belongs to the saved model '{tmp_path / 'small'}'; give that directory as the model."
    )


def test_timms_trainer_names_everything(path):
    model = timm.create_model("test_vit", num_classes=3, img_size=96)
    arguments = argparse.Namespace(model="test_vit", num_classes=3, img_size=96, gp=None, model_kwargs={})
    found = fitted({"state_dict": model.state_dict(), "arch": "test_vit", "args": arguments}, path)
    assert equal(found.model, model)
    assert found.notes == (f"From the checkpoint '{path}': the architecture test_vit, num_classes=3, img_size=96.",)


@pytest.mark.parametrize("named", ["references", "example"])
def test_torchvisions_trainers_name_the_architecture(named, path):
    model = torchvision.models.squeezenet1_1(num_classes=4)
    state = model.state_dict()
    content = {
        "references": {"model": state, "args": argparse.Namespace(model="squeezenet1_1")},
        "example": {"arch": "squeezenet1_1", "state_dict": prefixed("module.", state)},
    }[named]
    found = fitted(content, path)
    assert equal(found.model, model)
    assert found.spec == ModelSpec("torchvision/squeezenet1_1", {"num_classes": 4})


def test_a_function_of_the_users_own_may_call_its_classes_otherwise(path):
    found = fitted(colour_net(classes=4).state_dict(), path, NET)
    assert found.spec == ModelSpec(NET, {"classes": 4})


SMALLER = {
    "timm": ("test_vit", {"num_classes": 7, "img_size": 96}),
    "torchvision": ("torchvision/vit_b_32", {"num_classes": 7, "image_size": 64}),
}


@pytest.mark.parametrize("library", SMALLER)
def test_the_size_of_images_is_read_from_the_position_embedding(library, path):
    name, options = SMALLER[library]
    model = build_model(name, **options)
    found = fitted(model.state_dict(), path, name)
    assert equal(found.model, model) and found.spec.options == options


@pytest.mark.parametrize(
    ("name", "options", "example"),
    [
        ("test_vit", {"img_size": (64, 96)}, r"such as img_size=\(64, 96\) or \(96, 64\)\."),
        ("test_vit", {"img_size": (96, 64), "num_classes": 7}, r"such as img_size=\(64, 96\) or \(96, 64\)\."),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 112, "depths": (1, 1, 1, 1)},
            "img_size in timm, image_size in torchvision",
        ),
    ],
)
def test_other_position_embeddings_point_to_the_size(name, options, example, path):
    state = build_model(name, **options).state_dict()
    with pytest.raises(
        WeightsError, match=f"are for images of another size: build the model with that size, {example}"
    ):
        fitted(state, path, name, {key: value for key, value in options.items() if key == "depths"})


@pytest.mark.parametrize(("saved", "built"), [("resnet18", "test_resnet"), ("test_vit2", "test_vit3")])
def test_another_architecture_is_told_in_short(saved, built, path):
    state = timm.create_model(saved).state_dict()
    with pytest.raises(
        WeightsError, match=r" more\. Build the architecture that it was saved from, with the same"
    ) as told:
        fitted(state, path, built)
    assert len(str(told.value)) < 400


PARTLY = {
    "some layers": lambda name: "module." * name.startswith("layer1"),
    "all but the classifier": lambda name: "backbone." * (not name.startswith("fc")),
    "each part its own": lambda name: "head." if name.startswith("fc") else "backbone.",
    "every other": lambda name: "module." * ("weight" in name),
}


@pytest.mark.parametrize("kind", PARTLY)
def test_some_of_the_names_may_have_a_prefix(kind, grey, path):
    state = {PARTLY[kind](name) + name: tensor for name, tensor in grey.state_dict().items()}
    assert equal(fitted(state, path, "test_resnet").model, grey)


def test_a_backbone_has_no_classifier(path):
    model = timm.create_model("test_vit", num_classes=0)
    assert equal(fitted(model.state_dict(), path, "test_vit").model, model)


def test_the_python_call(grey, path):
    torch.save(grey.state_dict(), path)
    assert equal(build_model("test_resnet", weights=path), grey)
    with pytest.raises(WeightsError, match="weights, pretrained and meta all say where weights come from"):
        build_model("test_resnet", weights=path, pretrained=True)


def test_surplus_is_named_and_left_out_on_request(grey, path):
    content = {"state_dict": prefixed("model.", grey.state_dict()) | {"loss.weight": torch.ones(2)}}
    with pytest.raises(
        WeightsError, match=r"the model has no loss\.weight\. Pass ignore_surplus=True to leave them out"
    ):
        fitted(content, path, "test_resnet")
    found = fitted(content, path, "test_resnet", ignore_surplus=True)
    assert equal(found.model, grey)
    assert found.notes[1] == "Tensors of the checkpoint that the model does not have are left out: loss.weight."


FAULTS = {
    "given classes": (
        {"num_classes": 10, "in_chans": 1},
        "the classifier has 7 classes, the model 10. Build the model with num_classes=7.",
    ),
    "given channels": (
        {"num_classes": 7, "in_chans": 3},
        "the first layer reads 1 channels, the model's 3. Build the model with in_chans=1.",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_given_is_not_overruled(kind, grey, path):
    options, said = FAULTS[kind]
    with pytest.raises(WeightsError) as caught:
        fitted(grey.state_dict(), path, "test_resnet", options)
    assert str(caught.value) == f"The checkpoint '{path}' does not match the model: {said}"


def test_another_architecture_is_named(path):
    content = {"state_dict": timm.create_model("test_resnet").state_dict(), "arch": "test_resnet"}
    with pytest.raises(
        WeightsError, match=r"it lacks cls_token.*\. The file was saved from 'test_resnet'; build that model\."
    ):
        fitted(content, path, "test_vit")


def test_several_models_in_one_file(grey, path):
    state = grey.state_dict()
    with pytest.raises(
        WeightsError, match=r"holds several models that fit, under 'a\.' and 'b\.'; save the one you want"
    ):
        fitted(prefixed("a.", state) | prefixed("b.", state), path, "test_resnet")
    found = fitted(state | prefixed("ema.", state), path, "test_resnet", ignore_surplus=True)
    assert equal(found.model, grey)


def test_a_file_without_a_name(grey, path):
    with pytest.raises(WeightsError, match="does not name its architecture; give the name of the model"):
        fitted(grey.state_dict(), path)
