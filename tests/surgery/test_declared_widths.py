"""Widths that modules keep for their own methods, such as those that fuse branches, say after a cut what is there."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.surgery import cut


class RepBlock(nn.Module):
    """Three branches, which `fuse` makes one convolution of; it believes the block's own integers."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = inputs, outputs, groups
        self.hidden = 4 * outputs
        self.wide = nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, groups=groups), nn.BatchNorm2d(outputs))
        self.narrow = nn.Sequential(nn.Conv2d(inputs, outputs, 1, groups=groups), nn.BatchNorm2d(outputs))
        self.gate = nn.Sequential(nn.Conv2d(outputs, self.hidden, 1), nn.ReLU(), nn.Conv2d(self.hidden, outputs, 1))
        self.fused: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x) + self.narrow(x) if self.fused is None else self.fused(x)
        return (x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()).relu()

    def fuse(self) -> None:
        fused = nn.Conv2d(self.in_channels, self.out_channels, 3, 1, 1, groups=self.groups)
        kernels, biases = [], []
        for conv, norm in (self.wide, self.narrow):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            kernel = F.pad(conv.weight, (1,) * 4) if conv.kernel_size == (1, 1) else conv.weight
            kernels.append(kernel * scale.view(-1, 1, 1, 1))
            biases.append(norm.bias + (conv.bias - norm.running_mean) * scale)
        fused.load_state_dict({"weight": sum(kernels), "bias": sum(biases)})
        self.fused = fused


class Adapter(nn.Module):
    """A layer with a low-rank update, which has the widths of the layer that it wraps."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base, self.in_features, self.out_features, self.rank = base, base.in_features, base.out_features, rank
        self.down, self.up = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def settled(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, start in ((module.running_mean, -0.25), (module.running_var, 0.75), (module.weight.data, 0.75)):
                tensor.copy_(start + 0.5 * torch.rand(len(tensor)))
    return model.eval()


def test_branches_are_fused_after_a_cut() -> None:
    torch.manual_seed(0)
    model = settled(nn.Sequential(
        nn.Conv2d(3, 16, 1), RepBlock(16, 16), RepBlock(16, 16, groups=16), RepBlock(16, 24), nn.Conv2d(24, 4, 1)
    ))  # fmt: skip
    x = torch.rand(2, 3, 8, 8)
    pruned = dfpc.prune(model, x, "macs=0.5").model
    for block in (pruned[1], pruned[2], pruned[3]):
        conv = block.wide[0]
        assert (block.in_channels, block.out_channels, block.groups) == (
            conv.in_channels,
            conv.out_channels,
            conv.groups,
        )
        assert block.hidden == block.gate[0].out_channels < 64 or block.gate[0].out_channels in (64, 96)
    assert pruned[1].in_channels != pruned[1].out_channels or pruned[3].in_channels < 16
    before = pruned(x)
    for block in (pruned[1], pruned[2], pruned[3]):
        block.fuse()
    assert torch.allclose(pruned(x), before, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ("mobileone_s0", "ghostnetv3_050") if timm.is_model(name)])
def test_timm_fuses_its_branches_after_a_cut(name: str) -> None:
    torch.manual_seed(0)
    model, x = settled(timm.create_model(name)), torch.rand(1, 3, 64, 64)
    pruned = dfpc.prune(model, x, "macs=0.6").model
    with torch.no_grad():
        before, after = pruned(x), reparameterize_model(pruned)(x)
    assert (before - after).abs().max() < 1e-4 * before.abs().max()


def test_adapters_state_the_widths_of_what_they_wrap_also_after_replay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Adapter(nn.Linear(6, 20)), nn.ReLU(), Adapter(nn.Linear(20, 20)), nn.Linear(20, 3))
    x = torch.rand(2, 6)
    result = dfpc.prune(copy.deepcopy(model), x, "ratio=0.4")
    for found in (result.model, dfpc.replay(model, x, result.removed)):
        for layer in (found[0], found[2]):
            assert (layer.in_features, layer.out_features) == (layer.base.in_features, layer.base.out_features)
        assert (found[0].in_features, found[0].rank) == (6, 2) and found[0].out_features < 20 > found[2].out_features


class Scaled(nn.Module):
    """Keeps widths that mean something to its forward, or nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.dim, self.features, self.window, self.out_features = 8, 7, 8, 8

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * math.sqrt(self.dim))


def test_numbers_that_the_forward_reads_or_that_state_nothing_stay() -> None:
    model, x = Scaled(), torch.rand(1, 4)
    couplings = map_couplings(model, x)
    (coupling,) = [c for c in couplings.couplings if c.protected is None]
    cut(model, couplings, coupling.blocks[0, :3])
    assert model.first.out_features == 5
    assert (model.dim, model.features, model.window) == (8, 7, 8)


class Unequal(nn.Module):
    """Two layers that start equally wide and do not have to stay so."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last, self.channels = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 2), 8

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.left(x), self.right(x)], -1))


@pytest.mark.parametrize(("counts", "stated"), [((3, 3), 5), ((3, 1), 8)])
def test_a_width_that_is_true_of_one_layer_only_stays(counts: tuple[int, int], stated: int) -> None:
    model, x = Unequal(), torch.rand(1, 4)
    couplings = map_couplings(model, x)
    free = [c for c in couplings.couplings if c.protected is None]
    cut(model, couplings, torch.cat([c.blocks[0, :n] for c, n in zip(free, counts, strict=True)]))
    assert model.channels == stated
