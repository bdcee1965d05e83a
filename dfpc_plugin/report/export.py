"""Scores and couplings as JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.display import csv_text
from dfpc_plugin.files import finite
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.report.couplings import ModelCouplings
from dfpc_plugin.report.summary import CouplingSummary, ModelScore, summarise
from dfpc_plugin.saliency import Saliency

_CSV_HEADER = ("coupling", "layer", "channel", "saliency")
_OF_RANGE, _OF_ONE_CHANNEL = ("lowest", "median", "highest"), ("lowest_channel", "highest_channel")
_COUPLING_HEADER = ("coupling", "name", "units", "blocks", "protected", "tensor", "dim", "groups", "per_unit", "role")


def to_json(score: ModelScore) -> str:
    """Return everything as JSON on one line; numbers read back exactly, and one that is not finite becomes null.

    Keys: `model`, `pretrained`, `ranking`, `input_shapes`, `seconds`; `layers`, the scores of every feed-in layer by
    its name; `couplings`, each with its `index`, `feed_in`, `feed_out`, `width` and `scores` (both null where
    the layers have different widths) and the `range` of its scores.
    """
    content = {
        **_plain(score, "model", "pretrained", "ranking", "input_shapes"),
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
        **_plain(summary.coupling, "feed_in", "feed_out"),
        "width": None if summary.scores is None else len(summary.scores),
        "scores": None if summary.scores is None else summary.scores.tolist(),
        "range": _plain(summary.range, *_OF_RANGE, *([] if summary.mixed else _OF_ONE_CHANNEL)),
    }


def _plain(found: Any, *names: str) -> dict[str, Any]:
    """Some attributes as plain data."""
    return {name: to_plain(getattr(found, name)) for name in names}


def couplings_to_json(found: ModelCouplings) -> str:
    """Return everything but the indices as JSON on one line.

    Keys: `model`, `input_shapes`, `seconds`, `prunable_macs`, `prunable_parameters`; `couplings`,
    each with its `name`, `units`, `blocks`, `width`, `macs`, `protected` (null if it can be pruned),
    `balance`, `feed_in`, `feed_out` and `slices`; of a slice `tensor`, `size` (the tensor's), `dim`,
    `groups`, `role` and `shape`, which is units by indices per unit.
    """
    content = {
        **_plain(found, "model", "input_shapes", "prunable_macs", "prunable_parameters"),
        "seconds": round(found.seconds, 3),
        "couplings": [_described(coupling, found) for coupling in found.couplings],
    }
    return json.dumps(content, allow_nan=False) + "\n"


def couplings_to_csv(found: ModelCouplings) -> str:
    """Return one row per coupling and slice, under a header; `coupling` counts from 1."""
    return csv_text(_COUPLING_HEADER, _rows(found))


def _rows(found: ModelCouplings) -> Iterator[tuple[object, ...]]:
    for index, coupling in enumerate(found.couplings, start=1):
        own = (index, coupling.name, coupling.channels, len(coupling.blocks), coupling.protected or "")
        for piece in coupling.slices:
            yield (*own, piece.tensor, piece.dim, piece.groups, piece.indices.size(1), piece.role)


def _described(coupling: DataFlowCoupling, found: ModelCouplings) -> dict[str, Any]:
    own = _plain(coupling, "name", "width", "macs", "protected", "balance", "feed_in", "feed_out")
    slices = [
        _plain(piece, "tensor", "dim", "groups", "role")
        | {"size": list(found.sizes[piece.tensor]), "shape": list(piece.indices.shape)}
        for piece in coupling.slices
    ]
    return own | {"units": coupling.channels, "blocks": len(coupling.blocks), "slices": slices}
