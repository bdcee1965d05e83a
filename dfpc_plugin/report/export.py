"""Scores as JSON and CSV."""

from __future__ import annotations

import json
from typing import Any

from dfpc_plugin.display import csv_text
from dfpc_plugin.files import finite
from dfpc_plugin.report.score import ModelScore
from dfpc_plugin.report.summary import CouplingSummary, ScoreRange, summarise
from dfpc_plugin.saliency import Saliency

__all__ = ["to_csv", "to_json"]

_CSV_HEADER = ("coupling", "layer", "channel", "saliency")


def to_json(score: ModelScore) -> str:
    """Return everything as JSON on one line; numbers read back exactly, and one that is not finite becomes null.

    Keys: `model`, `pretrained`, `ranking`, `input_shapes`, `seconds`; `layers`, the scores of every feed-in layer by
    its name; `couplings`, each with its `index`, `feed_in`, `feed_out`, `width` and `scores` (both null where
    the layers have different widths) and the `range` of its scores.
    """
    content = {
        "model": score.model,
        "pretrained": score.pretrained,
        "ranking": score.ranking,
        "input_shapes": [list(shape) for shape in score.input_shapes],
        "seconds": round(score.seconds, 3),
        "layers": {layer: values.tolist() for layer, values in score.saliency.items()},
        "couplings": [_coupling(summary) for summary in summarise(score.saliency)],
    }
    return json.dumps(finite(content), allow_nan=False) + "\n"


def to_csv(saliency: Saliency) -> str:
    """Return one row per layer and channel, under a header; `coupling` counts from 1, `channel` from 0."""
    rows = (
        (index, layer, channel, value)
        for index, coupling in enumerate(saliency.couplings, start=1)
        for layer in coupling.feed_in
        for channel, value in enumerate(saliency[layer].tolist())
    )
    return csv_text(_CSV_HEADER, rows)


def _coupling(summary: CouplingSummary) -> dict[str, Any]:
    return {
        "index": summary.index,
        "feed_in": list(summary.coupling.feed_in),
        "feed_out": list(summary.coupling.feed_out),
        "width": None if summary.scores is None else len(summary.scores),
        "scores": None if summary.scores is None else summary.scores.tolist(),
        "range": _range(summary.range, channels=not summary.mixed),
    }


def _range(values: ScoreRange, channels: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"lowest": values.lowest, "median": values.median, "highest": values.highest}
    if channels:
        content |= {"lowest_channel": values.lowest_channel, "highest_channel": values.highest_channel}
    return content
