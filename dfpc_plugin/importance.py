"""DFPC as an importance for Torch-Pruning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

import torch
import torch_pruning as tp
from torch import Tensor, nn

from dfpc_plugin.analyses.bounds import Bounds
from dfpc_plugin.errors import DFPCError, ExampleInputsError, PrunerSettingError
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.saliency import Ranking, Saliency, bgsc, flow_of, require_finite, saliency_of
from dfpc_plugin.state import ModelState
from dfpc_plugin.trace import Flow
from dfpc_plugin.traced_call import TracedCall, traced_call
from dfpc_plugin.wrappers import plain_model

ImportanceRanking = Literal["output", "expected", "relative", "coupling-mean", "published"]
"""How scores of different couplings compare; see `DFPCImportance`."""


_CHECKED = "_dfpc_checked"
_SCORES = "_dfpc_scores"
T = TypeVar("T")


@contextlib.contextmanager
def unchanged(graph: tp.DependencyGraph) -> Iterator[None]:
    """Assume that the model of `graph` does not change in the block: scores that were checked once are not checked again."""
    before = graph.__dict__.get(_CHECKED)
    graph.__dict__[_CHECKED] = set()
    try:
        yield
    finally:
        graph.__dict__.pop(_CHECKED)
        if before is not None:
            graph.__dict__[_CHECKED] = before


def remembered(
    graph: tp.DependencyGraph, key: tuple[Any, ...], group: Any, compute: Callable[[], T]
) -> tuple[ModelState, T]:
    """Return a result for the model of `graph`, with the state of the model that it was computed for.

    Results are cached with the graph, by `key`, and computed again when the model has changed. `group` is the group to be
    scored; contents of other layers need not be compared.
    """
    kept: dict[Any, tuple[ModelState, T]] = graph.__dict__.setdefault(_SCORES, {})
    checked: set[Any] | None = graph.__dict__.get(_CHECKED)
    if checked is not None and key in checked:
        return kept[key]
    members = {item.dep.target.module for item in group.items}
    if key not in kept or not kept[key][0].holds_for(
        module for module in kept[key][0].names if checked is not None or module in members
    ):
        state = ModelState(plain_model(graph.model, scripted=True))
        kept[key] = state, compute()
    if checked is not None:
        checked.add(key)
    return kept[key]


def keep(graph: tp.DependencyGraph, key: tuple[Any, ...], value: Any) -> None:
    """Cache a result for the present model of `graph`, for `remembered`."""
    graph.__dict__.setdefault(_SCORES, {})[key] = ModelState(plain_model(graph.model, scripted=True)), value


def flowed(
    graph: tp.DependencyGraph, bounds: Bounds, flow: Flow, example_inputs: ExampleInputs | None
) -> TracedCall | None:
    """Return the model call that `bounds` come from, or None if the call, or what was propagated, would differ."""
    noted, call = traced_call(graph), call_of(graph, example_inputs)
    return call if noted is not None and noted.signature == call.signature and bounds.flow == flow else None


def call_of(graph: tp.DependencyGraph, example_inputs: ExampleInputs | None) -> TracedCall:
    """Return how to call the model of `graph`: on `example_inputs`, or else as its pruner does.

    Raises:
        ExampleInputsError: Neither is known.
    """
    noted = traced_call(graph)
    if example_inputs is not None:
        return TracedCall(example_inputs, noted.forward_fn if noted else None)
    if noted is None:
        raise ExampleInputsError(
            "This dependency graph was built before dfpc_plugin was imported, so the shape of the model's inputs is "
            "not known; import dfpc_plugin first, or pass DFPCImportance(example_inputs=...)."
        )
    return noted


def require_brackets(name: str, first: Any) -> None:
    """Raise PrunerSettingError if an importance was made by a pruner that called its class with a group."""
    if hasattr(first, "_DG"):
        raise PrunerSettingError(f"importance={name} is a class; write importance={name}(), with brackets.")


def require_ranking(ranking: Any, known: tuple[str, ...]) -> None:
    """Raise DFPCError unless a ranking is one of those `known`."""
    if isinstance(ranking, nn.Module | Tensor):
        raise DFPCError(
            "ranking is the model or its inputs; leave them out, since the pruner passes them: DFPCImportance()."
        )
    if ranking not in known:
        raise DFPCError(f"ranking must be one of {', '.join(known)}, not {ranking!r}.")


class DFPCImportance(tp.importance.Importance):
    """Score a group's channels by BGSC, without data.

    Works with every Torch-Pruning pruner: `tp.MetaPruner(model, x, importance=DFPCImportance())`. One pass over the model
    scores all groups; it is repeated when weights or shapes have changed. A group that no layer reads, such as a classifier's
    outputs, gets None and is not pruned.

    The rankings differ in how they compare channels of *different* couplings:

    - `expected` (default): a channel's share of the expected squared output of each layer that reads it, in multiples of an
      equal share, summed over those layers. Layers of all scales and widths are comparable, and channels that many layers
      read, such as a residual stream, are pruned last. For pruners that do not divide by costs.
    - `output`: a channel's share of the variance of the model's outputs, an estimate of the relative squared error there when
      it is removed. It is to be divided by a saving, as in `prune(..., per="macs")`.
    - `relative`: like `expected`, with the published bounds instead of expected squares.
    - `coupling-mean`: published scores divided by their mean over the group, like Torch-Pruning's own criteria. Within one
      group the order is the published one.
    - `published`: Algorithm 1's raw scores in one global ranking, for comparison with the paper. Layers with many positions or
      large weights have large scores, so others are emptied first.
    """

    def __init__(
        self, ranking: ImportanceRanking = "expected", example_inputs: ExampleInputs | None = None, **options: Any
    ) -> None:
        """Choose a ranking.

        Args:
            ranking: `output`, `expected`, `relative`, `coupling-mean` or `published`.
            example_inputs: Inputs for the model; by default those of the pruner.
            options: Options of Torch-Pruning's importances, such as `p`, are refused.

        Raises:
            DFPCError: The ranking is unknown, or an option was given.
        """
        if options:
            raise PrunerSettingError(
                f"DFPCImportance has no option {', '.join(options)}: nothing is left to choose but ranking and example_inputs. "
                f"Leave it out, or take torch_pruning.importance.GroupMagnitudeImportance."
            )
        require_brackets(type(self).__name__, ranking)
        require_ranking(ranking, get_args(ImportanceRanking))
        self.ranking = ranking
        self.example_inputs = None if example_inputs is None else as_inputs(example_inputs)

    def __call__(self, group: Any) -> Tensor | None:
        """Return one score per root index of `group`, float64 on the model's device, or None.

        Raises:
            ExampleInputsError: The graph was not built by a pruner and `example_inputs` was not given.
            DFPCError: As `bgsc` raises.
        """
        state, saliency = self._scores_for(group)
        roots = group[0].root_idxs
        importance = torch.zeros(len(roots), dtype=torch.float64)
        found = False
        for item in group.items:
            scores = _scores_of(saliency, name_of(state, item.dep.target.module, group), item, group)
            if scores is not None:
                found = True
                _add_at(importance, scores, item, roots)
        if not found:
            return None
        if self.ranking == "coupling-mean" and importance.sum() > 0:
            importance /= importance.mean()
        return importance.to(next(group._DG.model.parameters()).device)

    def __repr__(self) -> str:
        """Return how it is made."""
        return f"{type(self).__name__}({self.ranking!r})"

    @property
    def label(self) -> str:
        """Its name in reports."""
        return f"DFPC, {self.ranking}"

    @property
    def in_output_error(self) -> bool:
        """Whether scores are errors at the model's outputs, which can be divided by costs."""
        return self.ranking == "output"

    @property
    def _published(self) -> Ranking:
        return "published" if self.ranking == "coupling-mean" else self.ranking

    @property
    def flow(self) -> Flow:
        """What this ranking propagates through a model."""
        return flow_of(self._published)

    def score_by(self, graph: tp.DependencyGraph, bounds: Bounds) -> None:
        """Score by what was propagated while `graph` was built, which saves a run; raises DFPCError like `bgsc`.

        Does nothing if this importance calls the model on other inputs.
        """
        call = flowed(graph, bounds, self.flow, self.example_inputs)
        if call is not None:
            require_finite(graph.model)
            keep(graph, (self.ranking, *call.signature), saliency_of(bounds, self._published))

    def _scores_for(self, group: Any) -> tuple[ModelState, Saliency]:
        """Return scores for the present model, with the state of the model that they were computed for."""
        graph = group._DG
        call = call_of(graph, self.example_inputs)

        def score() -> Saliency:
            return bgsc(graph.model, call.example_inputs, ranking=self._published, forward_fn=call.forward_fn)

        return remembered(graph, (self.ranking, *call.signature), group, score)


def unwrapped(importance: Any) -> Any:
    """Return the importance that a wrapper holds as `importance`; others are returned as they are."""
    return getattr(importance, "importance", importance)


def _add_at(importance: Tensor, scores: Tensor, item: Any, roots: list[int]) -> None:
    """Add a group item's scores at the positions of its root indices."""
    if item.root_idxs == roots and len(item.idxs) == len(scores) == len(roots):
        importance += scores[torch.tensor(item.idxs)]
        return
    positions = {root: position for position, root in enumerate(roots)}
    pairs = [(positions[root], i) for root, i in zip(item.root_idxs, item.idxs, strict=True) if root in positions]
    to, take = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    importance.index_add_(0, to, scores[take])


def name_of(state: ModelState, target: Any, group: Any) -> str | None:
    """Return the name under which a saliency lists a module, or a parameter without a layer in Torch-Pruning."""
    if isinstance(target, nn.Parameter):
        return group._DG._param_to_name.get(target, "").removesuffix(".weight")
    return state.names.get(target)


def _scores_of(saliency: Saliency, name: str | None, item: Any, group: Any) -> Tensor | None:
    """Return the scores of a group item's output channels if it is a feed-in layer, else None."""
    target = item.dep.target.module
    bare = isinstance(target, nn.Parameter)  # only `DataFlowGraph` knows which of its dimensions is written
    role = getattr(item.dep, "role", None if bare else "feed-in")
    if name is None or role != "feed-in" or not group._DG.is_out_channel_pruning_fn(item.dep.handler):
        return None
    parts = list(_feed_in_scores(saliency, name, target))
    if not parts:
        return None
    scores = torch.stack(parts).sum(0)
    if bare:
        gates, rest = divmod(target.size(item.dep.target.pruning_dim), len(scores))
        return None if rest else scores.repeat(gates) / gates  # a recurrent layer has one row per gate and score
    return scores


def _feed_in_scores(saliency: Saliency, name: str, module: nn.Module) -> Iterator[Tensor]:
    """Yield the scores of every matrix of `module` whose rows Torch-Pruning removes with an output channel."""
    if name in saliency:
        yield saliency[name]
    computed = saliency.computed.get(name if isinstance(module, nn.Parameter) else f"{name}.weight")
    if computed is not None and computed != name and computed in saliency:
        yield saliency[computed]
    if isinstance(module, nn.MultiheadAttention):
        if (out := f"{name}.out_proj") in saliency:
            yield saliency[out]
        if (packed := f"{name}.in_proj_weight") in saliency:
            yield from saliency[packed].chunk(3)
        for separate in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if f"{name}.{separate}" in saliency:
                yield saliency[f"{name}.{separate}"]
    if isinstance(module, nn.RNNBase):
        prefix = f"{name}.weight_ih_l"
        yield from (scores for layer, scores in saliency.items() if layer.startswith(prefix))
