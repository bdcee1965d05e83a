"""The operator table: one record per operator. Importing this package fills it."""

from dfpc_plugin.ops.record import composed, rule
from dfpc_plugin.tracing.operator import Convention, process_wide, registered_rules, rule_scope

with process_wide():  # these rules hold everywhere, even if they are first imported inside `rule_scope`
    from dfpc_plugin.ops import (  # noqa: F401
        arithmetic,
        attention,
        compositions,
        convolution,
        fourier,
        indexing,
        joining,
        linear,
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

__all__ = ["Convention", "composed", "registered_rules", "rule", "rule_scope"]
