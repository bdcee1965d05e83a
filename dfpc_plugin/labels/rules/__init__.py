"""Label rules by kind; importing this package registers them."""

from __future__ import annotations

from dfpc_plugin.labels.rules import (
    attention,
    elementwise,
    indexing,
    joining,
    layers,
    moves,
    normalization,
    products,
    recurrent,
    reductions,
    shapes,
    spatial,
)

__all__ = [
    "attention",
    "elementwise",
    "indexing",
    "joining",
    "layers",
    "moves",
    "normalization",
    "products",
    "recurrent",
    "reductions",
    "shapes",
    "spatial",
]
