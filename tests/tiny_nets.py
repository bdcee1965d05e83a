"""Tiny networks from a description that an oracle can read: a list of nodes, each one operator.

A `Graph` is written node by node and knows every shape; `Net` is the `nn.Module` that runs it. The oracles
read the graph and never the module's forward, so they share nothing with the code they check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Args = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """One operator; two nodes that name the same `layer` share its module."""

    name: str
    op: str
    inputs: tuple[str, ...]
    args: Args
    layer: str


@dataclass
class Graph:
    """Nodes in the order they run, with the shape (without the batch) of everything they produce."""

    inputs: dict[str, Shape]
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = {**self.inputs, **self.shapes}

    def add(self, op: str, *inputs: str, layer: str | None = None, **args: Any) -> str:
        """Append a node and return its name, which is also its module's name unless `layer` is given."""
        name = f"{op}{len(self.nodes)}"
        node = Node(name, op, inputs, args, layer or name)
        tensors = [torch.zeros(1, *self.shapes[i], device="meta") for i in inputs]
        with torch.device("meta"):
            run = make_layer(op, self.shapes[inputs[0]], args) if op in LAYERS else FUNCTIONS[op]
            if isinstance(run, nn.Module):
                run.eval()
            self.shapes[name] = tuple(run(*tensors).shape[1:])
        self.nodes.append(node)
        return name

    def chain(self, start: str, *steps: tuple[str, Args]) -> str:
        """Append single-input nodes one after the other and return the last one's name."""
        for op, args in steps:
            start = self.add(op, start, **args)
        return start

    def readers(self, name: str) -> list[tuple[Node, int]]:
        """Nodes that read `name`, each with the position of the argument it reads it as."""
        return [(node, slot) for node in self.nodes for slot, i in enumerate(node.inputs) if i == name]

    def sinks(self) -> list[str]:
        return [node.name for node in self.nodes if not self.readers(node.name)]

    def is_feed(self, node: Node) -> bool:
        """Whether channels are mixed here: any linear, and any convolution that is not depthwise."""
        if node.op in {"linear", "linear_last"}:
            return True
        groups = node.args.get("groups", 1)
        return node.op in {"conv", "tconv"} and (groups == 1 or groups < self.shapes[node.inputs[0]][0])


class LinearLast(nn.Linear):
    """A linear layer over the channels of (N, C, H, W), as in ConvNeXt: through (N, H, W, C) and back."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def _conv(shape: Shape, args: Args) -> nn.Module:
    kind = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}[len(shape)]
    options = {"kernel_size": 1, **args}
    return kind(shape[0], options.pop("out"), **options)


def _tconv(shape: Shape, args: Args) -> nn.Module:
    options = {"kernel_size": 2, **args}
    return nn.ConvTranspose2d(shape[0], options.pop("out"), **options)


def _depthwise(shape: Shape, args: Args) -> nn.Module:
    multiplier = args.get("multiplier", 1)
    options = {k: v for k, v in args.items() if k != "multiplier"}
    return _conv(shape, {"kernel_size": 3, "padding": 1, "out": shape[0] * multiplier, "groups": shape[0], **options})


def _norm(shape: Shape, args: Args) -> nn.Module:
    return {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}[len(shape)](shape[0], **args)


LAYERS: dict[str, Callable[[Shape, Args], nn.Module]] = {
    "conv": _conv,
    "tconv": _tconv,
    "dw": _depthwise,
    "bn": _norm,
    "linear": lambda shape, args: nn.Linear(shape[-1], args["out"], bias=args.get("bias", True)),
    "linear_last": lambda shape, args: LinearLast(shape[0], args["out"]),
    "act": lambda shape, args: getattr(nn, args["kind"])(*args.get("args", ())),
    "relu": lambda shape, args: nn.ReLU(**args),
    "avgpool": lambda shape, args: nn.AvgPool2d(**args),
    "maxpool": lambda shape, args: nn.MaxPool2d(**args),
    "gap": lambda shape, args: nn.AdaptiveAvgPool2d(args.get("size", 1)),
    "upsample": lambda shape, args: nn.Upsample(scale_factor=2, **args),
    "flatten": lambda shape, args: nn.Flatten(),
    "pad": lambda shape, args: nn.ZeroPad2d(args["size"]),
    "shuffle": lambda shape, args: nn.ChannelShuffle(args["groups"]),
}

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": lambda *xs: sum(xs[1:], start=xs[0]),
    "add_": lambda x, y: x.add_(y),  # only where nothing else reads x
    "cat": lambda *xs: torch.cat(xs, 1),
    "even": lambda x: x[:, ::2],
    "head": lambda x: x.chunk(2, 1)[0],
    "tail": lambda x: x.chunk(2, 1)[1],
}


def make_layer(op: str, shape: Shape, args: Args) -> nn.Module:
    return LAYERS[op](shape, args)


class Net(nn.Module):
    """The module a graph describes: random weights, biases and BatchNorm statistics, gammas of both signs."""

    def __init__(self, graph: Graph, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.graph = graph
        for node in graph.nodes:
            if node.op in LAYERS and node.layer not in self._modules:
                self.add_module(node.layer, make_layer(node.op, graph.shapes[node.inputs[0]], node.args))
        self.to(dtype).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.state_dict().items():
                if name.endswith("running_var"):
                    value.uniform_(0.3, 2, generator=generator)
                elif value.is_floating_point():
                    value.normal_(generator=generator)

    def apply_node(self, node: Node, *tensors: Tensor) -> Tensor:
        run = self._modules[node.layer] if node.op in LAYERS else FUNCTIONS[node.op]
        assert run is not None
        result: Tensor = run(*tensors)
        return result

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = {**dict(zip(self.graph.inputs, inputs, strict=False)), **named}
        for node in self.graph.nodes:
            values[node.name] = self.apply_node(node, *(values[i] for i in node.inputs))
        results = tuple(values[name] for name in self.graph.sinks())
        return results if len(results) > 1 else results[0]

    def example(self, batch: int = 1) -> Any:
        """Random inputs as `bgsc` takes them: a tensor for one input, a tuple for several."""
        dtype = next(self.parameters()).dtype
        tensors = tuple(torch.rand(batch, *shape, dtype=dtype) for shape in self.graph.inputs.values())
        return tensors if len(tensors) > 1 else tensors[0]
