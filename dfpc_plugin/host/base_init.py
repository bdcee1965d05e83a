"""Torch-Pruning's constructor of pruners, on a graph of ours.

`BasePruner.__init__` makes its graph itself, as `DependencyGraph().build_dependency(...)`, and takes no other: there is no argument
and no method to override. To let it trace the model and to replace the graph afterwards fails for every model that
Torch-Pruning cannot trace, and to write the constructor anew would break with each of its versions. So its own code runs, with
one global name bound to our graph, in a function of ours: Torch-Pruning's module is not changed.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch_pruning.pruner.algorithms import base_pruner

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.host.graph import DataFlowGraph

__all__ = ["init_with_graph"]


def init_with_graph(pruner: Any, graph: Callable[[], DataFlowGraph], **arguments: Any) -> None:
    """Run `BasePruner.__init__`, where the name by which it builds its graph means `graph`.

    Args:
        pruner: What is made.
        graph: Makes an empty graph.
        **arguments: The constructor's.

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
