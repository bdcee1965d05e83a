"""Files that were exported, and how near their outputs are to the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import file_size, milliseconds, percent, significant

__all__ = ["exports"]

_NAMES = ("Size", "Outputs differ by", "Same predictions", "Latency in ONNX Runtime", "Latency in PyTorch")


def exports(record: Field) -> Mapping[str, Any] | None:
    """Return the figures of every file, as far as they are known."""
    files = [
        {
            "name": f"{entry['path'].text()} ({entry['kind'].text()})",
            "figures": [(name, figure) for name, figure in zip(_NAMES, _figures(entry), strict=True) if figure],
            "notes": entry["notes"].texts(),
        }
        for entry in record["exports"].items()
    ]
    return {"files": files} if files else None


def _figures(entry: Field) -> tuple[str, ...]:
    size, difference, same = (entry[key].number() for key in ("bytes", "max_difference", "same_predictions"))
    ours, torch = (entry["latency_ms"][key].number() for key in ("onnxruntime", "torch"))
    return (
        "" if size is None else file_size(size),
        "" if difference is None else f"{significant(difference, 2)} of the largest output",
        "" if same is None else percent(same),
        "" if ours is None else milliseconds(ours),
        "" if torch is None else milliseconds(torch),
    )
