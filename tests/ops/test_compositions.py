"""Operators that are written out in known ones: the same values, and cells of recurrent layers that lose channels exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfpc_plugin as dfpc
from brute_force import Between
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.tracing.operator import find_operator
from dfpc_plugin.tracing.tree import tensors
from zero_cut import error_of_cut, random_units

generator = torch.Generator().manual_seed(0)
X, Y, V, W = (torch.randn(*s, generator=generator).double() for s in ((2, 6, 3), (2, 6, 3), (5,), (5,)))
SQUARE = torch.randn(4, 4, generator=generator).double()
CELL = [torch.randn(*s, generator=generator).double() for s in ((2, 3), (2, 4), (16, 3), (16, 4), (16,), (16,))]


def of_cell(gates: int) -> list[Any]:
    return [*CELL[:2], *(weights[: 4 * gates] for weights in CELL[2:])]


CALLS = [
    (F.cosine_similarity, (X, Y), {}), (F.cosine_similarity, (X, Y), {"dim": 2, "eps": 0.1}),
    (F.pairwise_distance, (X, Y), {}), (F.pairwise_distance, (X, Y), {"p": 1.0, "keepdim": True}),
    (torch.dist, (X, Y), {}), (torch.dist, (X, Y, 1), {}), (torch.outer, (V, W), {}), (torch.Tensor.ger, (V, W), {}),
    (torch.linalg.multi_dot, ([SQUARE, SQUARE, SQUARE],), {}), (torch.aminmax, (X,), {}), (torch.Tensor.aminmax, (X,), {"dim": 1}),
    (torch.Tensor.aminmax, (X,), {"dim": 1, "keepdim": True}), (torch.diff, (X,), {}), (torch.diff, (X, 2, 1), {}), (torch.diff, (X, 1, 2), {"prepend": Y, "append": Y}),
    (torch.broadcast_tensors, (X, Y[:, :1], V[:3]), {}), (torch.complex, (X, Y), {}),
    (torch.tensordot, (X, Y), {"dims": 0}), (torch.tensordot, (SQUARE, SQUARE, 1), {}), (torch.tensordot, (X, Y), {"dims": ([0, 2], [0, 2])}),
    (torch.tensordot, (X, Y, ([1], [1])), {}), (torch.hsplit, (X, 3), {}), (torch.Tensor.hsplit, (V, [2, 3]), {}), (torch.vsplit, (X, 2), {}), (torch.dsplit, (X, [1]), {}),
    *((join, (list(parts),), {}) for join in (torch.hstack, torch.vstack, torch.dstack, torch.column_stack)
      for parts in ((V, W), (SQUARE, SQUARE), (X, Y))),
    (torch.rsub, (X, Y), {"alpha": 2}), (torch.Tensor.__rpow__, (X, 2.0), {}), (torch.Tensor.__rmatmul__, (SQUARE, SQUARE), {}),
    (torch.addmm, (SQUARE[0], SQUARE, SQUARE), {"beta": 0.5, "alpha": 2}), (torch.addmv, (V, SQUARE[:, :3].repeat(2, 1)[:5], V[:3]), {}),
    (torch.baddbmm, (X[:, :, :1], X, Y.mT), {}), (torch.lerp, (X, Y, 0.3), {}), (torch.addcmul, (X, X, Y), {"value": 3}),
    (torch.addcdiv, (X, X, Y), {}), (torch.mm, (SQUARE, SQUARE), {}), (torch.bmm, (X, Y.mT), {}), (torch.mv, (SQUARE, SQUARE[0]), {}),
    (torch.inner, (X, Y), {}), (torch.inner, (X[0], Y[0]), {}), (torch.addmm, (SQUARE[0],), {"mat2": SQUARE.exp(), "mat1": SQUARE}), (torch.constant_pad_nd, (X, (1, 2), 3.0), {}),
    (torch.lstm_cell, (CELL[0], (CELL[1], CELL[1]), *of_cell(4)[2:]), {}), (torch.gru_cell, of_cell(3), {}),
    (torch.rnn_tanh_cell, of_cell(1), {}), (torch.rnn_relu_cell, of_cell(1), {}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_a_composition_returns_what_the_operator_does(function: Any, args: Any, kwargs: Any) -> None:
    operator = find_operator(function)
    assert operator is not None and operator.kind == "composed"
    wanted, found = function(*args, **kwargs), operator.bound(*args, **kwargs)
    torch.testing.assert_close(tensors(found), tensors(wanted))


def steps(model: Any, x: Tensor) -> Tensor:
    """A cell that is called on a row at a time."""
    state = None
    for row in x.unbind(1):
        state = model.cell(model.first(row), state)
    return model.last(state[0] if isinstance(state, tuple) else state)


CELLS = {
    "LSTM": lambda: nn.LSTMCell(6, 5),
    "GRU": lambda: nn.GRUCell(6, 5, bias=False),
    "tanh": lambda: nn.RNNCell(6, 5),
    "relu": lambda: nn.RNNCell(6, 5, nonlinearity="relu"),
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_loses_inputs_and_state(kind: str) -> None:
    model = Between(steps, first=nn.Linear(4, 6), cell=CELLS[kind](), last=nn.Linear(5, 2))
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    couplings = map_couplings(model, x)
    units = random_units(couplings, 0.4)
    assert len(units) == 2, "the inputs of the cell, and its state"
    assert error_of_cut(model, couplings, x, units) < 1e-12
    assert model.cell.weight_hh.shape[1] == model.cell.hidden_size == 3
    assert set(dfpc.bgsc(model, x)) >= {"first"}


@pytest.mark.parametrize("product", [torch.dot, torch.vdot, torch.matmul])
def test_a_product_of_two_vectors_of_data_is_scored(product: Any) -> None:
    model = Between(lambda m, x: product(m.first(x).flatten(), m.second(x).flatten()) + m.first(x),
                    first=nn.Linear(3, 4), second=nn.Linear(3, 4))  # fmt: skip
    scores = dfpc.bgsc(model, torch.randn(1, 3).double())
    assert all(bool(torch.isfinite(own).all()) for own in scores.values())


def test_an_encoder_with_a_padding_mask_is_pruned() -> None:
    """In evaluation mode PyTorch asks whether the padding is at the end, to compute with nested tensors."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = Between(
        lambda m, x: m.last(m.encoder(m.first(x), src_key_padding_mask=x[..., 0] == 0).mean(1)),
        first=nn.Linear(3, 8), encoder=nn.TransformerEncoder(layer, 1), last=nn.Linear(8, 2),
    )  # fmt: skip
    pruned = dfpc.prune(model, torch.randn(2, 5, 3).double(), "macs=0.6").model
    assert pruned(torch.randn(2, 5, 3).double()).isfinite().all()


@pytest.mark.parametrize("change", [
    lambda h, c: h.addcmul_(c, c), lambda h, c: torch.addcmul(h, c, c, out=h), lambda h, c: h.lerp_(c, 0.5),
])  # fmt: skip
def test_a_composition_in_place_changes_its_target(change: Any) -> None:
    """The composition makes a new tensor, and the operator is called for its effect on the old one."""

    def forward(model: Any, x: Tensor) -> Tensor:
        hidden, other = model.first(x), model.second(x)
        change(hidden, other)
        return model.last(hidden)

    model = Between(forward, first=nn.Linear(3, 4), second=nn.Linear(3, 4), last=nn.Linear(4, 2))
    assert dfpc.bgsc(model, torch.randn(1, 3).double())["second"].all()
