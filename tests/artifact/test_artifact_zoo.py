"""One model of every family: pruned here, saved, and loaded in another process, it computes the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from artifact_tools import Loader

from dfpc_plugin.artifact import save_pruned
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.families import data_flow_forward
from dfpc_plugin.models import build_model, example_inputs
from dfpc_plugin.surgery import cut
from dfpc_plugin.tracing.tree import map_tensors
from zero_cut import outputs, random_units, randomise, removed_channels
from zoo import timm_zoo, torchvision_zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # models warn about their own deprecations while they are built

SMALL = """
    test_resnet test_vit test_convnext levit_128s cifar/resnet20 torchvision/shufflenet_v2_x0_5
""".split()


class Followed(torch.nn.Module):
    """A model called by the forward that is registered for it."""

    def __init__(self, model, forward_fn):
        super().__init__()
        self.model, self.forward_fn = model, forward_fn

    def forward(self, inputs):
        return self.forward_fn(self.model, inputs)


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.close()


def pruned_model(name):
    torch.manual_seed(0)
    model = build_model(name).eval()
    inputs = map_tensors(torch.rand_like, example_inputs(model, name))
    randomise(model)
    forward_fn = data_flow_forward(model)
    couplings = map_couplings(model if forward_fn is None else Followed(model, forward_fn), inputs)
    cut(
        model if forward_fn is None else Followed(model, forward_fn),
        couplings,
        removed_channels(couplings, random_units(couplings)),
    )
    return model, inputs


def assert_round_trip(name: str, loader: Loader, tmp_path: Path) -> None:
    model, inputs = pruned_model(name)
    expected = outputs(model, inputs)
    library = "/" in name
    directory = save_pruned(model, tmp_path / "artifact", model=name if library else None, example_inputs=inputs)
    found = loader.outputs(directory, inputs, tmp_path)
    assert len(found) == len(expected) > 0
    for mine, other in zip(expected, found, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_compute_the_same_in_another_process(name, loader, tmp_path):
    assert_round_trip(name, loader, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_zoo() + torchvision_zoo())
def test_models_compute_the_same_in_another_process(name, loader, tmp_path):
    assert_round_trip(name, loader, tmp_path)
