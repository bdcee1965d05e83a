"""Files that were exported, and how near their outputs are to the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import file_size, milliseconds, percent, significant

__all__ = ["exports"]

_NAMES = ("File", "Size", "Outputs differ by", "Same predictions", "Latency", "In PyTorch")


def exports(record: Field) -> Mapping[str, Any] | None:
    """Return a row per file, and the columns that have figures."""
    rows = [_row(entry) for entry in record["exports"].items()]
    if not rows:
        return None
    used = [column for column in range(len(_NAMES)) if column == 0 or any(row[column] for row in rows)]
    return {
        "names": [_NAMES[column] for column in used],
        "rows": [[row[column] for column in used] for row in rows],
        "notes": [note for entry in record["exports"].items() for note in entry["notes"].texts()],
    }


def _row(entry: Field) -> tuple[str, ...]:
    size, difference, same = (entry[key].number() for key in ("bytes", "max_difference", "same_predictions"))
    ours, torch = (entry["latency_ms"][key].number() for key in ("onnxruntime", "torch"))
    return (
        f"{entry['path'].text()} ({entry['kind'].text()})",
        "" if size is None else file_size(size),
        "" if difference is None else significant(difference, 2),
        "" if same is None else percent(same),
        "" if ours is None else milliseconds(ours),
        "" if torch is None else milliseconds(torch),
    )
