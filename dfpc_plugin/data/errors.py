"""What is wrong with data."""

from __future__ import annotations

from dfpc_plugin.errors import DFPCError

__all__ = ["DataError"]


class DataError(DFPCError, ValueError):
    """Images that are not there, cannot be read, or are not what the model takes."""
