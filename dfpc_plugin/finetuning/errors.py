"""What goes wrong with fine-tuning."""

from __future__ import annotations

from dfpc_plugin.errors import DFPCError

__all__ = ["CheckpointError", "FinetuneError"]


class FinetuneError(DFPCError, ValueError):
    """A model cannot be fine-tuned in the way that was asked for; it is as it was."""


class CheckpointError(FinetuneError):
    """A run cannot be saved, or cannot be taken up where it was saved."""
