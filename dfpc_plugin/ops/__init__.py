"""One record per operator, by kind; importing this package fills the table."""

from dfpc_plugin.ops import (  # noqa: F401
    arithmetic,
    attention,
    convolution,
    fourier,
    indexing,
    joining,
    linear,
    losses,
    moves,
    normalization,
    pointwise,
    pooling,
    products,
    recurrent,
    reduction,
    shape,
    vision,
    writing,
)
from dfpc_plugin.ops.record import composed, rule

__all__ = ["composed", "rule"]
