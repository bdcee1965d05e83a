"""Weights that torch computes from other tensors: scored under their layer's name, cut in the originals."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.nn.utils import prune as masks

from dfpc_plugin import RepairedImportance, RepairSettings, bgsc, find_couplings, prune, replay

IMAGE = torch.rand(1, 3, 10, 10)


class _UnitRows(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.normalize(weight, dim=1)


def _unit_rows(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", _UnitRows())


def _masked(layer: nn.Module) -> nn.Module:
    return masks.l1_unstructured(layer, "weight", amount=0.2)


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": spectral_norm,
    "own": _unit_rows,
    "mask": _masked,
}


def _net(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    layers = {"a": wrap(nn.Conv2d(3, 8, 3)), "b": wrap(nn.Conv2d(8, 12, 3)), "pool": nn.AdaptiveAvgPool2d(1),
              "flat": nn.Flatten(), "fc": nn.Linear(12, 4)}  # fmt: skip
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_layers_with_computed_weights_are_scored_and_pruned(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Both couplings have scores and lose channels; the model then runs, is copied and replayed."""
    model = _net(wrap)
    scores = bgsc(model, IMAGE, ranking="expected")
    assert {name: len(own) for name, own in scores.items()} == {"a": 8, "b": 12}
    result = prune(model, IMAGE, "ratio=0.5")
    assert [cutting.before > cutting.after for cutting in result.couplings] == [True, True]
    with torch.no_grad():
        expected = result.model(IMAGE)
        assert torch.equal(copy.deepcopy(result.model)(IMAGE), expected)
        assert torch.equal(replay(_net(wrap), IMAGE, result.removed)(IMAGE), expected)
    for layer, width in (("a", result.model.a.weight.size(0)), ("b", result.model.b.weight.size(0))):
        assert getattr(result.model, layer).out_channels == width


def test_scores_of_a_computed_weight_are_those_of_its_values() -> None:
    """A weight norm whose weight is made an ordinary parameter has the same scores, and loses the same channels."""
    model = _net(parametrizations.weight_norm)
    plain = _net(parametrizations.weight_norm)
    for layer in (plain.a, plain.b):
        parametrize.remove_parametrizations(layer, "weight")
    one, other = bgsc(model, IMAGE), bgsc(plain, IMAGE)
    assert all(torch.allclose(one[name], other[name]) for name in ("a", "b"))
    gone = [[cutting.gone for cutting in prune(each, IMAGE, "ratio=0.5").couplings] for each in (model, plain)]
    assert gone[0] == gone[1]


def test_vectors_of_a_spectral_norm_go_with_its_weight() -> None:
    for wrap, names in (
        (parametrizations.spectral_norm, {"a.parametrizations.weight.0._u", "b.parametrizations.weight.0._v"}),
        (spectral_norm, {"a.weight_u", "b.weight_v"}),
    ):
        first = find_couplings(_net(wrap), IMAGE)[0]
        assert first.protected is None
        assert names <= {axis.tensor for axis in first.axes}


def test_a_weight_whose_channels_cannot_be_followed_is_protected_with_advice() -> None:
    """An orthogonal weight has no rows of its own in the original; what it reads and writes is listed as protected."""
    model = _net(lambda layer: layer)
    parametrizations.orthogonal(model.b)
    listed = {coupling.name: coupling.protected for coupling in find_couplings(model, IMAGE) if coupling.feed_in}
    assert "in 'b' through a computed weight" in (listed["a"] or "")
    for name in ("a", "b.parametrizations.weight.original"):
        assert (listed[name] or "").endswith(
            "make its weight an ordinary parameter first: "
            "torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule('b'), 'weight')"
        )


def test_reading_the_widths_of_a_cut_layer_iterates_nothing() -> None:
    """A spectral norm in training updates its vectors whenever the weight is read; a cut in place reads it."""
    model = _net(parametrizations.spectral_norm).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    result = prune(model, IMAGE, "ratio=0.5", inplace=True)
    gone = set(result.removed["a.parametrizations.weight.original"])
    left = [index for index in range(8) if index not in gone]
    assert torch.equal(model.a.parametrizations.weight[0]._u, before["a.parametrizations.weight.0._u"][left])


def test_an_importance_that_looks_at_images_knows_readers_with_computed_weights() -> None:
    """Ranked by what its reader could not predict, a coupling loses the same channels whether the reader is parametrized."""
    plain = _net(parametrizations.weight_norm)
    for layer in (plain.a, plain.b):
        parametrize.remove_parametrizations(layer, "weight")
    settings = RepairSettings("calibrate", images=torch.rand(32, 3, 10, 10))
    gone = []
    for model in (_net(parametrizations.weight_norm), plain):
        result = prune(model, IMAGE, "ratio=0.5", importance=RepairedImportance(settings))
        gone.append(result.couplings[0].gone)
    assert gone[0] == gone[1]
