"""Operators of torchvision and losses: what passes, and what stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brute_force import Between
from dfpc_plugin import bgsc, find_couplings, prune
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut

ops = pytest.importorskip("torchvision.ops")
IMAGE = torch.rand(1, 3, 8, 8, dtype=torch.float64)


def test_a_deformable_convolution_is_scored_and_cut_like_a_convolution() -> None:
    """Two groups of inputs have offsets of their own, and keep equally many channels; offsets stay."""
    model = Between(
        lambda m, x: m.out(m.deformed(m.a(x), m.offset(m.a(x))).mean((2, 3))),
        a=nn.Conv2d(3, 8, 1), offset=nn.Conv2d(8, 36, 3, padding=1), deformed=ops.DeformConv2d(8, 6, 3, padding=1),
        out=nn.Linear(6, 2),
    )  # fmt: skip
    couplings = map_couplings(model, IMAGE)
    numbers = {coupling.name: number for number, coupling in enumerate(couplings.couplings) if coupling.feed_in}
    assert "gives positions to" in (couplings.couplings[numbers["offset"]].protected or "")
    assert couplings.couplings[numbers["a"]].blocks.shape == (2, 4)
    units = {numbers["a"]: torch.tensor([1]), numbers["deformed"]: torch.tensor([0, 4])}
    scores = bgsc(model, IMAGE, ranking="expected")
    assert (len(scores["a"]), len(scores["deformed"])) == (8, 6)
    assert error_of_cut(model, couplings, IMAGE, units) < 1e-12


def test_channels_pass_the_pooling_of_regions() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 1.0, 6.0, 6.0]], dtype=torch.float64)
    model = Between(
        lambda m, x: m.out(ops.roi_align(m.a(x), boxes, 3).flatten(1)), a=nn.Conv2d(3, 4, 1), out=nn.Linear(36, 2)
    )
    couplings = map_couplings(model, IMAGE)
    assert error_of_cut(model, couplings, IMAGE, {0: torch.tensor([2])}) < 1e-12
    assert bgsc(model, IMAGE)["a"].min() > 0


LOSSES = {
    "cross entropy": lambda y: F.cross_entropy(y, torch.tensor([1])),
    "mean square": lambda y: F.mse_loss(y, torch.zeros_like(y)),
    "by name": lambda y: F.binary_cross_entropy_with_logits(input=y, target=torch.ones_like(y)),
    "of two outputs": lambda y: F.l1_loss(y, y.flip(1), reduction="none"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_forward_that_returns_a_loss_is_pruned(name: str) -> None:
    def run(m: nn.Module, x: Tensor) -> dict[str, Tensor]:
        y = m.out(m.a(x).mean((2, 3)))
        return {"logits": y, "loss": LOSSES[name](y)}

    model = Between(run, a=nn.Conv2d(3, 8, 1), out=nn.Linear(8, 2))
    reasons = {coupling.name: coupling.protected for coupling in find_couplings(model, IMAGE) if coupling.feed_in}
    assert reasons["a"] is None
    assert "is compared with a target in torch.nn.functional" in (reasons["out"] or "")
    assert prune(model, IMAGE, "ratio=0.5").model.a.out_channels == 4
