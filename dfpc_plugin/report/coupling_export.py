"""Couplings as JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dfpc_plugin.couplings import DataFlowCoupling, Slice
from dfpc_plugin.display import csv_text
from dfpc_plugin.report.couplings import ModelCouplings

__all__ = ["couplings_to_csv", "couplings_to_json"]

_CSV_HEADER = (*("coupling", "name", "units", "blocks", "protected"), *("tensor", "dim", "groups", "per_unit", "role"))


def couplings_to_json(found: ModelCouplings) -> str:
    """Return everything but the indices as JSON on one line.

    Keys: `model`, `input_shapes`, `seconds`, `prunable_macs`, `prunable_parameters`; `couplings`,
    each with its `name`, `units`, `blocks`, `width`, `macs`, `protected` (null if it can be pruned),
    `balance`, `feed_in`, `feed_out` and `slices`; of a slice `tensor`, `size` (the tensor's), `dim`,
    `groups`, `role` and `shape`, which is units by indices per unit.
    """
    content = {
        "model": found.model,
        "input_shapes": [list(shape) for shape in found.input_shapes],
        "seconds": round(found.seconds, 3),
        "prunable_macs": found.prunable_macs,
        "prunable_parameters": found.prunable_parameters,
        "couplings": [_coupling(coupling, found) for coupling in found.couplings],
    }
    return json.dumps(content, allow_nan=False) + "\n"


def couplings_to_csv(found: ModelCouplings) -> str:
    """Return one row per coupling and slice, under a header; `coupling` counts from 1."""
    return csv_text(_CSV_HEADER, _rows(found))


def _rows(found: ModelCouplings) -> Iterator[tuple[object, ...]]:
    for index, coupling in enumerate(found.couplings, start=1):
        own = (index, coupling.name, coupling.channels, len(coupling.blocks), coupling.protected or "")
        for piece in coupling.slices:
            yield (*own, piece.tensor, piece.dim, piece.groups, piece.indices.size(1), piece.role)


def _coupling(coupling: DataFlowCoupling, found: ModelCouplings) -> dict[str, Any]:
    return {
        "name": coupling.name,
        "units": coupling.channels,
        "blocks": len(coupling.blocks),
        "width": coupling.width,
        "macs": coupling.macs,
        "protected": coupling.protected,
        "balance": list(coupling.balance),
        "feed_in": list(coupling.feed_in),
        "feed_out": list(coupling.feed_out),
        "slices": [_slice(piece, found) for piece in coupling.slices],
    }


def _slice(piece: Slice, found: ModelCouplings) -> dict[str, Any]:
    return {
        "tensor": piece.tensor,
        "size": list(found.sizes[piece.tensor]),
        "dim": piece.dim,
        "groups": piece.groups,
        "role": piece.role,
        "shape": list(piece.indices.shape),
    }
