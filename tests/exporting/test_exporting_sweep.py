"""Many kinds of models, pruned and exported: slow, and run on demand."""

import pytest
import timm
import torch
import torchvision

import dfpc_plugin as dfpc
from dfpc_plugin.exporting import export_onnx, export_program

TIMM = {
    "resnet18": 96,
    "mobilenetv3_small_100": 96,
    "efficientnet_b0": 96,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "convnext_atto": 96,
    "densenet121": 96,
    "regnety_002": 96,
    "levit_128s": 224,
    "maxvit_pico_rw_256": 256,
    "coatnet_pico_rw_224": 224,
    "mixer_s32_224": 224,
    "ghostnet_100": 96,
    "repvgg_a0": 96,
    "edgenext_xx_small": 128,
    "poolformer_s12": 96,
    "mobilevit_xxs": 128,
}
TORCHVISION = {
    "shufflenet_v2_x0_5": 96,
    "googlenet": 96,
    "inception_v3": 128,
    "squeezenet1_1": 96,
    "lraspp_mobilenet_v3_large": 128,
    "vit_b_16": 224,
    "fcn_resnet50": 96,
}


def build(name):
    torch.manual_seed(0)
    if name in TIMM:
        model = timm.create_model(name)
    else:
        options = {"weights_backbone": None} if "lraspp" in name or "fcn" in name else {}
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # small weights, of which nothing but the head's constants comes through
        model = torchvision.models.get_model(name, weights=None, **options)
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)  # heads that start at zero return zeros, whatever is exported
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TIMM, *TORCHVISION])
def test_pruned_model_exports(name, tmp_path):
    size = (TIMM | TORCHVISION)[name]
    inputs = torch.randn(1, 3, size, size)
    pruned = dfpc.prune(build(name), inputs, "macs=0.7").model
    done = export_onnx(pruned, inputs, tmp_path / "m.onnx")
    assert done.exporter == "dynamo" and done.notes == ()
    assert 0 < done.max_difference < 1e-4
    program = export_program(pruned, inputs, tmp_path / "m.pt2")
    assert program.max_difference < 1e-4
