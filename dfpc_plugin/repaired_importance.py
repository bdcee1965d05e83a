"""An importance that anticipates repair: the error that remains after the other channels compensate for a pruned one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch_pruning as tp
from torch import Tensor, nn

from dfpc_plugin.analyses.bounds import Bounds
from dfpc_plugin.computed_weights import layer_of_original
from dfpc_plugin.errors import RepairError
from dfpc_plugin.importance import (
    DFPCImportance,
    call_of,
    flowed,
    keep,
    name_of,
    remembered,
    require_brackets,
    require_ranking,
    unwrapped,
)
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.repairing.elimination import Reader, Sensitivity, elimination_costs, readers_of, sensitivities
from dfpc_plugin.repairing.inputs import Calibration
from dfpc_plugin.repairing.moments import LayerMoments, NoiseStatistics, layer_moments, statistics_on_noise
from dfpc_plugin.repairing.settings import METHODS, Images, Method, RepairSettings
from dfpc_plugin.saliency import followed
from dfpc_plugin.trace import Flow
from dfpc_plugin.traced_call import TracedCall

_SENSITIVITIES, _NOISE = "sensitivities", "_dfpc_noise"
_RIDGE, _RIDGE_OF_IMAGES = 0.3, 0.01
"""Ridge added to covariances, in multiples of the mean variance, so that correlations are trusted less.

For errors at the outputs of EfficientNet-Lite0, at 0.8 of the MACs, the smaller one loses 20 points with noise and 50 with 128
photographs. For shares of every reader on images, the smaller one is better on CIFAR ResNets.
"""
AnticipatedRanking = Literal["output", "expected"]
"""How scores of different couplings compare; see `RepairedImportance`."""


class RepairedImportance(tp.importance.Importance):
    """Score a group's channels by the error that remains when the other channels replace them, as in `repair`.

    For every layer that reads a coupling, the covariance of its inputs determines which part of a channel the other channels
    cannot predict. That part, multiplied by the layer's weights, is the error that repair cannot remove. Channels are removed
    one by one, the cheapest first, and their error is recomputed each time: of two similar channels only one is cheap, and the
    last ones of a layer are expensive.

    Scores of different couplings compare like those of `DFPCImportance` with the same ranking, which also scores couplings
    that no layer reads, such as attention's queries:

    - `output`: shares of the variance of the model's outputs. `prune` uses it with a repair that uses covariances.
    - `expected` (default): shares of the expected squared output of every reading layer, in multiples of an equal share,
      summed over these layers; for Torch-Pruning's pruners, which do not divide by costs.

    Covariances are measured on noise, on images synthesised from the model, or on images of the user. Where noise is not
    possible, as for text models, `DFPCImportance` scores everything. The scores are meant for models that are repaired after
    pruning.

    Attributes:
        settings: The repair settings.
        calibration: The images; None for noise.
    """

    def __init__(
        self,
        how: Method | RepairSettings = "synthetic",
        *,
        images: Images | None = None,
        example_inputs: ExampleInputs | None = None,
        ranking: AnticipatedRanking = "expected",
    ) -> None:
        """Choose the data for covariances.

        Args:
            how: "merge" for noise, "synthetic", or "calibrate" with your own images; or `RepairSettings`, to use the same
                images as a repair with them.
            images: For "calibrate".
            example_inputs: Inputs for the model; by default those of the pruner.
            ranking: How scores of different couplings compare.

        Raises:
            DFPCError: The ranking is unknown.
            RepairError: The settings are invalid, or their method uses no covariances.
        """
        require_brackets(type(self).__name__, how)
        self.settings = RepairSettings.of(how, images)
        if not self.settings.how.anticipated:
            option = f"{'how' if isinstance(how, str) else 'method'}={self.settings.method!r}"
            raise RepairError(f"{option} looks at no covariances; choose one of {', '.join(_anticipated())}.")
        require_ranking(ranking, get_args(AnticipatedRanking))
        self.ranking = ranking
        self.example_inputs = None if example_inputs is None else as_inputs(example_inputs)
        self._unread = DFPCImportance(ranking, example_inputs=example_inputs)
        self.calibration = Calibration(self.settings) if self.settings.how.by_images else None
        by_shares_on_images = ranking == "expected" and self.calibration is not None
        self._ridge = _RIDGE_OF_IMAGES if by_shares_on_images else _RIDGE

    @property
    def label(self) -> str:
        """Its name in reports."""
        return f"DFPC, {self.ranking}, after repair by {self.settings.method}"

    def prepare(self, graph: tp.DependencyGraph, progress: Callable[[float], None]) -> None:
        """Make or load the images before scoring; `progress` is called with the fraction that is done.

        Raises:
            RepairError: No images can be made from the model.
        """
        if self.calibration is not None:
            with evaluating(graph.model):
                self.calibration.batches(graph.model, call_of(graph, self.example_inputs).example_inputs, progress)

    def __call__(self, group: Any) -> Tensor | None:
        """Return one score per root index of `group`, float64 on the model's device, or None.

        Raises:
            RepairError: No images can be made from the model.
            ExampleInputsError: The graph was not built by a pruner and `example_inputs` was not given.
            DFPCError: As `bgsc` raises.
        """
        graph = group._DG
        call = call_of(graph, self.example_inputs)
        key = ("repaired", id(self), *call.signature)
        state, moments = remembered(graph, key, group, lambda: self._moments(graph, call))
        known: dict[str, Sensitivity] = {}
        if self.in_output_error:
            key = (_SENSITIVITIES, *call.signature)
            known = remembered(graph, key, group, lambda: self._sensitivities(graph.model, call))[1]
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
            readers += readers_of(moments[name], own, self._ridge, known.get(name))
        if not readers:
            return self._unread(group)
        costs = elimination_costs(len(roots), readers).to(next(graph.model.parameters()).device)
        return costs if self.in_output_error else costs * len(roots)

    @property
    def in_output_error(self) -> bool:
        """Whether scores are errors at the model's outputs, which can be divided by costs."""
        return self._unread.in_output_error

    @property
    def flow(self) -> Flow:
        """What this ranking propagates through a model."""
        return self._unread.flow

    def score_by(self, graph: tp.DependencyGraph, bounds: Bounds) -> None:
        """Use what was propagated while `graph` was built, like `DFPCImportance`."""
        self._unread.score_by(graph, bounds)
        call = flowed(graph, bounds, self.flow, self.example_inputs)
        if call is not None and self.in_output_error:
            keep(graph, (_SENSITIVITIES, *call.signature), sensitivities(bounds))

    def _sensitivities(self, model: nn.Module, call: TracedCall) -> dict[str, Sensitivity]:
        """The sensitivity of the outputs to errors of each layer, by a separate run."""
        return sensitivities(followed(model, call.example_inputs, call.forward_fn, self.flow))

    def noise_of(self, graph: tp.DependencyGraph) -> NoiseStatistics | None:
        """Return the statistics of the model of `graph` on noise when it was last scored; None if it was not scored on noise."""
        return graph.__dict__.get(_NOISE) if self.calibration is None else None

    def _moments(self, graph: tp.DependencyGraph, call: TracedCall) -> Mapping[str, list[LayerMoments]]:
        """Run the model on noise, or on the images, which are made or loaded once."""
        model, settings, inputs = graph.model, self.settings, call.example_inputs
        with evaluating(model):
            if self.calibration is not None:
                batches = self.calibration.batches(model, inputs)
                return layer_moments(model, batches, call.forward_fn, rows=settings.rows, seed=settings.seed)
            found = statistics_on_noise(model, inputs, call.forward_fn, settings)
        graph.__dict__[_NOISE] = found
        return {} if found is None else found.moments


def default_importance(
    repair: RepairSettings | None, example_inputs: ExampleInputs
) -> DFPCImportance | RepairedImportance:
    """Return the default importance: the error at the model's outputs, after `repair` if that uses covariances."""
    if repair is not None and repair.how.anticipated:
        return RepairedImportance(repair, example_inputs=example_inputs, ranking="output")
    return DFPCImportance("output", example_inputs=example_inputs)


def repaired_in(importance: Any) -> RepairedImportance | None:
    """Return the `RepairedImportance` that `importance` is or wraps, or None."""
    inner = unwrapped(importance)
    return inner if isinstance(inner, RepairedImportance) else None


def _anticipated() -> list[str]:
    return [name for name, method in METHODS.items() if method.anticipated]


def _is_read(item: Any, group: Any) -> bool:
    """Whether an item of a group stands for the inputs of a layer."""
    role = getattr(item.dep, "role", "feed-out")
    return role == "feed-out" and bool(group._DG.is_in_channel_pruning_fn(item.dep.handler))


def _layers(model: nn.Module, name: str | None, moments: Mapping[str, list[LayerMoments]]) -> list[str]:
    """Names of a module (or of the layer whose weight is computed from the parameter) in `moments`."""
    if name is None:
        return []
    if name not in moments:
        name = layer_of_original(model, name) or name
    inner = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return [found for found in (name, *(f"{name}.{own}" for own in inner)) if found in moments]
