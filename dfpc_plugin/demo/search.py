"""Find, for any criterion, the pruning ratio at which the network costs what was asked for."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import nn

from dfpc_plugin.criteria import Importance
from dfpc_plugin.demo.measure import count_macs
from dfpc_plugin.errors import DFPCError

__all__ = ["BudgetError", "Cut", "CutSearch"]

STEPS = 512
"""Ratios are multiples of 1/512: about one channel of the demo's network."""
STRIDE = 32


class BudgetError(DFPCError):
    """No pruning ratio reaches the asked cost."""


@dataclass(frozen=True)
class Cut:
    """A network pruned once, at one ratio.

    Attributes:
        ratio: The `pruning_ratio` Torch-Pruning was given.
        model: The pruned network.
        macs: Its MACs for the example input.
    """

    ratio: float
    model: nn.Module
    macs: int


class CutSearch:
    """Cuts of one network by one criterion, each made once however often it is asked for."""

    def __init__(
        self,
        model: nn.Module,
        example_input: torch.Tensor,
        importance: Importance,
        ignored_layers: tuple[str, ...] = (),
        *,
        global_ranking: bool = True,
        seed: int = 0,
    ) -> None:
        """Prepare to cut copies of `model`, which itself stays as it is.

        Args:
            model: The network to prune.
            example_input: What it takes.
            importance: The criterion.
            ignored_layers: Names of the layers whose outputs must stay, such as the classifier.
            global_ranking: Whether channels of different layers compete; if not, every layer loses the same share.
            seed: Seed for criteria that draw random numbers; every cut draws the same ones.
        """
        self._model = model
        self._example_input = example_input
        self._importance = importance
        self._ignored_layers = ignored_layers
        self._global_ranking = global_ranking
        self._seed = seed
        self._full = count_macs(model, example_input)
        self._cuts = {0: Cut(0.0, model, self._full)}

    def within(self, budget: float) -> Cut:
        """Return the most expensive cut found that costs at most the share `budget` of the network's MACs.

        More ratio is not always less cost: Torch-Pruning skips a layer that would lose every channel. So this walks
        up to the first ratio that fits in coarse steps, and bisects between it and the one before.

        Raises:
            BudgetError: No ratio gets that low.
        """
        fits = next((step for step in range(STRIDE, STEPS, STRIDE) if self._share(step) <= budget), None)
        if fits is None:
            least = min(self._share(step) for step in self._cuts)
            raise BudgetError(
                f"No pruning ratio brings the network down to {budget:.0%} of its MACs with "
                f"{type(self._importance).__name__}; the least reached is {least:.0%}. Ask for a larger budget."
            )
        too_dear = fits - STRIDE
        while fits - too_dear > 1:
            middle = (fits + too_dear) // 2
            if self._share(middle) <= budget:
                fits = middle
            else:
                too_dear = middle
        return max((cut for cut in self._cuts.values() if cut.macs <= budget * self._full), key=lambda cut: cut.macs)

    def _share(self, step: int) -> float:
        """Return the share of the MACs that is left at ratio `step / STEPS`."""
        if step not in self._cuts:
            self._cuts[step] = self._cut(step / STEPS)
        return self._cuts[step].macs / self._full

    def _cut(self, ratio: float) -> Cut:
        model = copy.deepcopy(self._model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            pruner = tp.MetaPruner(
                model,
                self._example_input,
                importance=self._importance,
                global_pruning=self._global_ranking,
                pruning_ratio=ratio,
                ignored_layers=[model.get_submodule(name) for name in self._ignored_layers],
                # Torch-Pruning fills these in place, and its defaults are dicts shared by all pruners.
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
        return Cut(ratio, model, count_macs(model, self._example_input))
