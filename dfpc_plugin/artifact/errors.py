"""What can be wrong with an artifact."""

from __future__ import annotations

from dfpc_plugin.errors import DFPCError

__all__ = ["ArtifactError", "UnsavableModelError"]


class ArtifactError(DFPCError):
    """A pruned model cannot be written or read; the message names the file or the module."""


class UnsavableModelError(ArtifactError):
    """A model holds something that cannot be written as plain data, or is not what its description builds."""
