"""What is left of a weight, and by what a cut has multiplied its rows."""

from __future__ import annotations

import copy

import pytest
import torch
from call_tools import calls_of, randomised
from torch import nn

from budget_nets import make
from dfpc_plugin.pruning import prune, replay
from dfpc_plugin.repairing.kept import kept_channels
from dfpc_plugin.repairing.targets import kept_matrix, row_factors


@pytest.mark.parametrize(
    "name",
    ["convolutions", "flattened", "grouped", "depthwise", "transposed", "linear", "concatenation", "test_resnet"],
)
def test_what_is_left_of_a_weight_is_the_pruned_weight(name: str) -> None:
    original, inputs = make(name)
    result = prune(original, inputs, "ratio=0.3")
    kept = kept_channels(result.model, original, inputs, None, result.removed)
    found = 0
    for old, new in zip(calls_of(original, inputs), calls_of(result.model, inputs), strict=True):
        matrix = kept_matrix(old, new, kept)
        if old.groups != new.groups:
            assert matrix is None
        elif matrix is not None:
            found += matrix.shape != old.matrix.shape
            assert torch.equal(matrix, new.matrix)
        else:
            assert old.groups > 1
        assert row_factors(old, new, kept) is None
    assert found


def test_rows_of_narrower_heads_are_scaled() -> None:
    original, inputs = make("test_vit")
    heads, width = original.blocks[0].attn.num_heads, original.blocks[0].attn.head_dim
    gone = [part * heads * width + head * width + d for part in range(3) for head in range(heads) for d in (1, 5, 6)]
    pruned = replay(copy.deepcopy(original), inputs, {"blocks.0.attn.qkv": gone})
    kept = kept_channels(pruned, original, inputs, None, None)
    scaled = {}
    for old, new in zip(calls_of(original, inputs), calls_of(pruned, inputs), strict=True):
        factors, matrix = row_factors(old, new, kept), kept_matrix(old, new, kept)
        assert matrix is not None
        if factors is None:
            torch.testing.assert_close(new.matrix, matrix, rtol=1e-5, atol=1e-6)
            continue
        scaled[old.name] = factors
        torch.testing.assert_close(new.matrix, matrix * factors[..., None], rtol=1e-4, atol=1e-6)
    assert list(scaled) == ["blocks.0.attn.qkv"]
    queries, others = scaled["blocks.0.attn.qkv"][0].tensor_split([heads * (width - 3)])
    torch.testing.assert_close(queries, torch.full_like(queries, ((width - 3) / width) ** 0.5), rtol=1e-5, atol=0)
    torch.testing.assert_close(others, torch.ones_like(others), rtol=1e-5, atol=0)


def pair() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    model = randomised(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)))
    inputs = torch.ones(2, 3, dtype=torch.float64)
    return model, replay(copy.deepcopy(model), inputs, {"0": [1, 4]}), inputs


def test_factors_are_those_by_which_rows_were_multiplied() -> None:
    original, pruned, inputs = pair()
    kept = kept_channels(pruned, original, inputs, None, None)
    factors = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    for number in (0, 2):
        pruned[number].weight.data *= factors[:, None]
        old, new = calls_of(original, inputs)[number // 2], calls_of(pruned, inputs)[number // 2]
        found = row_factors(old, new, kept)
        assert found is not None
        torch.testing.assert_close(found, factors[None])


@pytest.mark.parametrize("change", ["turned", "negative", "none"])
def test_what_is_not_scaled_has_no_factors(change: str) -> None:
    original, pruned, inputs = pair()
    kept = kept_channels(pruned, original, inputs, None, None)
    if change == "turned":
        pruned[0].weight.data *= torch.linspace(1, 1.2, 3)
    if change == "negative":
        pruned[0].weight.data[0] *= -1
    assert row_factors(calls_of(original, inputs)[0], calls_of(pruned, inputs)[0], kept) is None


def test_a_row_without_weights_does_not_hide_the_others_factors() -> None:
    original, pruned, inputs = pair()
    kept = kept_channels(pruned, original, inputs, None, None)
    original[2].weight.data[1], pruned[2].weight.data[1] = 0, 0
    pruned[2].weight.data *= 2
    found = row_factors(calls_of(original, inputs)[1], calls_of(pruned, inputs)[1], kept)
    assert found is not None and torch.allclose(found[0, [0, 2, 3]], torch.full((3,), 2.0).double())
