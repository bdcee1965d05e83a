"""One run as one HTML page that needs nothing else: no network, no fonts, no scripts of others."""

from __future__ import annotations

from dfpc_plugin.report.page.field import ReportError
from dfpc_plugin.report.page.render import render_report, write_report

__all__ = ["ReportError", "render_report", "write_report"]
