"""One rule per operator, by kind; importing this package fills the registry."""

from dfpc_plugin.flow.rules import (  # noqa: F401
    attention,
    elementwise,
    linear,
    normalization,
    pooling,
    recurrent,
    shape,
)
