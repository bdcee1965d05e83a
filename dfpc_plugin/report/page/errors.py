"""The error of a record that cannot be shown."""

from __future__ import annotations

from dfpc_plugin.errors import DFPCError

__all__ = ["ReportError"]


class ReportError(DFPCError, ValueError):
    """A record holds something that is not what its place is for."""
