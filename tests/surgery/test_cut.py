"""Cutting: parameters stay the same objects, attributes say what is there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brute_force import Between
from cut_nets import IMAGE, TOKENS, Attention, Residual, Tied, built, inputs_of, only, with_gradients
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.surgery import cut
from traced_runs import traced_channels
from zero_cut import (
    difference,
    error_of_cut,
    masked_statistics,
    outputs,
    random_units,
    removed_channels,
    state,
    zero_channels,
)


@pytest.mark.parametrize("kind", [Residual, Attention, Tied])
def test_parameters_are_the_same_objects_and_gradients_are_cut_along(kind: type[nn.Module]) -> None:
    model = with_gradients(built(kind))
    inputs = inputs_of(model)
    couplings = map_couplings(model, inputs)
    units = random_units(couplings, least=1)
    gone = removed_channels(couplings, units)
    identities = {name: id(tensor) for name, tensor in state(model).items()}
    marked = copy.deepcopy(model)
    numbers = torch.arange(sum(t.numel() for t in model.parameters()), dtype=torch.float64)
    start = 0
    for parameter in marked.parameters():
        parameter.data = numbers[start : start + parameter.numel()].view_as(parameter)
        parameter.grad = parameter.data.clone()
        start += parameter.numel()
    fresh = map_couplings(marked, inputs)
    cut(marked, fresh, gone)
    for parameter in marked.parameters():
        assert parameter.grad is not None and torch.equal(parameter.grad, parameter.data)
    cut(model, couplings, gone)
    assert identities == {name: id(tensor) for name, tensor in state(model).items()}
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())
    model(inputs).sum().backward()


def test_tied_weights_stay_tied_and_buffers_are_cut() -> None:
    model = built(Tied)
    inputs = inputs_of(model)
    couplings = map_couplings(model, inputs)
    number = only(couplings, "table.weight", 1)
    with masked_statistics():
        assert error_of_cut(model, couplings, inputs, {number: torch.tensor([1, 4])}) < 1e-12
    assert model.first.weight is model.second.weight and model.head.weight is model.table.weight
    assert model.first.weight.shape == (4, 4) and model.table.weight.shape == (5, 4)
    assert model.mask.shape == model.unsaved.shape == (4,)
    assert "unsaved" not in model.state_dict() and model.table.embedding_dim == 4
    assert (model.first.in_features, model.second.out_features, model.head.in_features) == (4, 4, 4)


def test_layers_say_how_wide_they_are() -> None:
    model = built(Residual)
    couplings = map_couplings(model, IMAGE)
    stream, inner = only(couplings, "stem.weight"), only(couplings, "first.weight")
    units = {stream: torch.tensor([1]), inner: torch.tensor([0])}
    assert [len(couplings.couplings[n].blocks) for n in (stream, inner)] == [2, 2]
    with masked_statistics():
        assert error_of_cut(model, couplings, IMAGE, units) < 1e-12
    assert (model.stem.out_channels, model.norm.num_features, model.slopes.num_parameters) == (4, 4, 4)
    assert (model.first.in_channels, model.first.out_channels, model.first.groups) == (4, 2, 2)
    assert model.first.weight.shape == (2, 2, 3, 3)
    assert (model.second.in_channels, model.second.out_channels, model.head.in_features) == (2, 4, 4)
    assert model.head.out_features == 2 and model.stem.in_channels == 3
    assert str(model.stem).startswith("Conv2d(3, 4,")


def test_attributes_that_the_forward_reads_follow() -> None:
    model = built(Attention)
    couplings = map_couplings(model, TOKENS)
    number = only(couplings, "qkv.weight")
    with masked_statistics():
        assert error_of_cut(model, couplings, TOKENS, {number: torch.tensor([2])}) < 1e-12
    assert (model.num_heads, model.head_dim, model.sizes) == (2, 3, [6, 6, 6])
    assert type(model.sizes) is list and all(type(n) is int for n in [*model.sizes, model.head_dim])
    assert model.inner.normalized_shape == (6,) and type(model.inner.normalized_shape) is tuple
    assert model.shape == (8,), "an attribute that the forward does not read"
    assert (model.qkv.out_features, model.proj.in_features) == (18, 6)
    outputs(model, TOKENS)
    copy.deepcopy(model)


WIDTHS = {
    "quotient": lambda m, x: x.reshape(2, 5, m.heads, m.inner // m.heads),
    "product": lambda m, x: x.reshape(2, 5, m.heads, m.inner // m.heads).reshape(10, m.inner).view(2, 5, m.heads, -1),
    "half": lambda m, x: x.reshape(2, 5, m.heads, m.inner // 2),
    "sum": lambda m, x: x.reshape(2, 5, m.heads, m.inner // m.heads + 0),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_attributes_that_sizes_are_computed_from_follow(name: str) -> None:
    factors = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    model = Between(
        lambda m, x: m.out((WIDTHS[name](m, m.a(x)) * factors).flatten(2)),
        a=nn.Linear(3, 8), out=nn.Linear(8, 2), heads=2, inner=8,
    )  # fmt: skip
    couplings = map_couplings(model, TOKENS)
    number = only(couplings, "a.weight")
    assert couplings.couplings[number].protected is None
    assert error_of_cut(model, couplings, TOKENS, {number: torch.tensor([1])}) < 1e-12
    assert (model.heads, model.inner // 2) == (2, 3)


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("name", ["quotient", "half", "sum"])
def test_of_several_widths_that_fit_an_attribute_gets_the_true_one(name: str, units: int) -> None:
    """A division rounds, so that heads 3 wide fit an inner width of 6 and of 7; the layer has 6."""
    model = Between(
        lambda m, x: m.out(WIDTHS[name](m, m.a(x)).flatten(2)), a=nn.Linear(3, 8), out=nn.Linear(8, 2), heads=2, inner=8
    )
    couplings = map_couplings(model, TOKENS)
    number = only(couplings, "a.weight")
    assert error_of_cut(model, couplings, TOKENS, {number: torch.arange(units)}) < 1e-12
    assert model.inner == model.a.out_features == model.out.in_features == 8 - 2 * units


def test_a_depthwise_layer_has_as_many_groups_as_channels() -> None:
    model = Between(
        lambda m, x: m.out(m.d(m.a(x))),
        a=nn.Conv2d(3, 4, 1),
        d=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        out=nn.Conv2d(4, 2, 1),
    )
    couplings = map_couplings(model, IMAGE)
    assert error_of_cut(model, couplings, IMAGE, {only(couplings, "a.weight"): torch.tensor([0, 2])}) < 1e-12
    assert (model.d.groups, model.d.in_channels, model.d.out_channels) == (2, 2, 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_every_group_may_lose_another_position(transposed: bool) -> None:
    grouped = nn.ConvTranspose2d(6, 6, 2, groups=3) if transposed else nn.Conv2d(6, 6, 2, groups=3)
    model = Between(lambda m, x: m.out(m.g(m.a(x))), a=nn.Conv2d(3, 6, 1), g=grouped, out=nn.Conv2d(6, 2, 1))
    couplings = map_couplings(model, IMAGE)
    place = ("g.weight", 0 if transposed else 1)
    blocks = couplings.couplings[only(couplings, *place)].blocks
    assert blocks.shape == (3, 2)
    gone = torch.stack([blocks[0, 0], blocks[1, 1], blocks[2, 0]])
    zeroed = copy.deepcopy(model)
    zero_channels(zeroed, couplings, gone)
    with torch.no_grad():
        kept = torch.tensor([1, 2, 5])
        expected_rows = model.a.weight[kept].clone()
    cut(model, couplings, gone)
    assert difference(outputs(zeroed, IMAGE), outputs(model, IMAGE)) < 1e-12
    assert torch.equal(model.a.weight, expected_rows) and model.g.groups == 3


def test_both_sides_of_a_grouped_layer_at_once() -> None:
    model = Between(
        lambda m, x: m.out(m.g(m.a(x))), a=nn.Conv2d(3, 6, 1), g=nn.Conv2d(6, 6, 1, groups=2), out=nn.Conv2d(6, 2, 1)
    )
    couplings = map_couplings(model, IMAGE)
    reads = couplings.couplings[only(couplings, "g.weight", 1)].blocks
    writes = couplings.couplings[only(couplings, "g.weight", 0)].blocks
    gone = torch.stack([reads[0, 2], reads[1, 0], writes[0, 1], writes[1, 2]])
    zeroed = copy.deepcopy(model)
    zero_channels(zeroed, couplings, gone)
    cut(model, couplings, gone)
    assert model.g.weight.shape == (4, 2, 1, 1)
    assert difference(outputs(zeroed, IMAGE), outputs(model, IMAGE)) < 1e-12


@pytest.mark.parametrize("kind", [Residual, Attention, Tied])
def test_cuts_on_one_map_add_up(kind: type[nn.Module]) -> None:
    at_once, stepwise = built(kind), built(kind)
    inputs = inputs_of(at_once)
    first, second = map_couplings(at_once, inputs), map_couplings(stepwise, inputs)
    units = random_units(first, 0.7, least=1)
    cut(at_once, first, removed_channels(first, units))
    for number, some in units.items():
        for unit in some.tolist():
            cut(stepwise, second, second.couplings[number].blocks[:, unit])
    assert torch.equal(first.channels.removed, second.channels.removed)
    for (name, one), other in zip(state(at_once).items(), state(stepwise).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0, msg=name)
    numbers = [
        {f"{path}.{name}": value for path, module in m.named_modules() for name, value in vars(module).items()
         if isinstance(value, int | tuple | list)}
        for m in (at_once, stepwise)
    ]  # fmt: skip
    assert numbers[0] == numbers[1]


def test_a_map_of_a_cut_model_is_found_anew() -> None:
    model = built(Attention)
    couplings = map_couplings(model, TOKENS)
    cut(model, couplings, removed_channels(couplings, random_units(couplings, least=1)))
    again = map_couplings(model, TOKENS)
    assert len(again.couplings) == len(couplings.couplings)
    with masked_statistics():
        assert error_of_cut(model, again, TOKENS, random_units(again, least=1)) < 1e-12


def test_attention_computes_the_same_logits_although_its_heads_are_narrower() -> None:
    """Torch divides logits by the root of the width of a head; so do models, or they multiply by its inverse."""

    def multiplied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v

    def divided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q / q.shape[-1] ** 0.5) @ k.mT).softmax(-1) @ v

    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
        return m.out(m.attend[0](q, k, v).transpose(1, 2).flatten(2))

    for function in (F.scaled_dot_product_attention, multiplied, divided):
        parts = {name: nn.Linear(3, 8) for name in "qkv"}
        model = Between(run, **parts, out=nn.Linear(8, 2), attend=[function])
        couplings = map_couplings(model, TOKENS)
        units = {only(couplings, "q.weight"): torch.tensor([0, 3])}
        assert error_of_cut(model, couplings, TOKENS, units) < 1e-12


def test_frozen_parameters_can_be_cut() -> None:
    model = built(Residual).requires_grad_(False)
    couplings = map_couplings(model, IMAGE)
    with torch.no_grad():
        cut(model, couplings, removed_channels(couplings, random_units(couplings, least=1)))
    assert not any(p.requires_grad for p in model.parameters())
    outputs(model, IMAGE)


@pytest.mark.parametrize("function", [torch.tanh, torch.tanh_, torch.Tensor.sub_], ids=["tanh", "tanh_", "sub_"])
def test_a_scale_behind_what_does_not_keep_scales_is_left_alone(function: Any) -> None:
    """Rows of a weight make up for a changed scale only where everything up to it is linear, in place or not."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = function(m.q(x), *([x.sum()] if function is torch.Tensor.sub_ else []))
        return m.out(h * h.shape[-1] ** -0.5)

    parts = {"q": nn.Linear(3, 8), "out": nn.Linear(8, 2)}
    assert not any(scaling.labels for scaling in traced_channels(Between(run, **parts), TOKENS).scaled)
    linear = Between(lambda m, x: m.out(m.q(x) * m.q.out_features**-0.5), **parts)
    assert len(traced_channels(linear, TOKENS).scaled) == 1


@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
def test_weights_and_gradients_keep_their_memory_format(format: torch.memory_format) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=2), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 3)
    ).to(memory_format=format)  # fmt: skip
    for p in model.parameters():
        p.grad = p.detach().clone()
    image = torch.rand(1, 3, 12, 12)
    couplings = map_couplings(model, image)
    cut(model, couplings, removed_channels(couplings, random_units(couplings, least=1)))
    for layer in model:
        fresh = type(layer)(
            layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups
        ).to(memory_format=format)  # fmt: skip
        assert layer.out_channels < 16
        assert layer.weight.stride() == fresh.weight.stride() == layer.weight.grad.stride()
