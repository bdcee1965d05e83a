"""Repeat pruning from its record: the removed outputs by layer and index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.couplings import CouplingMap, map_couplings
from dfpc_plugin.couplings.outputs import RecordError, channels_of_record, removed_outputs
from dfpc_plugin.errors import CutError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.pruning.result import PruneResult
from dfpc_plugin.surgery import cut, protect_what_breaks
from dfpc_plugin.wrappers import plain_model


@checks_arguments
def replay(
    model: nn.Module,
    example_inputs: ExampleInputs,
    removed: Mapping[str, Sequence[int]] | PruneResult,
    forward_fn: ForwardFunction | None = None,
) -> nn.Module:
    """Remove from `model`, in place, what `PruneResult.removed` lists: the record of pruning another copy of it.

    Args:
        model: A model like the other before pruning; weights may differ.
        example_inputs: As for `prune`.
        removed: Indices of outputs by layer, or the result itself. A weight that is used in both directions has its other
            outputs under its path and dimension, as in "encoder (dim 1)".
        forward_fn: As for `prune`.

    Returns:
        `model`, or the module inside if it was compiled.

    Raises:
        CutError: The model has no such layers or outputs, or the indices are not all of what must be pruned together; the
            model is not changed.
    """
    model, example_inputs = plain_model(model, inplace=True), as_inputs(example_inputs)
    removed = removed.removed if isinstance(removed, PruneResult) else removed
    errors: list[CutError] = []
    with exclusive(model):
        for whole_heads in (False, True):  # the record does not say which units were pruned
            couplings = map_couplings(model, example_inputs, forward_fn, whole_heads=whole_heads)
            try:
                channels = _channels_of(couplings, removed)
                protect_what_breaks(model, example_inputs, couplings, forward_fn)  # finds attributes to update, too
                cut(model, couplings, channels)
                return model
            except CutError as error:
                errors.append(error)
    raise errors[0]


def _channels_of(couplings: CouplingMap, removed: Mapping[str, Sequence[int]]) -> Tensor:
    """Numbers of the recorded channels; raise CutError if some do not exist, or are not all that is pruned together."""
    try:
        gone = channels_of_record(couplings, removed)
    except RecordError as error:
        problem = (
            f"{error.problem}; give what PruneResult.removed is." if error.problem
            else f"cuts '{error.layer}', which this model lacks or does not use; replay it on a copy." if error.width is None
            else f"cuts outputs of '{error.layer}' that are not there; it has {error.width}."
        )  # fmt: skip
        raise CutError(f"The record {problem}") from None
    for layer, indices in removed_outputs(couplings.channels, gone).items():
        if sorted(removed.get(layer, ())) != list(indices):
            raise CutError(
                f"The record does not name all that goes together: of '{layer}' {len(indices)} outputs would go, and it "
                f"names {len(removed.get(layer, ()))}; it is of another model."
            )
    return (gone & ~couplings.channels.removed).nonzero().squeeze(1)
