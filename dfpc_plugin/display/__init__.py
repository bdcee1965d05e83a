"""Format results as text, CSV, HTML for notebooks, and figures. Nothing here prints."""

from dfpc_plugin.display.html import Shown, ShownAsText, as_html
from dfpc_plugin.display.text import (
    TERMINAL_WIDTH,
    Name,
    as_text,
    counted,
    csv_text,
    distinct_names,
    first_and_more,
    number_columns,
    percent,
    plain_table,
    shapes_text,
    took,
)

__all__ = [
    "TERMINAL_WIDTH",
    "Name",
    "Shown",
    "ShownAsText",
    "as_html",
    "as_text",
    "counted",
    "csv_text",
    "distinct_names",
    "first_and_more",
    "number_columns",
    "percent",
    "plain_table",
    "shapes_text",
    "took",
]
