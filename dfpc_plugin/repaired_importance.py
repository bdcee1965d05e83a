"""An importance that anticipates repair: what a channel costs after its neighbours stand in for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from dfpc_plugin.computed_weights import layer_of_original
from dfpc_plugin.errors import RepairError
from dfpc_plugin.importance import DFPCImportance, call_of, name_of, remembered
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.repairing.calibration import Calibration
from dfpc_plugin.repairing.elimination import Reader, elimination_costs, readers_of
from dfpc_plugin.repairing.moments import LayerMoments, layer_moments
from dfpc_plugin.repairing.settings import BY_LEAST_SQUARES, Images, Method, RepairSettings
from dfpc_plugin.traced_call import TracedCall

__all__ = ["RepairedImportance", "default_importance", "repaired_in"]

_RIDGE = 0.01


class RepairedImportance(tp.importance.Importance):
    """Score a group's channels by what they cost once the channels that stay stand in for them, as `repair` lets them.

    For every layer that reads a coupling, the covariance of its inputs tells how much of a channel the others do not tell;
    that part, through the layer's weights, is what cannot be repaired. Channels go one after the other, the cheapest first,
    and each time the others stand in, so that of two that are alike only one is cheap. A score is the share of the expected
    squared output of every reader that goes, in multiples of an equal share, added up over readers: on the scale of
    `DFPCImportance`, which also scores what no layer reads, such as attention's queries.

    Covariances are those of images that are made from the model, without data, or of images of yours. Cuts chosen so are for
    models that are repaired: without, DFPCImportance keeps more.

    Attributes:
        settings: What was asked for.
        calibration: The images, once they are there.
    """

    def __init__(
        self,
        how: Method | RepairSettings = "synthetic",
        *,
        images: Images | None = None,
        example_inputs: ExampleInputs | None = None,
    ) -> None:
        """Choose what to look at.

        Args:
            how: "synthetic", or "calibrate" with images of your own; or `RepairSettings`, so that the same images are used
                as for a repair with them.
            images: For "calibrate".
            example_inputs: What to call the model with; by default what the pruner was given.

        Raises:
            RepairError: Settings that cannot be followed, or of another method.
        """
        self.settings = RepairSettings.of(how, images)
        if self.settings.method not in BY_LEAST_SQUARES:
            raise RepairError(f"method={self.settings.method!r} looks at no images; choose 'synthetic' or 'calibrate'.")
        self.example_inputs = example_inputs
        self._unread = DFPCImportance(example_inputs=example_inputs)
        self.calibration = Calibration(self.settings)

    def prepare(self, graph: tp.DependencyGraph, progress: Callable[[float], None]) -> None:
        """Make or take the images before anything is scored, which would do so too, but tell nobody.

        Args:
            graph: Of the model that will be scored.
            progress: Told the share of the images that are there.

        Raises:
            RepairError: No images can be made from the model.
        """
        with evaluating(graph.model):
            self.calibration.batches(graph.model, call_of(graph, self.example_inputs).example_inputs, progress)

    def __call__(self, group: Any) -> Tensor | None:
        """Return one score per root index of `group`, float64 on the root's device, or None.

        Raises:
            RepairError: No images can be made from the model.
            ExampleInputsError: The graph was not built by a pruner and `example_inputs` was not given.
            DFPCError: As `bgsc` raises.
        """
        graph = group._DG
        call = call_of(graph, self.example_inputs)
        key = ("repaired", id(self), *call.signature)
        state, moments = remembered(graph, key, group, lambda: self._moments(graph.model, call))
        roots = group[0].root_idxs
        positions = {root: position for position, root in enumerate(roots)}
        entries: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for item in group.items:
            if not _is_read(item, group):
                continue
            for name in _layers(graph.model, name_of(state, item.dep.target.module, group), moments):
                for root, index in zip(item.root_idxs, item.idxs, strict=True):
                    if root in positions:
                        entries[name][positions[root]].append(index)
        readers: list[Reader] = []
        for name, own in entries.items():
            for found in moments[name]:
                readers += readers_of(found, own, _RIDGE)
        if not readers:
            return self._unread(group)
        device = next(graph.model.parameters()).device
        return elimination_costs(len(roots), readers, device) * len(roots)

    def _moments(self, model: nn.Module, call: TracedCall) -> dict[str, list[LayerMoments]]:
        """Run the model on the images, which are made or taken once."""
        settings = self.settings
        with evaluating(model):
            batches = self.calibration.batches(model, call.example_inputs)
            return layer_moments(model, batches, call.forward_fn, rows=settings.rows, seed=settings.seed)


def default_importance(repair: RepairSettings | None, example_inputs: ExampleInputs) -> DFPCImportance | RepairedImportance:
    """What channels are ranked by where nothing else is asked for: DFPC, or its form that anticipates a repair by least squares."""
    if repair is not None and repair.method in BY_LEAST_SQUARES:
        return RepairedImportance(repair, example_inputs=example_inputs)
    return DFPCImportance()


def repaired_in(importance: Any) -> RepairedImportance | None:
    """Return the importance that looks at images, if `importance` is one or has one as its own `importance`."""
    inner = getattr(importance, "importance", importance)
    return inner if isinstance(inner, RepairedImportance) else None


def _is_read(item: Any, group: Any) -> bool:
    """Whether an item of a group is the inputs of a layer."""
    role = getattr(item.dep, "role", "feed-out")
    return role == "feed-out" and bool(group._DG.is_in_channel_pruning_fn(item.dep.handler))


def _layers(model: nn.Module, name: str | None, moments: dict[str, list[LayerMoments]]) -> list[str]:
    """Names under which a module's matrices over its inputs are known, or the layer that computes its weight from a parameter."""
    if name is None:
        return []
    if name not in moments:
        name = layer_of_original(model, name) or name
    inner = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return [found for found in (name, *(f"{name}.{own}" for own in inner)) if found in moments]
