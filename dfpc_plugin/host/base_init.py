"""Torch-Pruning's constructor of pruners, with a graph of this package.

`BasePruner.__init__` creates its graph by `DependencyGraph().build_dependency(...)`; no argument or method can replace it.
Replacing the graph afterwards would fail for models that Torch-Pruning cannot trace, and a copy of the constructor would break
with new versions. So the constructor's own code runs in a function of this package, with one global name bound to another
graph. Torch-Pruning's module is not changed.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch_pruning.pruner.algorithms import base_pruner

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.host.graph import DataFlowGraph


def init_with_graph(pruner: Any, graph: Callable[[], DataFlowGraph], **arguments: Any) -> None:
    """Run `BasePruner.__init__` with `graph`, which makes an empty graph, in place of its own graph class.

    Raises:
        DFPCError: This version of Torch-Pruning builds its graph in another way.
    """
    init = base_pruner.BasePruner.__init__
    here = types.SimpleNamespace(DependencyGraph=graph)
    names = {**init.__globals__, "dependency": here, "DependencyGraph": graph}
    own = types.FunctionType(init.__code__, names, init.__name__, init.__defaults__)
    own.__kwdefaults__ = init.__kwdefaults__
    own(pruner, **arguments)
    if not isinstance(pruner.DG, DataFlowGraph):
        raise DFPCError("This version of Torch-Pruning builds its graph in another way; install torch-pruning 1.6.")
