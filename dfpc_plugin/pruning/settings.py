"""Settings of pruning, apart from the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dfpc_plugin.arguments import named_settings
from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.importance import unwrapped
from dfpc_plugin.plain_data import Checked, Count, Share, within
from dfpc_plugin.selection import Target
from dfpc_plugin.selection.budget_kinds import Counted

Per = Literal["channel", "macs", "params", "latency", "target"]
"""The saving that a ranking divides saliency by; none for "channel"."""


def default_per(importance: Any, target: Target) -> Per:
    """Return the default of `per`.

    Errors at the outputs are divided by the savings that the target counts, by nothing if it counts only channels, and by MACs
    if it counts nothing. Other scores are not divided, as their authors define them.
    """
    if not getattr(unwrapped(importance), "in_output_error", False):
        return "channel"
    counted = [name for name, *_ in target.given(Counted)]
    if counted == ["ratio"]:
        return "channel"
    return "target" if counted else "macs"


@named_settings
@dataclass(frozen=True)
class PruneSettings(Checked, error=PrunerSettingError):
    """What may be pruned, and in which order.

    Attributes:
        per: Divide saliency by the saving before ranking: `channel` (no division), `macs`, `params`, `latency`, or `target`
            for all counts of the target: for each, what is saved as a share of what must be saved, summed. If saliency is an
            error at the outputs, as it is by default, None means `target`: `channel` if it counts channels alone, and `macs`
            if it counts nothing. For other criteria, None means `channel`.
        rescore: Recompute saliency after every such fraction of the channels is removed, such as the paper's 0.01; None to
            compute it once.
        max_ratio: Largest fraction of its channels that a coupling loses.
        min_channels: Smallest number of channels that a layer keeps.
        round_to: Round the remaining channels of pruned couplings to a multiple of this number; None for no rounding.
        ignored_layers: Layers whose outputs are not pruned: modules, parameters, types of modules, names, or shell-style
            patterns.
        coupled: Whether to prune couplings that several layers produce, such as residual streams.
        whole_heads: Remove whole attention heads instead of some dimensions of all heads.
    """

    per: Per | None = None
    rescore: Annotated[float, within(above=0, most=1, hint="give 0.01, say")] | None = None
    max_ratio: Share = 0.9
    min_channels: Count = 2
    round_to: Count | None = None
    ignored_layers: Any = ()
    coupled: bool = True
    whole_heads: bool = False
