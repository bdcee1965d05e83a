"""BGSC, the data-free saliency of DFPC, at the cost of one forward and one backward pass.

Algorithm 1 of "Data flow driven pruning of coupled channels without data" (Narshana, Murti, Bhattacharyya, ICLR 2023).
For channel c of a coupling with feed-in layers A, feed-out layers B and the transform F between them, the published score

    s_c = sum over a in A, b in B downstream of a of the sum of all entries of (|M_b| |F_ab|)[:, c] (|M_a|)[c, :]

factorises: the sum of all entries of a product of two non-negative matrices is the column sums of the left one times the row
sums of the right one:

    u_a = |M_a| 1,    v_a = d/du_a sum_b 1' |M_b| F(u),    s_c = sum_a sum_{positions p of c} (u_a v_a)[c, p]

"Downstream" refers to the data flow here; the authors' code compares the layers' names as strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.bounds import Bounds
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.errors import DFPCError, NonFiniteScoreError, NonFiniteWeightError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.trace import Flow, trace_model
from dfpc_plugin.wrappers import HoldsModel, plain_model

Ranking = Literal["published", "relative", "expected", "output"]
"""What is scored: bounds, with equal weights (published) or as shares of every feed-out layer's total (relative); shares
of every feed-out layer's expected squared output (expected); or shares of the variance of the outputs (output)."""

_FLOWS: dict[Ranking, Flow] = {
    "published": "bounds", "relative": "bounds", "expected": "variances", "output": "variances to outputs"
}  # fmt: skip


@dataclass(frozen=True)
class LayerCoupling:
    """Feed-in layers whose outputs are combined element by element, and the layers that read them.

    Attributes:
        feed_in: Layers that write the coupled channels, in the order of the forward pass.
        feed_out: Layers that read them, in the order of the forward pass.
    """

    feed_in: tuple[str, ...]
    feed_out: tuple[str, ...]

    def __repr__(self) -> str:
        """Show the first layers, and the number of others."""
        return f"LayerCoupling({_first(self.feed_in)} -> {_first(self.feed_out)})"


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


class Saliency(Mapping[str, Tensor]):
    """Scores per feed-in layer: module path -> 1-D float64 CPU tensor, one score per output channel.

    A layer whose coupling no layer reads (the classifier) is not in the mapping. A parameter that is not called `weight` has
    its own path (`attn.in_proj_weight`).

    Attributes:
        couplings: The layer-level couplings, in the order of the forward pass.
        computed: The layer whose weight is computed from a parameter, by the parameter's path.
    """

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        couplings: tuple[LayerCoupling, ...],
        computed: Mapping[str, str] | None = None,
    ) -> None:
        """Store `scores` (one 1-D tensor per feed-in layer) and the attributes."""
        self._scores = dict(scores)
        self.couplings = couplings
        self.computed = dict(computed or {})

    def __getitem__(self, layer: str) -> Tensor:
        """Return the scores of one feed-in layer's output channels."""
        return self._scores[layer]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the feed-in layers in the order of the forward pass."""
        return iter(self._scores)

    def __len__(self) -> int:
        """Return the number of feed-in layers."""
        return len(self._scores)

    def __repr__(self) -> str:
        """Show the numbers of layers, channels and couplings."""
        channels = sum(len(scores) for scores in self._scores.values())
        return f"Saliency({len(self)} layers, {channels} channels, {len(self.couplings)} couplings)"

    def scores(self, coupling: LayerCoupling) -> Tensor:
        """Sum the scores of a coupling's feed-in layers, channel by channel, `(width,)`.

        Raises:
            DFPCError: Its layers have different widths (their outputs are concatenated or split), so channels do not
                correspond by position.
        """
        layers = [self._scores[name] for name in coupling.feed_in]
        widths = {len(scores) for scores in layers}
        if len(widths) > 1:
            raise DFPCError(
                f"The layers {', '.join(coupling.feed_in)} have different widths {sorted(widths)}: their channels do "
                f"not correspond by position; use the scores of each layer."
            )
        return torch.stack(layers).sum(0)


@checks_arguments
def bgsc(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    *,
    ranking: Ranking = "published",
    forward_fn: ForwardFunction | None = None,
    progress: Progress | bool | None = None,
) -> Saliency:
    """Score every channel of `model` without data: one forward, one backward.

    The documentation's table of rules states for each operator whether its rule is exact, a bound or an approximation. Scores
    sum over the batch, so use a batch of one; only shapes and dtypes of the inputs matter. The model is scored in evaluation
    mode and left unchanged, bit for bit.

    Args:
        model: Any module; float32, float64, bfloat16 or float16, on any device.
        example_inputs: A tensor for `model(x)`, a tuple or list for `model(*xs)`, a dict for `model(**xs)`.
        ranking: `published`, or `relative`: a channel's share of every feed-out layer's total, in multiples of an equal share
            (one over the layer's number of channels), summed over the feed-out layers. A score of 1 is an average channel that
            one layer reads, whatever the scales and widths of layers. `expected` is the same with variances instead of bounds,
            from BatchNorm's statistics and the weights: see `analyses.moments`. `output` is a channel's share of the variance
            of the model's outputs: an estimate of the relative squared error there when it is removed.
        forward_fn: Called as `forward_fn(model, example_inputs)` instead of `model(...)`, as in Torch-Pruning.
        progress: True for bars at once, False for none, or a function that is called with the phase and the fraction of it
            that is done. By default bars after a few seconds, in a terminal or a notebook; `DFPC_PROGRESS=0` silences all
            calls.

    Returns:
        Scores per feed-in layer, on the CPU in float64.

    Raises:
        UnsupportedOperatorError: Operators have no rule; lists all of them.
        ValueDependentError: The forward needs the values of its data.
        NonFiniteWeightError: A weight or a running statistic is NaN or infinite.
        NonFiniteScoreError: A score is, though the weights are not.
        ModelFormError: The model is exported, sharded, or has lazy layers without weights.
        RuleError: A rule does not support a form of its operator, or the model's shapes do not fit.
        ExampleInputsError: `example_inputs` holds no data, or the model cannot be called with it.
    """
    if ranking not in get_args(Ranking):
        raise DFPCError(f"ranking must be one of {', '.join(get_args(Ranking))}, not {ranking!r}.")
    with shown(progress) as tell:
        phases = Phases(tell)
        with phases("following the model"):
            bounds = followed(model, example_inputs, forward_fn, flow_of(ranking))
        with phases("saliency"):
            return saliency_of(bounds, ranking)


def followed(
    model: nn.Module | HoldsModel, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None, flow: Flow
) -> Bounds:
    """Propagate `flow` through a model whose weights are finite; raises DFPCError like `bgsc`."""
    model = plain_model(model, scripted=True)
    with exclusive(model):
        require_finite(model)
    bounds = trace_model(model, example_inputs, forward_fn, flow=flow).bounds
    assert bounds is not None
    return bounds


def flow_of(ranking: Ranking) -> Flow:
    """Return what a ranking propagates through a model."""
    return _FLOWS[ranking]


def saliency_of(bounds: Bounds, ranking: Ranking) -> Saliency:
    """Score every channel by what was propagated; raises NonFiniteScoreError if a score is not finite."""
    scores = _backward(bounds, ranking)
    for name, value in scores.items():
        if not torch.isfinite(value).all():
            raise NonFiniteScoreError(name)
    couplings = couplings_of(bounds)
    read = {name for coupling in couplings for name in coupling.feed_in}
    return Saliency({name: value for name, value in scores.items() if name in read}, couplings, bounds.computed)


def _backward(bounds: Bounds, ranking: Ranking) -> dict[str, Tensor]:
    """Backpropagate to the leaves and sum u * v over positions."""
    scores: dict[str, Tensor] = {}
    gradients = bounds.output_shares() if bounds.to_outputs else bounds.gradients(_weights(bounds, ranking))
    for writer, gradient in zip(bounds.writers, gradients, strict=False):
        u = writer.leaf.detach()
        score = writer.per_channel(torch.zeros_like(u) if gradient is None else u * gradient).cpu()
        if ranking in ("relative", "expected"):
            score *= len(score)
        scores[writer.name] = scores[writer.name] + score if writer.name in scores else score
    return scores


def _weights(bounds: Bounds, ranking: Ranking) -> list[Tensor]:
    """The weight of each reader: one, or one over the total of its layer."""
    if ranking == "published":
        return [torch.ones_like(reader.total) for reader in bounds.readers]
    totals = bounds.totals_by_layer()
    return [torch.where(totals[r.name] > 0, 1 / totals[r.name], 0).to(r.total) for r in bounds.readers]


def couplings_of(bounds: Bounds) -> tuple[LayerCoupling, ...]:
    """Group the layers of a pass into couplings that some layer reads, in the order of their first feed-in layer."""
    met = {writer.name: frozenset([writer.name]) for writer in bounds.writers}
    for names in bounds.met:
        joined = frozenset().union(*(met[name] for name in names))
        met.update(dict.fromkeys(joined, joined))
    readers: dict[frozenset[str], dict[str, None]] = {members: {} for members in met.values()}
    for reader in bounds.readers:
        for source in reader.sources:
            readers[met[source]][reader.name] = None
    order = list(met)
    return tuple(
        LayerCoupling(tuple(sorted(members, key=order.index)), tuple(read)) for members, read in readers.items() if read
    )


@torch.no_grad()
def require_finite(model: nn.Module) -> None:
    """Raise on the first parameter or running statistic that is not finite."""
    for path, module in model.named_modules():
        statistics = {name: buffer for name, buffer in module._buffers.items() if name.startswith("running_")}
        for name, tensor in {**module._parameters, **statistics}.items():
            if tensor is None or tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
                continue
            if not math.isfinite(float(tensor.sum())):  # the sum itself may overflow, so count below
                count = int((~torch.isfinite(tensor)).sum())
                if count:
                    raise NonFiniteWeightError(f"{path}.{name}" if path else name, count)
