"""How results look in notebooks: the report's own headline, bars and charts, in a frame of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfpc_plugin.artifact import Manifest
from dfpc_plugin.couplings import Couplings
from dfpc_plugin.display import as_html
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.finetuning import FinetuneResult, ScheduleResult
from dfpc_plugin.layers import LayerTable
from dfpc_plugin.pruning import PruneResult
from dfpc_plugin.record import RunRecord
from dfpc_plugin.repairing import RepairResult
from dfpc_plugin.report.page import ReportError
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.render import templates
from dfpc_plugin.report.page.sections import SECTIONS
from dfpc_plugin.report.page.sections.headline import headline
from dfpc_plugin.wrappers import HoldsModel

_SHOWN = ("exports", "accuracy", "widths", "repair", "finetuning", "notes")
"""Sections of the report that a notebook shows; the others are for the page."""


def record_view(record: Mapping[str, Any] | None, title: str = "") -> str | None:
    """Return the record of a run, or a part of one, as HTML for a notebook; None where it cannot be shown."""
    if not record:
        return None
    field = Field(record)
    try:
        built = [(section, section.build(field)) for section in SECTIONS if section.name in _SHOWN]
        html: str = (
            templates()
            .get_template("notebook.html")
            .render(
                title=field["model"]["name"].text() or title,
                head=headline(field),
                sections=[(section, view) for section, view in built if view is not None],
            )
        )
    except (MissingDependencyError, ReportError):  # a notebook shows the text then
        return None
    return html


def _name(result: HoldsModel) -> str:
    return type(result.model).__name__


@as_html.register
def _(result: PruneResult) -> str | None:
    record = RunRecord()
    record.add_pruning(result.to_json())
    return record_view(record.to_json(), _name(result))


@as_html.register
def _(result: ScheduleResult) -> str | None:
    record = RunRecord(finetune={key: value for key, value in result.to_json().items() if key != "pruning"})
    record.add_pruning(result.pruning.to_json())
    return record_view(record.to_json(), _name(result))


as_html.register(FinetuneResult, lambda result: record_view({"finetune": result.to_json()}, _name(result)))
as_html.register(RepairResult, lambda result: record_view({"prune": {"repair": result.to_json()}}, _name(result)))
as_html.register(LayerTable, lambda layers: record_view({"layers": layers.to_json()}))
as_html.register(Manifest, lambda manifest: record_view(manifest.record, manifest.spec.name))
as_html.register(Couplings, lambda couplings: f"<p>{couplings.summary}</p>{couplings.plot()}")
