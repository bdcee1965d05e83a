import pytest
import timm
import torch

from dfpc_plugin.errors import UnknownModelError
from dfpc_plugin.families import data_flow_forward
from dfpc_plugin.models import ModelSpec, WeightsError, build_model, example_inputs, match_models, preprocessing_of


@pytest.mark.parametrize("name", ["test_resnet", "test_vit.r160_in1k", "torchvision/squeezenet1_1"])
def test_builds_by_name(name):
    assert isinstance(build_model(name), torch.nn.Module)


@pytest.mark.parametrize(
    "name", ["test_vit", "torchvision/regnet_y_400mf", "torchvision/fasterrcnn_resnet50_fpn", "torchvision/googlenet"]
)
def test_meta_models_have_shapes_and_no_values(name):
    model = build_model(name, meta=True)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet5O", "'resnet5O'; did you mean resnet50"),
        ("fasterrcnn_resnet50_fpn", "did you mean torchvision/fasterrcnn_resnet50_fpn"),
        ("torchvision/resnet5O", "torchvision/resnet50"),
        ("torchvision/vit_base_patch16_224", "vit_base_patch16_224"),
        ("qqqqqq", "timm.list_models() lists the names"),
        ("test_vit.nope", "has no weights tagged 'nope'; there are: test_vit.r160_in1k."),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, expected):
    with pytest.raises(UnknownModelError) as caught:
        build_model(name)
    assert expected in str(caught.value)


def test_pretrained_goes_to_the_library(monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: asked.append((name, pretrained)))
    build_model("test_vit", pretrained=True)
    assert asked == [("test_vit", True)]


def test_weights_that_cannot_be_loaded_say_why(monkeypatch):
    def offline(name, pretrained):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"'test_vit' could not be loaded \(ConnectionError: no route to host\)"):
        build_model("test_vit", pretrained=True)


def test_pretrained_and_meta_exclude_each_other():
    with pytest.raises(WeightsError, match="not both"):
        build_model("test_vit", pretrained=True, meta=True)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("test_resnet", [(1, 3, 160, 160)]),
        ("torchvision/resnet18", [(1, 3, 224, 224)]),
        ("torchvision/inception_v3", [(1, 3, 299, 299)]),
        ("torchvision/vit_h_14", [(1, 3, 224, 224)]),
        ("torchvision/swin_v2_t", [(1, 3, 256, 256)]),
        ("torchvision/fcn_resnet50", [(1, 3, 224, 224)]),
        ("torchvision/r3d_18", [(1, 3, 16, 112, 112)]),
        ("torchvision/swin3d_t", [(1, 3, 16, 224, 224)]),
        ("torchvision/raft_small", [(1, 3, 128, 128)] * 2),
        ("torchvision/ssd300_vgg16", [(1, 3, 320, 320)]),
    ],
)
def test_example_inputs_fit_the_model(name, shapes):
    model = build_model(name, meta=True)
    inputs = example_inputs(model, name)
    made = inputs if isinstance(inputs, tuple) else (inputs,)
    assert [tuple(tensor.shape) for tensor in made] == shapes
    assert all(tensor.is_meta for tensor in made)
    forward = data_flow_forward(model.eval())
    with torch.no_grad():
        model(*made) if forward is None else forward(model, inputs)


def test_example_inputs_can_be_asked_for_otherwise():
    model = build_model("test_resnet", meta=True).double()
    made = example_inputs(model, "test_resnet", batch_size=2, size=64, device="cpu")
    assert (made.shape, made.device.type, made.dtype) == ((2, 3, 64, 64), "cpu", torch.float64)


def test_example_inputs_without_a_configuration_are_224():
    assert example_inputs(torch.nn.Conv2d(3, 1, 1), "mine").shape == (1, 3, 224, 224)


def test_patterns():
    assert match_models("resnet50") == ["resnet50"]
    assert {"test_vit", "test_vit2"} <= set(match_models("test_vit*"))
    assert match_models("torchvision/resnet?8") == ["torchvision/resnet18"]
    with pytest.raises(UnknownModelError, match=r"'zzz\*'"):
        match_models("zzz*")


def test_models_of_other_channels_get_the_average_of_the_colours():
    """timm keeps the three means of its weights for a model of grey images."""
    model = build_model(ModelSpec("test_resnet", {"in_chans": 1}))
    found = preprocessing_of(model, "test_resnet")
    whole = preprocessing_of(build_model("test_resnet"), "test_resnet")
    assert found.size[0] == 1
    assert found.mean == pytest.approx([sum(whole.mean) / 3]) and found.std == pytest.approx([sum(whole.std) / 3])


@pytest.mark.parametrize(("name", "said"), [("../nothing", True), ("nothing", False), ("cifar/nothing", False)])
def test_a_name_with_a_slash_may_have_meant_a_directory(name, said):
    with pytest.raises(UnknownModelError) as caught:
        build_model(name)
    assert ("and there is no such directory" in str(caught.value)) is said


def test_options_of_the_model_may_stand_beside_its_name():
    assert build_model("resnet18", num_classes=7).fc.out_features == 7
    assert build_model(ModelSpec("resnet18", {"num_classes": 7, "in_chans": 1}), num_classes=3).fc.out_features == 3


def test_a_file_is_no_name_of_a_model(tmp_path):
    path = tmp_path / "net.pth"
    path.touch()
    with pytest.raises(UnknownModelError, match=r"give the name of its architecture, and the file as weights"):
        build_model(str(path))
