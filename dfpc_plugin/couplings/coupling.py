"""One coupling, as users get it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Axis, Dimension


@dataclass(frozen=True, eq=False)
class Slice(Dimension):
    """The indices that a coupling holds in one dimension of a parameter or buffer.

    Attributes:
        tensor: Path of the parameter or buffer, as in the state dict.
        dim: The dimension.
        groups: Above one for the weight of a grouped convolution, whose dimension holds one group's channels: an index is then
            `group * size + position`.
        role: "feed-in" where a layer writes the channels, "feed-out" where it reads them, "transform" elsewhere.
        indices: `(units, indices per unit)`.
    """

    indices: Tensor

    def __repr__(self) -> str:
        """Show sizes instead of indices."""
        units, each = self.indices.shape
        return f"Slice({self.tensor!r}, dim={self.dim}, {units} units of {each} indices, {self.role})"


@dataclass(frozen=True, eq=False)
class DataFlowCoupling:
    """Channels that can only be pruned together, in every parameter they pass through.

    Attributes:
        name: The first layer that writes it.
        blocks: `(blocks, units)` numbers of the channels. One column is a unit, the least that can be pruned: one channel of
            every block.
        balance: Why there are blocks: the operators that need equally many channels of each.
        protected: Why it must not be pruned; None if it can be.
        macs: MACs of the layers that read or write it, as a share of the model's.
        axes: Labelled dimensions of parameters and buffers that hold its channels.
        whole_heads: Whether its units are whole attention heads.
    """

    name: str
    blocks: Tensor
    balance: tuple[str, ...]
    protected: str | None
    macs: float
    axes: tuple[Axis, ...]
    whole_heads: bool = False

    @property
    def channels(self) -> int:
        """The number of units."""
        return self.blocks.size(1)

    @property
    def width(self) -> int:
        """The number of channels in all blocks."""
        return self.blocks.numel()

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """The indices of the units in every parameter and dimension."""
        last = int(max(self.blocks.max(), *(axis.channels.max() for axis in self.axes)))
        nothing = torch.zeros(last + 1, dtype=torch.bool, device="cpu")
        return tuple(
            Slice(axis.tensor, axis.dim, axis.groups, axis.role, axis.positions(self.blocks, nothing))
            for axis in self.axes
        )

    def units_left(self, removed: Tensor) -> Tensor:
        """Return the columns of `blocks` without `removed` channels, `(channels,)` of bool, in order."""
        return (~removed[self.blocks]).all(0).nonzero().squeeze(1)

    @property
    def feed_in(self) -> tuple[str, ...]:
        """Layers that write the channels."""
        return tuple(dict.fromkeys(axis.layer for axis in self.axes if axis.role == "feed-in"))

    @property
    def feed_out(self) -> tuple[str, ...]:
        """Layers that read the channels."""
        return tuple(dict.fromkeys(axis.layer for axis in self.axes if axis.role == "feed-out"))

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that hold its channels, in the order of the model."""
        return tuple(dict.fromkeys(axis.layer for axis in self.axes))

    def __repr__(self) -> str:
        """Summarise in one line."""
        state = "prunable" if self.protected is None else f"protected: {self.protected}"
        return f"DataFlowCoupling({self.name!r}, {self.width} channels, {len(self.layers)} layers, {state})"

    def __str__(self) -> str:
        """Describe name, width, layers, and why it is protected if it is."""
        blocks = f" in {len(self.blocks)} blocks" if len(self.blocks) > 1 else ""
        lines = [
            f"{self.name}: {self.width} channels{blocks}, {self.macs:.1%} of the MACs",
            f"  produced by {_listed(self.feed_in)}",
            f"  consumed by {_listed(self.feed_out)}",
        ]
        lines += [f"  kept equal: {note}" for note in self.balance[:3]]
        if self.protected:
            lines.append(f"  protected: {self.protected}")
        return "\n".join(lines)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4]) or "nothing"
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
