"""The sections of the page, in their order: each makes, of a record, what its template shows, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.accuracy import accuracy, tradeoff
from dfpc_plugin.report.page.sections.figures import exports, figures
from dfpc_plugin.report.page.sections.provenance import notes, provenance, recipe
from dfpc_plugin.report.page.sections.repair import finetuning, repair
from dfpc_plugin.report.page.sections.saliency import saliency
from dfpc_plugin.report.page.sections.widths import protected, widths

__all__ = ["SECTIONS", "Section"]


@dataclass(frozen=True)
class Section:
    """A section of the page; `build` returns what its template shows, None where the record has nothing for it."""

    name: str
    title: str
    build: Callable[[Field], Mapping[str, Any] | None]


SECTIONS = (
    Section("figures", "Before and after", figures),
    Section("accuracy", "Accuracy", accuracy),
    Section("exports", "Exported files", exports),
    Section("tradeoff", "Accuracy against cost", tradeoff),
    Section("widths", "Channels of the layers", widths),
    Section("saliency", "Saliency", saliency),
    Section("protected", "What was protected", protected),
    Section("repair", "Repair", repair),
    Section("finetuning", "Fine-tuning", finetuning),
    Section("notes", "Notes", notes),
    Section("recipe", "Recipe", recipe),
    Section("provenance", "How this came about", provenance),
)
