"""How the error of a model's outputs grows with the share of channels that a coupling loses, coupling by coupling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import nn

from dfpc_plugin.comparing.cells import CompareError
from dfpc_plugin.comparing.scorers import OutputError
from dfpc_plugin.comparing.sensitivity_result import CouplingSensitivity, SensitivityResult
from dfpc_plugin.cost import CostModel
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.importance import DFPCImportance
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.plain_data import Limit, checked, within
from dfpc_plugin.progress import Progress, shown
from dfpc_plugin.pruning.rank import build_graph, candidates_of
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.pruning.subject import Subject
from dfpc_plugin.pruning.trial import copy_of
from dfpc_plugin.repairing.inputs import DEFAULT_COUNT, collected
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.selection import Candidate
from dfpc_plugin.wrappers import plain_model

__all__ = ["sensitivity"]

_Share = Annotated[float, within(0, below=1, hint="give 0.5, say")]
_Shares = Annotated[tuple[_Share, ...], Limit("one or more shares", bool)]


def sensitivity(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    shares: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
    images: Images | None = None,
    ignored_layers: Sequence[str] | str = (),
    forward_fn: ForwardFunction | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> SensitivityResult:
    """Prune one coupling at a time to several shares, and measure the error of the model's outputs.

    Of every coupling, the channels go that `DFPCImportance("output")` scores lowest. Errors are squared errors of the outputs
    over their variance: as the scores predict them, measured on noise, and measured on images where some are given. Nothing
    is repaired.

    Args:
        model: The model, which stays as it is.
        example_inputs: What it is called with.
        shares: Shares of a coupling's channels to remove, each from 0 to below 1; numbers of channels are rounded down.
        images: Unlabelled inputs, of which at most 256 are used.
        ignored_layers: Couplings that these layers produce are left out: names, or shell-style patterns.
        forward_fn: Called as `forward_fn(model, example_inputs)` instead of the model.
        seed: Seed of the noise.
        progress: As for `prune`.

    Returns:
        Errors for every coupling that can be pruned, in the order of the model's parameters.

    Raises:
        CompareError: A share makes no sense, or the model's outputs cannot be compared.
        NothingToPruneError: No coupling can be pruned.
        DFPCError: As `find_couplings` raises.
    """
    shares = checked(_Shares, list(dict.fromkeys(shares)), "shares", CompareError)
    original = plain_model(model)
    ranking = DFPCImportance("output")
    settings = PruneSettings(max_ratio=1.0, min_channels=1, ignored_layers=ignored_layers)
    with torch.inference_mode(False), generators_kept(), shown(progress) as tell:
        graph = build_graph(copy_of(original), example_inputs, settings, forward_fn, ranking)
        subject = Subject(graph, example_inputs, forward_fn, settings, CostModel(graph.coupling_map.channels))
        candidates = candidates_of(graph, ranking, settings)
        measures = {"noise": OutputError.on_noise(graph.model, graph.coupling_map, example_inputs, forward_fn, seed)}
        if images is not None:
            given = collected(images, DEFAULT_COUNT, graph.model, seed, example_inputs)
            measures["images"] = OutputError.on_images(graph.model, graph.coupling_map, given, forward_fn)
        found = []
        for number, candidate in enumerate(candidates):
            if tell is not None:
                tell("sensitivity", number / len(candidates))
            found.append(_of_coupling(subject, candidate, shares, measures))
        if tell is not None:
            tell("sensitivity", 1.0)
    sources = {"predicted": "the scores"} | {kind: measure.source for kind, measure in measures.items()}
    return SensitivityResult(tuple(shares), sources, tuple(found))


def _of_coupling(
    subject: Subject, candidate: Candidate, shares: Sequence[float], measures: dict[str, OutputError]
) -> CouplingSensitivity:
    """Prune one coupling to every share."""
    errors: dict[str, list[float]] = {kind: [] for kind in ("predicted", *measures)}
    # At least one channel stays; the small addition keeps 0.29 * 100 from being 28.
    counts = [min(int(share * len(candidate.units) + 1e-9), candidate.free) for share in shares]
    for count in counts:
        errors["predicted"].append(float(candidate.saliency[:count].sum()))
        channels = candidate.channels(count)
        pruned = subject.copy_without(channels) if count else subject.model
        for kind, measure in measures.items():
            errors[kind].append(measure.of(pruned, subject.removed_with(channels)) if count else 0.0)
    coupling = candidate.coupling
    found = {kind: tuple(values) for kind, values in errors.items()}
    return CouplingSensitivity(coupling.name, coupling.feed_in, coupling.channels, coupling.macs, tuple(counts), found)
