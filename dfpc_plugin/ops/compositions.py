"""Operators that are compositions of known ones: distances, products of vectors, and the cells of recurrent layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from dfpc_plugin.ops.record import composed
from dfpc_plugin.tracing.operator import forms, present


@composed(*present("cosine_similarity"))
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The product of both, divided by their norms."""
    lengths = [x.norm(dim=dim).clamp_min(eps) for x in (x1, x2)]
    return (x1 * x2).sum(dim) / (lengths[0] * lengths[1])


@composed(*present("pairwise_distance"))
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The norm of the difference."""
    return (x1 - x2 + eps).norm(p=p, dim=-1, keepdim=keepdim)


@composed(*forms("dist"))
def distance(input: Any, other: Any, p: float = 2.0) -> Any:
    """The norm of the difference of whole tensors."""
    return (input - other).norm(p=p)


@composed(*forms("outer", "ger"))
def outer(input: Any, vec2: Any) -> Any:
    """The product of a column and a row."""
    return input.unsqueeze(1) * vec2.unsqueeze(0)


@composed(torch.chain_matmul, torch.linalg.multi_dot)
def chain(*tensors: Any) -> Any:
    """Matrix products, one after the other."""
    return functools.reduce(torch.matmul, tensors[0] if isinstance(tensors[0], list | tuple) else tensors)


@composed(*forms("aminmax"))
def extremes(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest."""
    ends = (input.amin(), input.amax()) if dim is None else (input.amin(dim, keepdim), input.amax(dim, keepdim))
    return torch.return_types.aminmax(ends)


@composed(*forms("diff"))
def difference(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Each element minus the one before it, `n` times."""
    parts = [part for part in (prepend, input, append) if part is not None]
    result = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        count = result.shape[dim] - 1
        result = result.narrow(dim, 1, count) - result.narrow(dim, 0, count)
    return result


@composed(torch.complex)
def complex_of_parts(real: Any, imag: Any) -> Any:
    """Real and imaginary parts, side by side."""
    return torch.view_as_complex(torch.stack((real, imag), -1))


@composed(torch.tensordot)
def contraction(a: Any, b: Any, dims: Any = 2) -> Any:
    """A matrix product over some axes of both, put side by side."""
    if isinstance(dims, int):
        dims = range(a.dim() - dims, a.dim()), range(dims)
    ours, theirs = ([own] if isinstance(own, int) else [int(axis) for axis in own] for own in dims)
    ours, theirs = [axis % a.dim() for axis in ours], [axis % b.dim() for axis in theirs]
    rows, columns = (
        [axis for axis in range(own.dim()) if axis not in summed] for own, summed in ((a, ours), (b, theirs))
    )
    if not ours:
        return a.reshape(*a.shape, *[1] * b.dim()) * b
    left, right = a.permute(*rows, *ours), b.permute(*theirs, *columns)
    left, right = left.flatten(len(rows)), right.flatten(0, len(theirs) - 1)
    found = left @ (right.flatten(1) if len(columns) > 1 else right)
    return found.unflatten(-1, [b.shape[axis] for axis in columns]) if len(columns) > 1 else found


@composed(*forms("hsplit"))
def columns(input: Any, indices_or_sections: Any) -> Any:
    """Parts along axis 1; along axis 0 of a vector."""
    return torch.tensor_split(input, indices_or_sections, 0 if input.dim() == 1 else 1)


@composed(*forms("vsplit"))
def rows(input: Any, indices_or_sections: Any) -> Any:
    """Parts along axis 0."""
    return torch.tensor_split(input, indices_or_sections, 0)


@composed(*forms("dsplit"))
def layers(input: Any, indices_or_sections: Any) -> Any:
    """Parts along axis 2."""
    return torch.tensor_split(input, indices_or_sections, 2)


@composed(*present("broadcast_tensors"))
def broadcast(*tensors: Any) -> Any:
    """Expand all to one shape."""
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return [tensor.expand(shape) for tensor in tensors]


@composed(torch.lstm_cell)
def lstm_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """One step of `nn.LSTMCell`: gates for input, memory and output, and what is new."""
    hidden, memory = hx
    gates = F.linear(input, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
    take, keep, new, show = gates.chunk(4, 1)
    memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
    return show.sigmoid() * memory.tanh(), memory


@composed(torch.gru_cell)
def gru_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """One step of `nn.GRUCell`: gates for reset and update, and what is new."""
    reset, update, new = F.linear(input, w_ih, b_ih).chunk(3, 1)
    own_reset, own_update, own_new = F.linear(hx, w_hh, b_hh).chunk(3, 1)
    share = (update + own_update).sigmoid()
    return (1 - share) * (new + (reset + own_reset).sigmoid() * own_new).tanh() + share * hx


def _rnn_cell(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    def step(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        return activation(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))

    step.__doc__ = "One step of `nn.RNNCell`."
    return step


composed(torch.rnn_tanh_cell)(_rnn_cell(torch.tanh))
composed(torch.rnn_relu_cell)(_rnn_cell(torch.relu))
