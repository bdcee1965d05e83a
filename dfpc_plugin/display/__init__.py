"""Format results as text, CSV, HTML for notebooks, and figures. Nothing here prints."""

from dfpc_plugin.display.html import Shown, as_html
from dfpc_plugin.display.text import (
    TERMINAL_WIDTH,
    Name,
    as_text,
    counted,
    csv_text,
    first_and_more,
    number_columns,
    plain_table,
)

__all__ = [
    "TERMINAL_WIDTH",
    "Name",
    "Shown",
    "as_html",
    "as_text",
    "counted",
    "csv_text",
    "first_and_more",
    "number_columns",
    "plain_table",
]
