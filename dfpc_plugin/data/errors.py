"""`DataError`."""

from __future__ import annotations

from dfpc_plugin.errors import DFPCError


class DataError(DFPCError, ValueError):
    """Images are missing, cannot be read, or do not fit the model."""
