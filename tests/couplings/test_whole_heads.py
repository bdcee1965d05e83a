"""Attention that loses whole heads."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F

from dfpc_plugin import DFPCPruner, find_couplings
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.surgery import cut

IMAGE = torch.randn(1, 3, 64, 64)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5).eval()


def magnitude(group):
    return torch.arange(float(len(group[0].idxs)))


def test_a_unit_is_a_head(vit):
    couplings = [c for c in find_couplings(vit, IMAGE, whole_heads=True) if c.whole_heads]
    assert [c.name for c in couplings] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    for coupling in couplings:
        assert (coupling.channels, coupling.protected) == (3, None)
        rows = next(piece for piece in coupling.slices if piece.tensor.endswith("qkv.weight") and piece.dim == 0)
        expected = [[part * 192 + head * 64 + d for part in range(3) for d in range(64)] for head in range(3)]
        assert rows.indices.sort(1).values.tolist() == expected


def test_dimensions_of_heads_are_the_default(vit):
    assert not any(c.whole_heads for c in find_couplings(vit, IMAGE))


def test_cutting_a_head_equals_zeroing_it(vit, monkeypatch):
    zeroed = copy.deepcopy(vit)
    found = map_couplings(vit, IMAGE, whole_heads=True)
    coupling = next(c for c in found.couplings if c.whole_heads)
    with torch.no_grad():
        for piece in coupling.slices:
            zeroed.get_parameter(piece.tensor).index_fill_(piece.dim, piece.indices[1], 0)
    cut(vit, found, coupling.blocks[:, 1])
    assert (vit.blocks[0].attn.num_heads, vit.blocks[1].attn.num_heads) == (2, 3)
    assert torch.allclose(vit(IMAGE), zeroed(IMAGE), atol=1e-5)


def test_a_table_of_biases_loses_its_column():
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(2,), num_classes=5, embed_dim=24).eval()
    found = map_couplings(swin, torch.randn(1, 3, 224, 224), whole_heads=True)
    coupling = next(c for c in found.couplings if c.whole_heads)
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in coupling.layers
    before = swin.layers[0].blocks[0].attn.relative_position_bias_table.shape
    cut(swin, found, coupling.blocks[:, 0])
    attention = swin.layers[0].blocks[0].attn
    assert attention.relative_position_bias_table.shape == (before[0], before[1] - 1)
    assert attention.num_heads == before[1] - 1
    assert swin(torch.randn(1, 3, 224, 224)).shape == (1, 5)


def test_the_pruner_removes_heads_by_their_own_ratio(vit):
    pruner = DFPCPruner(
        vit, IMAGE, magnitude, pruning_ratio=0.25, prune_num_heads=True, prune_head_dims=False, head_pruning_ratio=0.3
    )
    pruner.step()
    assert [block.attn.num_heads for block in vit.blocks] == [2, 2]
    assert [block.attn.head_dim for block in vit.blocks] == [64, 64]
    assert (vit.patch_embed.proj.out_channels, vit.blocks[0].mlp.fc1.out_features) == (144, 576)
    assert vit(IMAGE).shape == (1, 5)


def test_torchs_own_attention_loses_heads_with_its_stream():
    """Its forward computes the width of a head from the width of the input, so both shrink in proportion."""
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.layer, self.outer = torch.nn.Linear(3, 16), layer, torch.nn.Linear(16, 2)

        def forward(self, x):
            return self.outer(F.relu(self.layer(self.inner(x))))

    model, x = Net().eval(), torch.randn(1, 5, 3)
    found = map_couplings(model, x, whole_heads=True)
    (coupling,) = [c for c in found.couplings if c.whole_heads]
    assert (coupling.protected, coupling.channels) == (None, 4)
    cut(model, found, coupling.blocks[:, 2])
    attention = model.layer.self_attn
    assert (attention.num_heads, attention.embed_dim, attention.head_dim) == (3, 12, 4)
    assert attention.in_proj_weight.shape == (36, 12)
    assert model(x).shape == (1, 5, 2)
