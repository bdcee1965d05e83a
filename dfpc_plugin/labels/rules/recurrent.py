"""Recurrent layers: a hidden unit has a row per gate, and is read by the next step and by whoever reads the output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.labels.axes import varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import shape_of

__all__: list[str] = []


@label_rule(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
def recurrent(
    call: LabelCall, input: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:
    """Per layer and direction: gates' rows of both weights, the biases, and the columns that read the state."""
    states = list(hx) if isinstance(hx, tuple | list) else [hx]
    directions = 2 if bidirectional else 1
    per_cell = len(params) // (int(num_layers) * directions)
    cells = [params[start : start + per_cell] for start in range(0, len(params), per_cell)]
    units: list[Tensor] = []
    for layer in range(int(num_layers)):
        outputs = [_cell(call, input, cell) for cell in cells[layer * directions : (layer + 1) * directions]]
        units += [slot.movedim(-1, 0).flatten(1)[:, 0] for output in outputs for slot in output.slots[:1]]
        input = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    by_cell = torch.stack(units)  # one hidden size for all cells
    if len(units) > 1:
        call.size(by_cell, 1, None, flexible=1)
    batch = [1] * (len(shape_of(states[0])) - 2)
    finals = [call.make(shape_of(s), [by_cell.view(len(units), *batch, -1)] if s is states[0] else ()) for s in states]
    if len(states) > 1:  # an LSTM's cells have a unit per hidden unit
        finals[1:] = [call.make(shape_of(s), finals[0].slots) for s in states[1:]]
    return input, *finals


def _cell(call: LabelCall, input: Any, cell: Any) -> Any:
    """One direction of one layer; returns its outputs."""
    w_ih, w_hh, *biases = cell
    if any(len(shape_of(bias)) > 1 for bias in biases):
        raise NotImplementedError("a recurrent layer with a projection")
    rows, units = shape_of(w_hh)[:2]
    leading = list(range(len(shape_of(input)) - 1))
    call.layer(w_ih, input, reads=1, writes=0, along=-1, positions=shape_of(input)[:-1].numel())
    call.layer(w_hh, input, reads=1, writes=0, along=-1, positions=shape_of(input)[:-1].numel())
    gates = call.einsum([(w_ih, ["out", "in"]), (input, [*leading, "in"])], [*leading, "out"])
    of_state = call.make((rows,), [slot[:, 0] for slot in w_hh.slots if 0 in varying(slot)])
    for vector in (of_state, *biases):
        gates = call.elementwise(gates, vector)
    (slot,) = gates.slots
    first = call.table.unite_along(slot.unflatten(-1, (rows // units, units)), [slot.dim() - 1], call.where)
    state = call.make((*shape_of(input)[:-1], units), [first[..., 0, :]])
    call.einsum([(w_hh, ["out", "in"]), (state, [*leading, "in"])], [*leading, "out"])
    return state
