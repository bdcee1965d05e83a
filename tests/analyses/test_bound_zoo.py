"""Every operator that timm's and torchvision's models call has a rule."""

import time

import pytest
import timm
import torch
from torch import nn

from dfpc_plugin import bgsc, missing_operators
from dfpc_plugin.models import build_model, example_inputs
from traced_runs import traced_bounds
from zoo import timm_zoo, torchvision_zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # models warn about their own deprecations while they are built


def model_and_inputs(name, *, meta):
    torch.manual_seed(0)
    model = build_model(name, meta=meta)
    return model, example_inputs(model, name)


def unscored_layers(model, inputs):
    """Convolutions and linear layers that the pass never saw."""
    run = traced_bounds(model, inputs)
    seen = {writer.name for writer in run.writers}
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        and not (isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1)
    } - seen


FED_BY_CONSTANTS = ("cpb_mlp", "meta_mlp", "rel_pos.mlp", "pos_proj", "token_projection")
"""Layers that compute position tables: no data passes them, so there is nothing to score."""


@pytest.mark.parametrize("name", timm_zoo() + torchvision_zoo())
def test_no_operator_is_missing(name):
    model, inputs = model_and_inputs(name, meta=True)
    assert missing_operators(model, inputs) == ()
    if not name.startswith("torchvision/"):
        assert all(any(part in layer for part in FED_BY_CONSTANTS) for layer in unscored_layers(model, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_zoo() + torchvision_zoo())
def test_scores_are_finite_and_positive(name):
    model, inputs = model_and_inputs(name, meta=False)
    start = time.perf_counter()
    saliency = bgsc(model.eval(), inputs)
    print(f"{name}: {saliency} in {time.perf_counter() - start:.1f} s")
    assert saliency.couplings
    for layer, scores in saliency.items():
        assert torch.isfinite(scores).all() and (scores >= 0).all(), layer
    assert sum(float(scores.sum()) for scores in saliency.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", timm.list_models())
def test_no_operator_is_missing_in_any_timm_model(name):
    model, inputs = model_and_inputs(name, meta=True)
    assert missing_operators(model, inputs) == ()
