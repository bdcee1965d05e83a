"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import rule
from dfpc_plugin.flow.rules.linear import read_linear

__all__: list[str] = []


def _recurrent(
    flow: LayerContext,
    input: Tensor,
    hx: Any,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Per direction and layer: reads |W_ih| x and |W_hh| h, writes h = the gates' rows of |W_ih| 1 added up.

    An approximation: gates are taken at their full size, and a state is the same at every step. Scores are named after the input weights of each direction,
    one per hidden unit.
    """
    originals = flow.original("params")
    per_cell = len(params) // (num_layers * (2 if bidirectional else 1))
    kinds = len(hx) if isinstance(hx, tuple | list) else 1  # hidden states, and an LSTM's cells
    time = 1 if batch_first and input.dim() == 3 else 0
    finals: list[Tensor] = []
    cells = [range(start, start + per_cell) for start in range(0, len(params), per_cell)]
    for layer in range(num_layers):
        outputs, names = [], []
        for cell in cells[layer * (2 if bidirectional else 1) :][: 2 if bidirectional else 1]:
            name = flow.name_of(originals[cell[0]])
            w_ih, w_hh = params[cell[0]].abs(), params[cell[1]].abs()
            before = flow.sources
            read_linear(flow, name, input, w_ih)
            units = w_hh.shape[1]
            hidden = flow.write(name, w_ih.sum(1).view(-1, units).sum(0), channel_dim=0).expand(*input.shape[:-1], units)
            read_linear(flow, name, hidden, w_hh)
            outputs.append(hidden)
            finals.append(hidden.select(time, -1))
            names.append(name)
            flow.sources = before
        input = torch.cat(outputs, -1)
        flow.sources = frozenset(names)
    return input, *([torch.stack(finals)] * kinds)


@rule(torch.lstm, context=True)
def lstm(flow: LayerContext, input: Tensor, hx: Any, params: Any, *options: Any) -> tuple[Tensor, ...]:
    """Reads |W_ih| x and |W_hh| h; writes the four gates' rows of |W_ih| 1, added up."""
    return _recurrent(flow, input, hx, params, *options)


@rule(torch.gru, torch.rnn_tanh, torch.rnn_relu, context=True)
def gru(flow: LayerContext, input: Tensor, hx: Any, params: Any, *options: Any) -> tuple[Tensor, ...]:
    """Reads |W_ih| x and |W_hh| h; writes the gates' rows of |W_ih| 1, added up."""
    return _recurrent(flow, input, hx, params, *options)
