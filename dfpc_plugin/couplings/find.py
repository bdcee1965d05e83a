"""Find the couplings of a model."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.bounds import Bounds
from dfpc_plugin.analyses.table import KERNEL_POSITION
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.computed_weights import advised
from dfpc_plugin.couplings.channels import Axis, Channels, Size, channels_of
from dfpc_plugin.couplings.collection import Couplings
from dfpc_plugin.couplings.coupling import DataFlowCoupling
from dfpc_plugin.couplings.declared import declared_widths
from dfpc_plugin.couplings.sizes import Violation, solve
from dfpc_plugin.couplings.structure import Structure, find_structure
from dfpc_plugin.couplings.usage import unused_layers, used_modules
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import collector_paused
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.trace import Flow, trace_model
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, is_linear, leaves_of
from dfpc_plugin.wrappers import HoldsModel, plain_model


@dataclass(frozen=True, repr=False)
class CouplingMap:
    """A model's channels and couplings, and which required sizes depend on which.

    Attributes:
        channels: Where every channel lies, and the sizes that the forward requires.
        couplings: In the order of the model's parameters.
        structure: The structure (set of interdependent couplings) of each channel; -1 for none.
        touching: Required sizes by the structures that they count or read.
        mentions: Required sizes by the attributes that they are computed from.
        unused: Layers and parameters that the forward never uses, with the number of their values.
        order: Paths of the modules that hold parameters, in the order in which the forward first uses them.
        bounds: What was propagated in the same run, if anything.
    """

    channels: Channels
    couplings: Couplings
    structure: Tensor
    touching: dict[int, list[Size]]
    mentions: dict[Attribute, list[Size]]
    unused: dict[str, int] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    bounds: Bounds | None = None

    def __repr__(self) -> str:
        """Summarise in one line."""
        return f"CouplingMap({self.couplings.summary})"

    def copy(self) -> CouplingMap:
        """Return a copy that later pruning of the model does not change."""
        known = self.channels
        channels = dataclasses.replace(known, removed=known.removed.clone(), values=dict(known.values))
        return dataclasses.replace(self, channels=channels)

    def sizes_of(self, removed: Tensor) -> list[Size]:
        """Required sizes that removing channels may change."""
        touched = torch.unique(self.structure[removed]).tolist()
        found = {id(size): size for number in touched for size in self.touching.get(number, ())}
        return list(found.values())


@checks_arguments
def find_couplings(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None = None,
    *,
    whole_heads: bool = False,
) -> Couplings:
    """Find the data-flow couplings of `model`: the sets of channels that can only be pruned together.

    Runs the model once on tensors that carry channel labels instead of values, so reshapes, splits, concatenations and windows
    are followed exactly. The model is not changed. With `forward_fn`, calls `forward_fn(model, example_inputs)` in place of
    the model.

    Attention loses dimensions of every head by default; with `whole_heads`, it loses whole heads.

    Returns:
        A list of couplings in the order of the model's parameters, which `plot` draws. `protected` says why one must not be
        pruned.

    Raises:
        UnsupportedOperatorError: The model uses operators without a rule.
        ValueDependentError: The forward needs the values of its data.
        ModelFormError: The model is in TorchScript, exported, sharded, or has lazy layers without weights.
        ExampleInputsError: `example_inputs` holds no data, or a model cannot be called with it.
    """
    return map_couplings(model, example_inputs, forward_fn, whole_heads=whole_heads).couplings


def map_couplings(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None = None,
    *,
    whole_heads: bool = False,
    flow: Flow | None = None,
) -> CouplingMap:
    """Like `find_couplings`, with everything that pruning needs; `flow` is propagated in the same run."""
    model = plain_model(model)
    with collector_paused(), exclusive(model):
        trace = trace_model(model, example_inputs, forward_fn, channels=True, flow=flow)
        assert trace.channels is not None
        channels = channels_of(trace.channels, whole_heads=whole_heads)
        modules = trace.run.names.modules
        channels.stated += list(declared_widths(modules, channels, forward_fn))
        structures = find_structure(channels)
        unused, order = unused_layers(modules, trace.run.used.keys()), used_modules(modules, trace.run.used)
        result = CouplingMap(
            channels, Couplings((), order), *_indexed(channels, structures), unused, order, trace.bounds
        )
        result.couplings.extend(_couplings(model, result, structures))
        return result


def _indexed(
    channels: Channels, structures: list[Structure]
) -> tuple[Tensor, dict[int, list[Size]], dict[Attribute, list[Size]]]:
    """The structure of each channel, required sizes by structure, and required sizes by attribute, as in `CouplingMap`."""
    number_of = torch.full((len(channels.removed),), -1, device="cpu")
    for number, structure in enumerate(structures):
        number_of[structure.channels] = number
    touching: dict[int, list[Size]] = defaultdict(list)
    mentions: dict[Attribute, list[Size]] = defaultdict(list)
    for size in channels.sizes:
        counted = {*number_of[size.channels].reshape(-1).tolist()}
        for leaf in leaves_of(size.expression):
            if isinstance(leaf, AxisSize):
                counted |= {*number_of[channels.leaves[leaf].channels].reshape(-1).tolist()}
            else:
                mentions[leaf].append(size)
        for number in counted:
            touching[number].append(size)
    return number_of, touching, mentions


def _couplings(model: nn.Module, result: CouplingMap, structures: list[Structure]) -> Iterator[DataFlowCoupling]:
    channels = result.channels
    arranged = [
        portion
        for number, structure in enumerate(structures)
        for portion in _portions(result, structure, result.touching.get(number, []))
        if portion.protected != KERNEL_POSITION
    ]
    total = sum(layer.macs for layer in channels.layers)
    of = torch.full((len(channels.removed),), -1, device="cpu")
    for number, portion in enumerate(arranged):
        of[portion.blocks] = number
    axes: dict[int, list[Axis]] = defaultdict(list)
    for coupling, position in _pairs([axis.channels for axis in channels.axes], of):
        axes[coupling].append(channels.axes[position])
    macs: dict[int, int] = defaultdict(int)
    for coupling, position in _pairs([layer.channels for layer in channels.layers], of):
        macs[coupling] += channels.layers[position].macs
    for number, portion in enumerate(arranged):
        own = tuple(axes[number])
        name = next((axis.layer for axis in own if axis.role == "feed-in"), own[0].layer)
        share = macs[number] / total if total else 0.0
        protected = portion.protected or _not_written(own, result.unused)
        protected = None if protected is None else advised(protected, model)
        heads = bool(channels.heads[portion.blocks].any())
        yield DataFlowCoupling(name, portion.blocks, portion.balance, protected, share, own, heads)


_MOST_CELLS = 8
"""A coupling of more cells, such as attention heads, is pruned in all of them or in none."""


@dataclass(frozen=True)
class _Portion:
    """Channels in units, and why they are protected, if they are."""

    blocks: Tensor
    balance: tuple[str, ...]
    protected: str | None


def _portions(result: CouplingMap, structure: Structure, sizes: list[Size]) -> list[_Portion]:
    """Arrange channels in units that the forward can lose; a coupling without such units is protected."""
    channels = result.channels
    own = structure.channels
    fixed = [channel for channel in own.tolist() if channel in channels.reasons]
    if fixed:
        return [_Portion(own[None], structure.balance, channels.reasons[fixed[0]])]
    blocks = structure.proportional()
    problem = _problem(result, blocks, sizes)
    smallest = min(len(cell) for cell in structure.cells)
    if blocks.size(1) < smallest and (problem or 2 * blocks.size(1) < smallest):
        others = structure.one_of_each()
        if _problem(result, others, sizes) is None:
            left = own[~torch.isin(own, others)]
            reason = "is left over where parts of unequal size must lose equally many channels"
            rest = [_Portion(left[None], (), reason)] if len(left) else []
            return [_Portion(others, structure.balance, None), *rest]
    alone = _free_alone(result, structure, sizes) if problem else []
    if alone:
        left = own[~torch.isin(own, torch.cat(alone))]
        return [*(_Portion(cell[None], (), None) for cell in alone), _Portion(left[None], (), problem)]
    return [_Portion(blocks, structure.balance, problem)]


def _free_alone(result: CouplingMap, structure: Structure, sizes: list[Size]) -> list[Tensor]:
    """Cells of which channels can be pruned one by one while others keep theirs, such as those behind a fixed slice."""
    if not 1 < len(structure.cells) <= _MOST_CELLS:
        return []
    free = [cell for cell in structure.cells if _problem(result, cell[None], sizes) is None]
    shortest = min(map(len, free), default=0)
    together = shortest > 1 and _problem(result, torch.stack([cell[:shortest] for cell in free]), sizes) is None
    return free if together and len(free) < len(structure.cells) else []


def _problem(result: CouplingMap, blocks: Tensor, sizes: list[Size]) -> str | None:
    """Why units cannot be pruned, found by computing the sizes without one of them, then without half of them."""
    units = blocks.size(1)
    if units < 2:
        return "has one channel" if blocks.numel() == 1 else "has one channel in every block"
    # If all sizes are linear in others, what holds for one unit holds for any number.
    for some in {1} if all(is_linear(size.expression) for size in sizes) else {1, units // 2}:
        removed = result.channels.removed.clone()
        removed[blocks[:, :some]] = True
        try:
            solve(result.channels, removed, sizes, result.mentions)
        except Violation as violation:
            return str(violation)
    return None


def _not_written(axes: tuple[Axis, ...], unused: Collection[str]) -> str | None:
    """Why channels that no layer writes (such as tokens of a position embedding) are not pruned."""
    if any(axis.role == "feed-in" for axis in axes):
        return None
    within = [any(f"{axis.tensor}.".startswith(f"{path}.") for path in unused) for axis in axes]
    return "is never used by the forward" if all(within) else "is not produced by a layer"


def _pairs(groups: list[Tensor], of: Tensor) -> list[list[int]]:
    """Which couplings occur in which groups of channels: `[coupling, position of the group]`, in order."""
    if not groups:
        return []
    lengths = torch.tensor([group.numel() for group in groups], device="cpu")
    positions = torch.arange(len(groups), device="cpu").repeat_interleave(lengths)
    keys = torch.unique_consecutive(of[torch.cat(groups)] * len(groups) + positions).unique()
    return torch.stack([torch.div(keys, len(groups), rounding_mode="floor"), keys % len(groups)], 1).tolist()


def prunable_share(coupling_map: CouplingMap) -> tuple[float, float]:
    """Return the shares (0 to 1) of the unpruned model's MACs and parameters in couplings that can be pruned.

    A layer counts as a whole if some of its channels lie in a coupling that is not protected. Of a parameter, only elements
    that belong to some unit count, each once.

    Args:
        coupling_map: From `map_couplings`.
    """
    channels = coupling_map.channels
    free = torch.zeros(channels.removed.shape, dtype=torch.bool, device="cpu")
    for coupling in coupling_map.couplings:
        if coupling.protected is None:
            free[coupling.blocks] = True
    axes: dict[str, list[Axis]] = defaultdict(list)
    for axis in channels.axes:
        axes[axis.tensor].append(axis)
    # A parameter with several names is listed once, by its first name, in both tables.
    parameters = channels.parameters
    touched = sum(_touched(shape, axes[name], free) for name, shape in parameters.items())
    worked = sum(layer.macs for layer in channels.layers if free[layer.channels].any())
    macs, values = sum(layer.macs for layer in channels.layers), sum(shape.numel() for shape in parameters.values())
    return worked / macs if macs else 0.0, touched / values if values else 0.0


def _touched(shape: torch.Size, axes: Iterable[Axis], free: Tensor) -> int:
    """Count the elements of a parameter that belong to some channel of `free`."""
    touched = torch.zeros(shape, dtype=torch.bool, device="cpu")
    for axis in axes:
        of, dims = axis.entries(shape[0])
        touched |= free[of].view([size if dim in dims else 1 for dim, size in enumerate(shape)])
    return int(touched.sum())
