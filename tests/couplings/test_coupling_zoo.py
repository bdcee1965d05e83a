"""Real models: channels cut from one copy compute what they compute set to zero in another."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.families import data_flow_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import as_call
from dfpc_plugin.models import build_model, example_inputs
from dfpc_plugin.tracing.tree import map_tensors
from zero_cut import error_of_cut, masked_statistics, random_units, randomise
from zoo import timm_zoo, torchvision_zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # models warn about their own deprecations while they are built

SMALL = """
    test_resnet test_vit test_convnext test_efficientnet test_byobnet test_nfnet test_mambaout test_coatnet
    test_vit_relpos convnextv2_atto hgnetv2_b0 edgenext_xx_small mobilevit_xxs efficientvit_m0
    xcit_nano_12_p8_224
    pvt_v2_b0 levit_128s skresnet18 resnest14d repvit_m1 ghostnet_050 lcnet_035 dla46x_c mobilenetv3_small_050
    poolformerv2_s12 torchvision/shufflenet_v2_x0_5 torchvision/mobilenet_v2 torchvision/squeezenet1_0
""".split()

TOLERANCE = 1e-4
"""Rounding in single precision, as a share of the largest output; an index out of place is larger by far."""

APPROXIMATE = {
    "efficientvim_m1": "takes a mean over states, of which some go",
    "gemma4_vit_167m": "timm's own function takes its norm's statistics",
    "samvit_base_patch16_224": "adds positions by the queries that are not scaled, to logits of those that are",
    "torchvision/raft_small": "divides by a number that it makes from a width",
}
"""Models in which channels of zeros are not the same as no channels; their cuts are only run."""


class Followed(torch.nn.Module):
    """A model called by the forward that is registered for it: what it computes is data flow to the end."""

    def __init__(self, model: torch.nn.Module, forward_fn: ForwardFunction) -> None:
        super().__init__()
        self.model, self.forward_fn = model, forward_fn

    def forward(self, inputs: Any) -> Any:
        return self.forward_fn(self.model, inputs)


def model_and_inputs(name: str) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    model = build_model(name).eval()
    inputs = map_tensors(torch.rand_like, example_inputs(model, name))
    return randomise(model), inputs


def assert_exact(name: str) -> None:
    model, inputs = model_and_inputs(name)
    forward_fn = data_flow_forward(model)
    network = model if forward_fn is None else Followed(model, forward_fn)
    before = sum(parameter.numel() for parameter in model.parameters())
    couplings = map_couplings(network, inputs)
    units = random_units(couplings)
    assert len(units) >= 4
    with masked_statistics():
        error = error_of_cut(network, couplings, inputs, units)
    assert error < TOLERANCE or name in APPROXIMATE
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        model(*args, **kwargs)


def installed(names: list[str]) -> list[str]:
    known = {*timm.list_models(), *torchvision_zoo()}
    return [name for name in names if name in known]


@pytest.mark.parametrize("name", installed(SMALL))
def test_small_models_compute_the_same_without_the_channels(name: str) -> None:
    assert_exact(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_zoo() + torchvision_zoo())
def test_models_compute_the_same_without_the_channels(name: str) -> None:
    assert_exact(name)
