"""`render_report` and `write_report`: a record in, a page out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfpc_plugin.files import require_writable, write_text
from dfpc_plugin.report.page.field import Field, ReportError
from dfpc_plugin.report.page.sections import SECTIONS
from dfpc_plugin.report.page.sections.headline import headline
from dfpc_plugin.report.page.wording import count
from dfpc_plugin.require import require

_FORMAT = 1


def render_report(record: Mapping[str, Any]) -> str:
    """Return the record of a run as one HTML page, which loads nothing from anywhere.

    Args:
        record: As JSON holds it. Every part may be absent, and is then left out; keys that are not known are
            ignored.

    Returns:
        The text of the page; the same record gives the same page.

    Raises:
        ReportError: Something in the record is not what its place is for; the message says where.
        MissingDependencyError: jinja2 is not installed.
    """
    environment = templates()
    field = Field(record)
    form = field["format"].number()
    if form not in (None, _FORMAT):
        raise ReportError(
            f"Cannot show this record: it is of format {field['format'].anything()}, and this version of dfpc_plugin "
            f"knows format {_FORMAT}; upgrade dfpc_plugin."
        )
    built = [(section, section.build(field)) for section in SECTIONS]
    page: str = environment.get_template("page.html").render(
        head=headline(field), sections=[(section, view) for section, view in built if view is not None]
    )
    return page


def templates() -> Any:
    """Return the environment of the templates, which escapes all that is put into them."""
    jinja2 = require("jinja2", "jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "thousands": count}
    return environment


def _breakable(path: str) -> Any:
    """Let a long dotted path go on in the next line behind a dot, and nowhere else."""
    markup = require("markupsafe", "jinja2", "report")
    return markup.Markup(".<wbr>").join(path.split("."))


def write_report(record: Mapping[str, Any], path: str | Path) -> Path:
    """Write the record of a run as one HTML page, whole or not at all, and return `path`.

    Raises:
        OutputError: There can be no file at `path`.
        DFPCError: As `render_report` raises.
    """
    path = Path(path)
    require_writable(path)
    return write_text(path, render_report(record))
