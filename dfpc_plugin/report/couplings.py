"""Find the couplings of a model."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from dfpc_plugin.couplings import CouplingMap, DataFlowCoupling, map_couplings, prunable_share
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.inputs import ExampleInputs, shapes_of


class UnknownCouplingError(DFPCError):
    """A model has no coupling of that name."""


@dataclass(frozen=True)
class ModelCouplings:
    """The couplings of a model, and how they came about.

    Attributes:
        sizes: Shapes of its parameters and buffers by their paths.
        prunable_macs: Share of the MACs in layers of couplings that can be pruned.
        prunable_parameters: Share of the parameters' entries that go with such couplings.
        seconds: What it took, without building the model.
    """

    model: str
    input_shapes: tuple[tuple[int, ...], ...]
    sizes: Mapping[str, tuple[int, ...]]
    coupling_map: CouplingMap
    prunable_macs: float
    prunable_parameters: float
    seconds: float

    @property
    def couplings(self) -> list[DataFlowCoupling]:
        """All of them, in the order of the model's parameters."""
        return self.coupling_map.couplings

    @cached_property
    def prunable(self) -> list[DataFlowCoupling]:
        """Those that can be pruned."""
        return [coupling for coupling in self.couplings if coupling.protected is None]

    @cached_property
    def protected(self) -> list[DataFlowCoupling]:
        """Channels that some layer writes and that must stay."""
        return [c for c in self.couplings if c.protected is not None and c.feed_in]

    @cached_property
    def positions(self) -> list[DataFlowCoupling]:
        """What no layer writes: an image's channels, the tokens of a position embedding. They stay."""
        return [c for c in self.couplings if c.protected is not None and not c.feed_in]

    def named(self, name: str) -> list[DataFlowCoupling]:
        """Return the couplings of that name, or else of a layer of that name; an UnknownCouplingError if none."""
        found = [coupling for coupling in self.couplings if coupling.name == name]
        found = found or [coupling for coupling in self.couplings if name in coupling.feed_in]
        if not found:
            known = [known for coupling in self.couplings for known in (coupling.name, *coupling.feed_in)]
            near = difflib.get_close_matches(name, dict.fromkeys(known), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "the table lists their names."
            raise UnknownCouplingError(f"'{self.model}' has no coupling called '{name}'; {hint}")
        return found


def couple_model(name: str, model: nn.Module, inputs: ExampleInputs) -> ModelCouplings:
    """Find and time the couplings of a model, which do not depend on its weights; `name` is what tables call it."""
    start = time.perf_counter()
    found = map_couplings(model, inputs)
    seconds = time.perf_counter() - start
    sizes = {path: tuple(tensor.shape) for path, tensor in (*model.named_parameters(), *model.named_buffers())}
    return ModelCouplings(name, shapes_of(inputs), sizes, found, *prunable_share(found), seconds)
