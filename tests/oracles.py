"""Brute-force BGSC from explicit operator matrices, in float64. No autograd, no factorisation.

`saliency_by_paths` is the definition taken literally: every operator's matrix at its true input size (from
pushing basis vectors through the layer), entry-wise absolute values, every path from a feed-in layer to the
feed-out layers that read it, matrix products along it. `magnitude` is a second, unrelated way: it pushes the
magnitude of some channels forward through the absolute operators; it covers max-pooling, which has no matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_nets import Graph, Net, Node, Shape

Element = tuple[str, int]  # (feed-in layer's module name, output channel)


@torch.no_grad()
def absolute_matrix(linear: Callable[[Tensor], Tensor], shape: Shape) -> np.ndarray:
    """|M|, outputs by inputs, of a linear function on this shape, from its values on basis vectors."""
    size = int(np.prod(shape))
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return np.abs(linear(basis).reshape(size, -1).numpy().T)


class Operators:
    """Entry-wise absolute values of the explicit matrices of a net's operators, biases and shifts dropped."""

    def __init__(self, net: Net) -> None:
        self.graph = net.graph
        self._net = deepcopy(net).double().eval()
        for name, value in self._net.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.zero_()
        self._matrices: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, node: Node, slot: int = 0) -> np.ndarray:
        """|M|, outputs by inputs, of `node` as a function of its argument number `slot`."""
        key = (node.name, slot)
        if key not in self._matrices:
            self._matrices[key] = self._absolute(node, slot)
        return self._matrices[key]

    def _absolute(self, node: Node, slot: int) -> np.ndarray:
        shapes = [self.graph.shapes[i] for i in node.inputs]
        size = int(np.prod(shapes[slot]))
        if node.op == "maxpool":
            raise ValueError("max-pooling has no matrix")
        if node.op in {"relu", "act"}:
            return np.eye(size)
        if "padding_mode" in node.args:
            return self._padded_convolution(node, shapes[0])

        def run(basis: Tensor) -> Tensor:
            tensors = [torch.zeros(size, *shape, dtype=torch.float64) for shape in shapes]
            tensors[slot] = basis
            return self._net.apply_node(node, *tensors)

        return absolute_matrix(run, shapes[slot])

    def _padded_convolution(self, node: Node, shape: Shape) -> np.ndarray:
        """Circular or reflecting padding is an operator of its own: |M| = |conv| |pad|."""
        layer, margin = getattr(self._net, node.layer), [node.args.get("padding", 1)] * 4
        pad = partial(F.pad, pad=margin, mode=node.args["padding_mode"])
        padded = tuple(pad(torch.zeros(1, *shape)).shape[1:])
        convolve = partial(F.conv2d, weight=layer.weight, stride=layer.stride, groups=layer.groups)
        return absolute_matrix(convolve, padded) @ absolute_matrix(pad, shape)

    def pool(self, node: Node, value: np.ndarray) -> np.ndarray:
        """Max-pooling applied to magnitudes: |max x - max y| <= max |x - y|."""
        x = torch.from_numpy(value).reshape(1, *self.graph.shapes[node.inputs[0]])
        return self._net.apply_node(node, x).reshape(-1).numpy()


def channel_rows(graph: Graph, node: Node, channel: int) -> np.ndarray:
    """Indices of one channel's positions in the flattened output of `node`."""
    shape = graph.shapes[node.name]
    index = np.arange(np.prod(shape)).reshape(shape)
    return index[channel].reshape(-1)


def _paths(operators: Operators, name: str, product: np.ndarray) -> Iterator[tuple[Node, np.ndarray]]:
    """Every path from `name` to the first convolution or linear on it, with the product of its matrices."""
    for node, slot in operators.graph.readers(name):
        longer = operators(node, slot) @ product
        if operators.graph.is_feed(node):
            yield node, longer
        else:
            yield from _paths(operators, node.name, longer)


def saliency_by_pair(net: Net) -> dict[tuple[str, str], np.ndarray]:
    """For every (feed-in layer, feed-out layer downstream): one number per output channel of the former."""
    operators, graph = Operators(net), net.graph
    result: dict[tuple[str, str], np.ndarray] = {}
    for feed_in in filter(graph.is_feed, graph.nodes):
        rows = operators(feed_in)
        width = graph.shapes[feed_in.name][0]
        for feed_out, left in _paths(operators, feed_in.name, np.eye(len(rows))):
            parts = [channel_rows(graph, feed_in, c) for c in range(width)]
            scores = np.array([(left[:, at] @ rows[at, :]).sum() for at in parts])
            pair = (feed_in.layer, feed_out.layer)
            result[pair] = result.get(pair, np.zeros(width)) + scores
    return result


def saliency_by_paths(net: Net) -> dict[str, np.ndarray]:
    """BGSC by definition: one number per output channel of every layer that a convolution or linear reads."""
    result: dict[str, np.ndarray] = {}
    for (feed_in, _), scores in saliency_by_pair(net).items():
        result[feed_in] = result.get(feed_in, np.zeros_like(scores)) + scores
    return result


def relative_saliency(net: Net) -> dict[str, np.ndarray]:
    """Shares of each feed-out layer's total over everything that feeds it, in multiples of an equal share."""
    pairs = saliency_by_pair(net)
    totals: dict[str, float] = {}
    for (_, feed_out), scores in pairs.items():
        totals[feed_out] = totals.get(feed_out, 0.0) + scores.sum()
    result: dict[str, np.ndarray] = {}
    for (feed_in, feed_out), scores in pairs.items():
        result[feed_in] = result.get(feed_in, np.zeros_like(scores)) + len(scores) * scores / totals[feed_out]
    return result


def magnitude(operators: Operators, elements: Iterable[Element] | None = None) -> float:
    """Sum of what all feed-out layers make of the magnitudes of these channels alone (None: of all).

    Every feed-in layer starts from ones; channels not named are zero; each layer reads and starts anew.
    """
    graph = operators.graph
    kept = None if elements is None else set(elements)
    values = {name: np.zeros(int(np.prod(shape))) for name, shape in graph.inputs.items()}
    total = 0.0
    for node in graph.nodes:
        if graph.is_feed(node):
            matrix = operators(node)
            total += float((matrix @ values[node.inputs[0]]).sum())
            value = matrix.sum(1)
            for channel in range(graph.shapes[node.name][0]):
                if kept is not None and (node.layer, channel) not in kept:
                    value[channel_rows(graph, node, channel)] = 0
        elif node.op == "maxpool":
            value = operators.pool(node, values[node.inputs[0]])
        else:
            value = sum(operators(node, slot) @ values[i] for slot, i in enumerate(node.inputs))
        values[node.name] = value
    return total


def relative_error(scores: Tensor, expected: np.ndarray) -> float:
    """Largest relative error of any channel; a channel whose score should be 0 must be exactly 0."""
    found = scores.detach().double().numpy()
    assert found.shape == expected.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(found == expected, 0.0, np.abs(found - expected) / expected)
    return float(errors.max())
