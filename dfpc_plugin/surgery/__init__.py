"""Surgery: remove channels from a model, whole or not at all."""

from __future__ import annotations

from dfpc_plugin.surgery.cut import cut
from dfpc_plugin.surgery.probe import protect_what_breaks

__all__ = ["cut", "protect_what_breaks"]
