"""What a coupling says about itself, on models whose couplings are known by hand."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from brute_force import Between, check, layer
from dfpc_plugin.couplings import DataFlowCoupling, find_couplings
from residual_net import IMAGE, named, network, places


def norm(path: str) -> set[tuple[str, int, str]]:
    return {(f"{path}.{name}", 0, "transform") for name in ("weight", "bias", "running_mean", "running_var")}


# By hand: a residual network.


def test_the_couplings_of_a_residual_network() -> None:
    couplings = find_couplings(network(), IMAGE)
    free = {c.name: places(c) for c in couplings if c.protected is None}
    blocks = [f"blocks.{n}" for n in range(2)]
    stream = {("stem.weight", 0, "feed-in"), ("stem.bias", 0, "transform"), ("head.weight", 1, "feed-out")}
    for block in blocks:
        stream |= {(f"{block}.conv2.weight", 0, "feed-in"), (f"{block}.conv1.weight", 1, "feed-out")}
        stream |= norm(f"{block}.bn2")
    inner = {
        f"{block}.conv1": {(f"{block}.conv1.weight", 0, "feed-in"), (f"{block}.conv2.weight", 1, "feed-out")}
        | norm(f"{block}.bn1")
        for block in blocks
    }
    assert free == {"stem": stream, **inner}
    for coupling in couplings:
        assert len(coupling.blocks) == 1 and coupling.balance == ()
        for piece in coupling.slices:
            assert torch.equal(piece.indices, torch.arange(coupling.channels)[:, None])


def test_what_a_coupling_says() -> None:
    couplings = find_couplings(network(), IMAGE)
    stream, inner = named(couplings, "stem"), named(couplings, "blocks.1.conv1")
    assert stream.feed_in == ("stem", "blocks.0.conv2", "blocks.1.conv2")
    assert stream.feed_out == ("blocks.0.conv1", "blocks.1.conv1", "head")
    assert {"blocks.0.bn2", "stem", "head"} <= {
        layer.rpartition(".")[0] if ".bn2." in layer else layer for layer in stream.layers
    }
    assert (stream.channels, stream.width, inner.channels, inner.width) == (6, 6, 4, 4)
    assert inner.feed_in == ("blocks.1.conv1",) and inner.feed_out == ("blocks.1.conv2",)
    assert [piece.layer for piece in inner.slices if piece.role == "feed-in"] == ["blocks.1.conv1"]


def test_why_some_are_protected() -> None:
    couplings = find_couplings(network(), IMAGE)
    protected = {piece[:2]: c.protected for c in couplings if c.protected for piece in places(c)}
    assert protected.keys() == {("stem.weight", 1), ("head.weight", 0), ("head.bias", 0)}
    assert protected["head.weight", 0] == protected["head.bias", 0] == "is the model's output"
    assert "is fixed by the input of torch.conv2d in 'stem'" in (protected["stem.weight", 1] or "")


def test_macs_are_shares_of_what_an_independent_count_finds() -> None:
    model, macs = network(), {}

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        macs[module] = module.weight.numel() * output.numel() // output.size(1 if output.dim() > 2 else -1)

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_hook(count) for module in layers]
    model(IMAGE)
    for handle in handles:
        handle.remove()
    total = sum(macs.values())
    paths = {path: macs[module] / total for path, module in model.named_modules() if module in macs}
    for coupling in find_couplings(model, IMAGE):
        expected = sum(paths[layer] for layer in {*coupling.feed_in, *coupling.feed_out})
        assert coupling.macs == pytest.approx(expected, rel=1e-9)


def test_macs_count_the_whole_batch_alike() -> None:
    one, four = (find_couplings(network(), torch.rand(n, 3, 8, 8)) for n in (1, 4))
    assert [c.macs for c in one] == pytest.approx([c.macs for c in four])


def test_printing() -> None:
    couplings = find_couplings(network(), IMAGE)
    text = str(named(couplings, "stem"))
    assert text.splitlines()[0].startswith("stem: 6 channels, ") and text.splitlines()[0].endswith("% of the MACs")
    assert "produced by stem, blocks.0.conv2, blocks.1.conv2" in text
    assert "consumed by blocks.0.conv1, blocks.1.conv1, head" in text and "protected" not in text
    assert "protected: is the model's output" in str(named(couplings, "head", protected=True))


def test_printing_names_a_few_layers_and_counts_the_rest() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)], nn.Linear(4, 2)).eval()

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Linear(3, 4) for _ in range(7))
            self.rest = model

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(sum(branch(x) for branch in self.branches))

    text = str(find_couplings(Wide().eval(), torch.rand(2, 3))[0])
    assert "produced by branches.0, branches.1, branches.2, branches.3 and 3 more" in text


# By hand: a vision transformer.


@pytest.fixture(scope="module")
def transformer() -> list[DataFlowCoupling]:
    return find_couplings(timm.create_model("vit_tiny_patch16_224").eval(), torch.rand(1, 3, 224, 224))


def test_a_vision_transformer_has_one_stream(transformer: list[DataFlowCoupling]) -> None:
    stream = named(transformer, "patch_embed.proj")
    assert (stream.channels, stream.width) == (192, 192)
    writers = [f"blocks.{n}.{layer}" for n in range(12) for layer in ("attn.proj", "mlp.fc2")]
    readers = [f"blocks.{n}.{layer}" for n in range(12) for layer in ("attn.qkv", "mlp.fc1")]
    assert sorted(stream.feed_in) == sorted(["patch_embed.proj", *writers])
    assert sorted(stream.feed_out) == sorted([*readers, "head"])
    found = {(piece.tensor, piece.dim) for piece in stream.slices}
    assert {("cls_token", 2), ("pos_embed", 2), ("norm.weight", 0), ("blocks.3.norm1.bias", 0)} <= found


def test_a_vision_transformer_has_hidden_layers_and_heads(transformer: list[DataFlowCoupling]) -> None:
    free = [c for c in transformer if c.protected is None]
    hidden = [c for c in free if c.name.endswith("mlp.fc1")]
    assert len(hidden) == 12 and all((c.width, len(c.blocks)) == (768, 1) for c in hidden)
    attention = [c for c in free if c.name.endswith("attn.qkv")]
    assert {c.name for c in attention} == {f"blocks.{n}.attn.qkv" for n in range(12)}
    assert len(free) == 1 + 12 + len(attention)
    for number in range(12):
        own = [c for c in attention if c.name == f"blocks.{number}.attn.qkv"]
        assert all(c.channels == 64 for c in own), "a unit is one position of every head"
        rows = torch.cat(
            [p.indices.flatten() for c in own for p in c.slices if p.tensor.endswith("qkv.weight") and p.dim == 0]
        )
        assert sorted(rows.tolist()) == list(range(576))
        columns = [p.indices for c in own for p in c.slices if p.tensor.endswith("proj.weight") and p.dim == 1]
        assert sum(c.numel() for c in columns) == 192


def test_heads_of_a_vision_transformer_are_kept_equal(transformer: list[DataFlowCoupling]) -> None:
    (first, *_) = [c for c in transformer if c.name == "blocks.0.attn.qkv"]
    assert any("blocks.0.attn" in note and "rows" in note for note in first.balance)
    assert f"in {len(first.blocks)} blocks" in str(first) and "kept equal: " in str(first)
    (piece,) = [p for p in first.slices if p.tensor == "blocks.0.attn.qkv.weight" and p.dim == 0]
    queries = piece.indices[piece.indices < 192].view(-1)
    keys = piece.indices[(piece.indices >= 192) & (piece.indices < 384)].view(-1)
    assert set((keys - 192).tolist()) == set(queries.tolist())
    for unit in piece.indices:
        assert len({int(index) // 64 for index in unit}) == len(unit), "no head loses two"


# Widths that are read from another layer's output.

ROWS = torch.rand(2, 5, 3, dtype=torch.float64)
READ = {
    "as a whole": (3, 3, lambda m, h, read: h.view(2, 5, read)),
    "as that of a head": (4, 2, lambda m, h, read: (h.view(2, 5, 2, read) * torch.tensor([[1.0], [2.0]])).flatten(2)),
}


@pytest.mark.parametrize("name", READ)
def test_a_layer_reshaped_to_the_width_of_another_is_cut_along_with_it(name: str) -> None:
    width, other, function = READ[name]
    model = Between(
        lambda m, x: m.out(function(m, m.a(x), m.b(x).shape[-1])) + m.last(m.b(x).sin()),
        a=nn.Linear(3, width), b=nn.Linear(3, other), out=nn.Linear(width, 2), last=nn.Linear(other, 2),
    )  # fmt: skip
    assert check(model, ROWS, [layer("a"), layer("b")], ["out", "last"]) > 0
    (coupling,) = [c for c in find_couplings(model, ROWS) if c.protected is None]
    assert set(coupling.feed_in) == {"a", "b"} and coupling.channels == other
