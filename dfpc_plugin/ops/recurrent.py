"""Recurrent layers: a hidden unit has one weight row per gate; the next step and the output's consumers read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall, Unfollowed
from dfpc_plugin.analyses.combine import Operand, meet
from dfpc_plugin.ops.linear import read_linear
from dfpc_plugin.ops.record import operator
from dfpc_plugin.tracing.axes import varying
from dfpc_plugin.tracing.proxy import Proxy, shape_of


def _recurrent_channels(
    call: ChannelCall, input: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    """Unite, per layer and direction, the gates' rows of both weights, the biases, and the state's columns."""
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
    for state in states:
        _begins(call, state, by_cell)
    batch = [1] * (len(shape_of(states[0])) - 2)
    finals = [call.make(shape_of(s), [by_cell.view(len(units), *batch, -1)] if s is states[0] else ()) for s in states]
    if len(states) > 1:  # an LSTM has one cell per hidden unit
        finals[1:] = [call.make(shape_of(s), finals[0].slots) for s in states[1:]]
    return input, *finals


def _begins(call: ChannelCall, state: Any, by_cell: Tensor) -> None:
    """Unite an initial state, `(cells, batch, hidden)` or `(cells, hidden)`, with the hidden units of every cell."""
    if not isinstance(state, Proxy):
        return  # zeros that the layer itself creates in every call
    shape = shape_of(state)
    units = by_cell.view(len(by_cell), *[1] * (len(shape) - 2), -1)
    operands = [Operand((units,), frozenset({0, len(shape) - 1})), call.broadcast(state, shape)]
    meet(call.table, operands, call.where)


def _cell(call: ChannelCall, input: Any, cell: Any) -> Any:
    """One direction of one layer; returns its outputs."""
    w_ih, w_hh, *biases = cell
    if any(len(shape_of(bias)) > 1 for bias in biases):
        raise Unfollowed("a recurrent layer with a projection")
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


@operator(
    torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, channels=_recurrent_channels, context=True, kind="layer"
)
def recurrent(
    flow: LayerContext, input: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Per direction and layer: read |W_ih| x and |W_hh| h, write h = the sum of the gates' rows of |W_ih| 1.

    This is an approximation: gates are taken as one, and the state as equal at every step. Scores are named after each
    direction's input weight and have one value per hidden unit.
    """
    directions, originals = 2 if bidirectional else 1, flow.original("params")
    per_cell = len(params) // (num_layers * directions)
    kinds = len(hx) if isinstance(hx, tuple | list) else 1  # hidden states, and an LSTM's cells
    time = 1 if batch_first and input.dim() == 3 else 0
    finals: list[Tensor] = []
    cells = [range(start, start + per_cell) for start in range(0, len(params), per_cell)]
    for layer in range(num_layers):
        outputs, names = [], []
        for cell in cells[layer * directions :][:directions]:
            name = flow.name_of(originals[cell[0]])
            w_ih, w_hh = params[cell[0]].abs(), params[cell[1]].abs()
            before = flow.sources
            read_linear(flow, name, input, w_ih)
            units = w_hh.shape[1]
            leaf = flow.write(name, w_ih.sum(1).view(-1, units).sum(0), channel_dim=0)
            hidden = leaf.expand(*input.shape[:-1], units)
            read_linear(flow, name, hidden, w_hh)
            outputs.append(hidden)
            finals.append(hidden.select(time, -1))
            names.append(name)
            flow.sources = before
        input = torch.cat(outputs, -1)
        flow.sources = frozenset(names)
    return input, *([torch.stack(finals)] * kinds)
