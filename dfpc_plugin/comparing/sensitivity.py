"""How the error of a model's outputs grows with the share of channels that a coupling loses, coupling by coupling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.table import Column, Table
from torch import nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.comparing.cells import CompareError
from dfpc_plugin.comparing.scorers import RelativeError
from dfpc_plugin.display import (
    TERMINAL_WIDTH,
    Name,
    ShownAsText,
    as_text,
    csv_text,
    distinct_names,
    number_columns,
    percent,
    plain_table,
)
from dfpc_plugin.display.figures import INK, drawn, new_figure
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.importance import DFPCImportance
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.plain_data import Limit, checked, to_plain, within
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.pruning.prunable_model import PrunableModel, copy_of
from dfpc_plugin.pruning.rank import build_prunable, candidates_of
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.repairing.inputs import DEFAULT_COUNT, collected
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.selection import Candidate
from dfpc_plugin.wrappers import plain_model

_NAME_LENGTH, _LOWEST = 28, 1e-6
_NOTE = (
    "The predicted error is a sum over channels, and leaves out that outputs shift when the mean of a channel is removed. Measured errors "
    "include this shift, and can be many times larger. A repair removes most of it, even the repair mean. Measured errors are "
    "smaller where those of several channels cancel, or later layers let less of them through."
)


@dataclass(frozen=True)
class CouplingSensitivity:
    """Errors of the outputs when one coupling loses channels.

    Attributes:
        name: The first layer that produces it.
        layers: Every layer that produces it.
        channels: How many channels it has.
        macs: MACs of the layers that produce or consume it, as a share of the model's.
        removed: How many channels are removed at each share.
        errors: Relative squared errors of the outputs at each share, by what they come from: "predicted", "noise" and, where
            images were given, "images".
    """

    name: str
    layers: tuple[str, ...]
    channels: int
    macs: float
    removed: tuple[int, ...]
    errors: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, repr=False)
class SensitivityResult(ShownAsText):
    """Errors of the outputs by coupling and share. `print` it for a table.

    Attributes:
        shares: Shares of a coupling's channels that are removed.
        sources: What the errors come from, in words: "predicted", "noise" and, where images were given, "images".
        couplings: One entry for each coupling that can be pruned.
    """

    shares: tuple[float, ...]
    sources: Mapping[str, str]
    couplings: tuple[CouplingSensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and strings."""
        return dict(to_plain(self))

    def to_csv(self) -> str:
        """Return one row for each coupling and share; errors are relative to the variance of the outputs."""
        rows = (
            [coupling.name, coupling.channels, coupling.macs, share, coupling.removed[position]]
            + [coupling.errors[kind][position] for kind in self.sources]
            for coupling in self.couplings
            for position, share in enumerate(self.shares)
        )
        return csv_text(["coupling", "channels", "macs", "share", "removed", *self.sources], rows)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw and return a matplotlib figure of errors as colours: couplings downwards, shares to the right.

        Args:
            path: Also write a PNG, SVG or PDF file, by its ending.

        Raises:
            OutputError: The file's ending is another one, or it cannot be written.
            MissingDependencyError: matplotlib is not installed.
        """
        return drawn(self._drawn, path)

    def text(self, width: int = TERMINAL_WIDTH) -> str:
        """Return the table for a terminal of so many columns."""
        title = "Error of the outputs in % of their variance, when the coupling loses that share of its channels."
        sources = (f"{kind}: {source}." for kind, source in self.sources.items())
        return as_text(self._table(), title, *sources, _NOTE, width=width)

    def __repr__(self) -> str:
        """Say what was measured."""
        return (
            f"SensitivityResult of {len(self.couplings)} couplings by {', '.join(self.sources)}; print it for a table."
        )

    def _table(self) -> Table:
        first, shares = Column("Coupling", min_width=12), (f"{share:.4g}" for share in self.shares)
        table = plain_table(
            first, *number_columns("Channels", "MACs"), Column("Error", no_wrap=True), *number_columns(*shares)
        )
        names = [coupling.name for coupling in self.couplings]
        for coupling in self.couplings:
            about: list[Any] = [Name(coupling.name, among=names), str(coupling.channels), percent(coupling.macs)]
            for kind, values in coupling.errors.items():
                table.add_row(*about, kind, *map(_error, values))
                about = [""] * len(about)
        return table

    def _drawn(self) -> Any:
        """The figure."""
        height = min(24.0, max(3.6, 1.8 + 0.2 * len(self.couplings)))
        figure = new_figure(2.8 + 2.4 * len(self.sources), height)
        panels = figure.subplots(1, len(self.sources), sharey=True, squeeze=False)[0]
        highest = max(value for own in self.couplings for values in own.errors.values() for value in values)
        for panel, (kind, source) in zip(panels, self.sources.items(), strict=True):
            values = [[max(100 * value, 100 * _LOWEST) for value in own.errors[kind]] for own in self.couplings]
            ends = {"vmin": 1e-2, "vmax": max(1e2, 100 * highest)}
            drawn = panel.imshow(values, norm="log", aspect="auto", cmap="viridis_r", **ends)
            panel.set_title(
                f"{'Predicted by' if kind == 'predicted' else 'Measured on'} {source}", fontsize=9, color=INK
            )
            panel.set_xticks(range(len(self.shares)), [f"{share:.4g}" for share in self.shares])
            panel.set_xlabel("Share removed")
        names = distinct_names([coupling.name for coupling in self.couplings], _NAME_LENGTH)
        panels[0].set_yticks(range(len(names)), names, fontsize=7)
        bar = figure.colorbar(drawn, ax=list(panels), extend="min")
        bar.set_label("Error of the outputs (%)")
        return figure


def _error(value: float) -> str:
    """An error in per cent, with two digits at least."""
    if value >= 1e4:
        return "> 1000000"
    return f"{100 * value:.0f}" if value >= 1 else f"{100 * value:.2g}"


_Share = Annotated[float, within(0, below=1, hint="give 0.5, say")]
_Shares = Annotated[tuple[_Share, ...], Limit("one or more shares", bool)]


@checks_arguments
def sensitivity(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    shares: float | Sequence[float] = (0.1, 0.25, 0.5, 0.75),
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
        shares: Shares of a coupling's channels to remove, one or several from 0 to below 1; numbers of channels are rounded down.
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
    several = list(dict.fromkeys(shares)) if isinstance(shares, Iterable) else [shares]
    chosen = checked(_Shares, several, "shares", CompareError)
    original, example_inputs = plain_model(model), as_inputs(example_inputs)
    ranking = DFPCImportance("output")
    settings = PruneSettings(max_ratio=1.0, min_channels=1, ignored_layers=ignored_layers)
    with torch.inference_mode(False), generators_kept(), shown(progress) as tell:
        prunable = build_prunable(copy_of(original), example_inputs, forward_fn, settings, ranking)
        graph, candidates = prunable.graph, candidates_of(prunable, ranking)
        measures = {"noise": RelativeError.on_noise(graph.model, graph.coupling_map, example_inputs, forward_fn, seed)}
        if images is not None:
            given = collected(images, DEFAULT_COUNT, graph.model, seed, example_inputs)
            measures["images"] = RelativeError.on_images(graph.model, graph.coupling_map, given, forward_fn)
        found = []
        with Phases(tell)("sensitivity") as done:
            for number, candidate in enumerate(candidates, 1):
                found.append(_of_coupling(prunable, candidate, chosen, measures))
                done(number / len(candidates))
    sources = {"predicted": "the scores"} | {kind: measure.source for kind, measure in measures.items()}
    return SensitivityResult(chosen, sources, tuple(found))


def _of_coupling(
    prunable: PrunableModel, candidate: Candidate, shares: Sequence[float], measures: dict[str, RelativeError]
) -> CouplingSensitivity:
    """Prune one coupling to every share."""
    errors: dict[str, list[float]] = {kind: [] for kind in ("predicted", *measures)}
    # At least one channel stays; the small addition keeps 0.29 * 100 from being 28.
    counts = [min(int(share * len(candidate.units) + 1e-9), candidate.free) for share in shares]
    for count in counts:
        errors["predicted"].append(float(candidate.saliency[:count].sum()))
        channels = candidate.channels(count)
        pruned = prunable.copy_without(channels) if count else prunable.model
        for kind, measure in measures.items():
            errors[kind].append(measure.of(pruned, prunable.removed_with(channels)) if count else 0.0)
    coupling = candidate.coupling
    found = {kind: tuple(values) for kind, values in errors.items()}
    return CouplingSensitivity(coupling.name, coupling.feed_in, coupling.channels, coupling.macs, tuple(counts), found)
