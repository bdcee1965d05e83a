"""Report progress, and show it as bars."""

from dfpc_plugin.progress.displays import TerminalBars
from dfpc_plugin.progress.shown import Phases, Progress, shown, shown_share, silenced, switched_off

__all__ = ["Phases", "Progress", "TerminalBars", "shown", "shown_share", "silenced", "switched_off"]
