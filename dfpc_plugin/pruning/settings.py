"""How to prune, apart from how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.selection import Target

__all__ = ["Per", "PruneSettings", "default_per"]

Per = Literal["channel", "macs", "params", "latency"]
"""What a ranking divides saliency by: nothing, or what removing the channel saves."""


def default_per(importance: Any, target: Target) -> Per:
    """What a ranking divides saliency by where nothing is asked for.

    Errors at the outputs are divided by what the first budget of the target counts: MACs, parameters, or channels. Where the
    target is about time or accuracy, they are divided by MACs. Other scores are divided by nothing, as their authors have it.
    """
    if not getattr(getattr(importance, "importance", importance), "in_output_error", False):
        return "channel"
    counted: tuple[tuple[float | None, Per], ...] = (
        (target.macs, "macs"),
        (target.params, "params"),
        (target.ratio, "channel"),
    )
    return next((per for budget, per in counted if budget is not None), "macs")


@dataclass(frozen=True)
class PruneSettings:
    """What may go, and in which order.

    Attributes:
        per: What saliency is divided by: `channel` ranks by saliency alone; `macs`, `params` and `latency` by the
            saliency lost for what is saved. None for what the target counts (MACs, parameters or channels; MACs if it is about
            time or accuracy) where saliency is an error at the outputs, as it is by default, and `channel` elsewhere.
        rescore: The share of the channels after which saliency is computed anew on what is left, such as the paper's
            0.01; None to compute it once.
        max_ratio: The share of its channels that any coupling may lose.
        min_channels: What every layer keeps at least.
        round_to: What the number of units that a coupling keeps is a multiple of, where it is cut at all; None for no
            such wish.
        ignored_layers: Layers whose outputs stay: modules, parameters, types of modules, names, or shell-style patterns.
        coupled: Whether couplings that several layers write, such as residual streams, lose channels too.
        whole_heads: Attention loses whole heads rather than dimensions of all of them.
    """

    per: Per | None = None
    rescore: float | None = None
    max_ratio: float = 0.9
    min_channels: int = 2
    round_to: int | None = None
    ignored_layers: Sequence[Any] | str = ()
    coupled: bool = True
    whole_heads: bool = False

    def __post_init__(self) -> None:
        """Raise on settings that cannot be followed.

        Raises:
            PrunerSettingError: Says which.
        """
        if self.per is not None and self.per not in get_args(Per):
            raise PrunerSettingError(f"per={self.per!r} is none of {', '.join(get_args(Per))}; choose one of them.")
        if self.rescore is not None and not 0 < self.rescore <= 1:
            raise PrunerSettingError(f"rescore={self.rescore} is no share of the channels; give 0.01, say, or None.")
        if not 0 <= self.max_ratio <= 1:
            raise PrunerSettingError(f"max_ratio={self.max_ratio} is no share of the channels; give 0 to 1.")
        if self.min_channels < 1:
            raise PrunerSettingError(
                f"min_channels={self.min_channels} would leave layers without channels; give 1 or more."
            )
        if self.round_to is not None and self.round_to < 1:
            raise PrunerSettingError(f"round_to={self.round_to} is no number of channels; give 1 or more, or None.")
