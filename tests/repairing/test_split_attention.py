"""Attention in parts is torch's own attention, and its four projections are seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from call_tools import changer, random, randomised, stepped
from torch import Tensor, nn

from dfpc_plugin.repairing.follow import split_attention
from dfpc_plugin.repairing.lockstep import settlements

BOOLEAN = torch.tensor([[False, True, False, False, False, False]] * 5)
PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"bias": False}, {"need_weights": False}),
    ({"batch_first": True}, {"average_attn_weights": False}),
    ({"batch_first": True}, {"key_padding_mask": PADDING, "need_weights": False}),
    ({}, {"key_padding_mask": PADDING, "attn_mask": BOOLEAN}),
    ({"add_bias_kv": True}, {"attn_mask": BOOLEAN}),
    ({"add_zero_attn": True, "add_bias_kv": True, "batch_first": True}, {"key_padding_mask": PADDING}),
    ({"add_zero_attn": True}, {"need_weights": False}),
    ({"kdim": 5, "vdim": 7}, {}),
    ({"kdim": 5, "vdim": 7, "bias": False, "batch_first": True, "add_bias_kv": True}, {"need_weights": False}),
    ({"kdim": 5, "vdim": 7}, {"attn_mask": random(9, 4, 5, 6), "average_attn_weights": False}),
    ({"dropout": 0.3}, {}),
]


class Cross(nn.Module):
    def __init__(self, options: dict[str, Any], called: dict[str, Any]) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.head = nn.Linear(8, 3)
        self.called = called

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        data, weights = self.attention(*inputs, **self.called)
        return self.head(data), weights


def cross(options: dict[str, Any], called: dict[str, Any]) -> tuple[Cross, tuple[Tensor, ...]]:
    model = randomised(Cross(options, called))
    sizes = ((5, 8), (6, options.get("kdim", 8)), (6, options.get("vdim", 8)))
    batched = [random(n, 2, *size) for n, size in enumerate(sizes)]
    return model, tuple(t if options.get("batch_first") else t.transpose(0, 1) for t in batched)


def same(first: tuple[Tensor, Tensor | None], second: tuple[Tensor, Tensor | None]) -> bool:
    """Whether outputs, and weights of attention if there are any, agree."""
    (output, weights), (other, wanted) = first, second
    if weights is None or wanted is None:
        return weights is wanted and torch.allclose(output, other, rtol=1e-12, atol=1e-12)
    return same((output, None), (other, None)) and torch.allclose(weights, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("options", "called"), CASES, ids=str)
def test_cross_attention_is_the_same(options: dict[str, Any], called: dict[str, Any]) -> None:
    model, inputs = cross(options, called)
    names = []
    result = stepped(model, inputs, lambda settlement: names.append(settlement.call.name))
    with torch.no_grad():
        assert same(result, model(*inputs))
    projections = ["q_proj", "k_proj", "v_proj"] if "kdim" in options else ["in_proj"] * 3
    expected = [f"attention.{p}_weight" for p in projections]
    assert sorted(names) == sorted([*expected, "attention.out_proj", "head"])


@pytest.mark.parametrize("batch_first", [False, True])
def test_self_attention_is_the_same_and_seen_in_order(batch_first: bool) -> None:
    model, inputs = cross({"batch_first": batch_first}, {})
    inputs = (inputs[0],) * 3
    seen = []
    result = stepped(model, inputs, lambda settlement: seen.append((settlement.call.name, settlement.call.rows_of)))
    with torch.no_grad():
        assert same(result, model(*inputs))
    parts = [("attention.in_proj_weight", slice(start, start + 8)) for start in (0, 8, 16)]
    assert seen == [*parts, ("attention.out_proj", slice(None)), ("head", slice(None))]


@pytest.mark.parametrize("shape", [(5, 8), (5, 2, 8)])
def test_the_function_itself(shape: tuple[int, ...]) -> None:
    attention = randomised(nn.MultiheadAttention(8, 4))
    x = random(1, *shape)
    out = attention.out_proj
    args = (
        x,
        x,
        x,
        8,
        4,
        attention.in_proj_weight,
        attention.in_proj_bias,
        None,
        None,
        False,
        0.0,
        out.weight,
        out.bias,
    )
    called = []

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        called.append(tuple(weight.shape))
        return F.linear(input, weight, bias)

    with torch.no_grad():
        found = split_attention(linear, F.multi_head_attention_forward, args, {"training": False})
        assert same(found, F.multi_head_attention_forward(*args, training=False))
    assert called == [(8, 8)] * 4


@pytest.mark.parametrize(("options", "called"), CASES[:3] + CASES[8:9], ids=str)
def test_the_rest_of_the_forward_goes_on_with_new_projections(options: dict[str, Any], called: dict[str, Any]) -> None:
    model, inputs = cross(options, called)
    result = stepped(model, inputs, changer())
    with torch.no_grad():
        assert same(result, model(*inputs))


def test_an_encoder_layer_is_not_fused_away() -> None:
    model = randomised(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True))
    x = random(1, 2, 5, 8)
    names = [settlement.call.name for settlement in settlements(model, x, None)]
    assert names == ["self_attn.in_proj_weight"] * 3 + ["self_attn.out_proj", "linear1", "linear2"]
    result = stepped(model, x, changer())
    with torch.no_grad():
        torch.testing.assert_close(result, model(x), rtol=1e-10, atol=1e-10)
