"""Survey a forward: list its layers' calls and their properties, before anything is changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from torch import Tensor, nn

from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import undone
from dfpc_plugin.repairing.follow import Settlement
from dfpc_plugin.repairing.lockstep import SteppedForward

Key = tuple[int, int | None]


@dataclass(frozen=True)
class Step:
    """One layer's call, in the order of the forward.

    Attributes:
        name: The layer.
        key: The weight's rows that it uses: equal for all calls of a layer, and for layers that share a weight.
        repeated: Other calls have the same key.
        shared: Calls with this key have different biases, so they are several layers that share a weight.
        last: It is the last call with this key.
        takes_constant: It can take up a constant: in its own bias, or in the running mean of a batch norm whose only
            input is this call's output, which nothing else uses.
        norm_is_own: A batch norm comes directly behind it, has no other input, and nothing else uses this output.
        largest: Bytes of its inputs and outputs.
    """

    name: str
    key: Key
    repeated: bool
    shared: bool
    last: bool
    takes_constant: bool
    norm_is_own: bool
    largest: int


def survey(model: nn.Module, inputs: ExampleInputs, forward_fn: ForwardFunction | None) -> list[Step]:
    """Run `model`, in evaluation mode, once, and return its steps.

    One example as `inputs` is enough; the activations of the whole forward are held in memory.
    """
    forward = SteppedForward(model, inputs, forward_fn, watch=True)
    found: list[Settlement] = []
    sizes = []
    with undone(forward.close):
        while (settlement := forward.advance()) is not None:
            found.append(settlement)
            sizes.append(_bytes(settlement.call.input) + _bytes(settlement.output))
    keys = [_key(settlement) for settlement in found]
    counts, biases = Counter(keys), defaultdict(set)
    norms = Counter(id(settlement.norm_mean) for settlement in found if settlement.norm_mean is not None)
    for key, settlement in zip(keys, found, strict=True):
        biases[key].add(_bias_key(settlement.call.bias))
    last = {key: number for number, key in enumerate(keys)}
    steps = []
    for number, (key, settlement, size) in enumerate(zip(keys, found, sizes, strict=True)):
        own = counts[key] == 1 and norms[id(settlement.norm_mean)] == 1 and settlement not in forward.used_elsewhere
        shared = len(biases[key]) > 1
        takes = settlement.call.bias_is_free or (settlement.norm_mean is not None and own)
        has_norm = settlement.norm_mean is not None and own
        flags = (counts[key] > 1, shared, last[key] == number, takes and not shared, has_norm)
        steps.append(Step(settlement.call.name, key, *flags, size))
    return steps


def _key(settlement: Settlement) -> Key:
    """Identifies the weight, and its rows, that a call uses."""
    weight = settlement.call.weight
    return id(weight if weight._base is None else weight._base), settlement.call.rows_of.start


def _bias_key(bias: Tensor | None) -> tuple[int, int]:
    """Identifies a bias; views of one parameter differ by their offsets."""
    if bias is None:
        return 0, 0
    return id(bias if bias._base is None else bias._base), int(bias.storage_offset())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
