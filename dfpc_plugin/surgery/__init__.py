"""Surgery: remove channels from a model, whole or not at all."""

from __future__ import annotations

from dfpc_plugin.surgery.cut import cut

__all__ = ["cut"]
