"""Expected squared outputs by hand: channel by channel, writer by writer, in plain Python numbers.

For networks whose channels meet one by one (no concatenation) and whose kernels cover one position, or whose borders
may be neglected. A `Signal` holds, for each channel, the expected value and the variance that each layer contributes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Moments = Callable[[float, float], tuple[float, float]]
"""From the mean and the variance of a normal variable to those of a function of it."""


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _below(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _over(mean: float, deviation: float, edge: float) -> tuple[float, float, float]:
    """E[1], E[x] and E[x^2] over x > edge."""
    a = (edge - mean) / deviation
    tail, density = 1 - _below(a), _density(a)
    first = mean * tail + deviation * density
    second = (mean**2 + deviation**2) * tail + deviation * (mean + edge) * density
    return tail, first, second


def relu_moments(mean: float, variance: float) -> tuple[float, float]:
    if variance == 0:
        return max(mean, 0.0), 0.0
    _, first, second = _over(mean, math.sqrt(variance), 0.0)
    return first, max(second - first**2, 0.0)


def relu6_moments(mean: float, variance: float) -> tuple[float, float]:
    """Linear between 0 and 6, six beyond."""
    if variance == 0:
        return min(max(mean, 0.0), 6.0), 0.0
    deviation = math.sqrt(variance)
    low, high = _over(mean, deviation, 0.0), _over(mean, deviation, 6.0)
    first = low[1] - high[1] + 6 * high[0]
    return first, max(low[2] - high[2] + 36 * high[0] - first**2, 0.0)


def gelu_moments(mean: float, variance: float) -> tuple[float, float]:
    """By a fine sum over eight deviations to both sides."""
    deviation, steps = math.sqrt(variance), 4000
    total = first = second = 0.0
    for step in range(steps):
        z = -8 + 16 * (step + 0.5) / steps
        x, weight = mean + deviation * z, _density(z)
        y = x * _below(x)
        total, first, second = total + weight, first + weight * y, second + weight * y * y
    return first / total, second / total - (first / total) ** 2


@dataclass(frozen=True)
class Signal:
    """What flows: `parts[layer][c]` is the variance that a layer's channel c brings to channel c; means, where known."""

    parts: dict[str, list[float]]
    means: list[float] | None

    @property
    def variances(self) -> list[float]:
        return [sum(values) for values in zip(*self.parts.values(), strict=True)]

    def times(self, factors: Sequence[float], means: list[float] | None) -> Signal:
        """Channel c's variance times factors[c]."""
        parts = {
            layer: [value * factor for value, factor in zip(values, factors, strict=True)]
            for layer, values in self.parts.items()
        }
        return Signal(parts, means)

    def scaled(self, constants: Sequence[float]) -> Signal:
        """Every channel times a constant: a layer scale, or a depthwise kernel of one position."""
        means = self.means and [k * m for k, m in zip(constants, self.means, strict=True)]
        return self.times([k * k for k in constants], means)

    def brought_to(self, targets: Sequence[float], means: list[float]) -> Signal:
        """Channel c's variance to be targets[c]."""
        return self.times([t / v if v else 0.0 for t, v in zip(targets, self.variances, strict=True)], means)

    def through(self, moments: Moments) -> Signal:
        assert self.means is not None
        found = [moments(m, v) for m, v in zip(self.means, self.variances, strict=True)]
        return self.brought_to([variance for _, variance in found], [mean for mean, _ in found])

    def shifted(self, bias: Tensor | None) -> Signal:
        assert self.means is not None and bias is not None
        return Signal(self.parts, [m + b for m, b in zip(self.means, bias.tolist(), strict=True)])

    def __add__(self, other: Signal) -> Signal:
        parts = {layer: list(values) for layer, values in self.parts.items()}
        for layer, values in other.parts.items():
            parts[layer] = [a + b for a, b in zip(parts.get(layer, [0.0] * len(values)), values, strict=True)]
        assert self.means is not None and other.means is not None
        return Signal(parts, [a + b for a, b in zip(self.means, other.means, strict=True)])


INPUT = "input"


class Oracle:
    """Runs a network's layers one by one and adds up the shares of what each of them reads."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.scores: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def input(self, channels: int) -> Signal:
        """Unit variances; what a picture's channels are on average is not known."""
        return Signal({INPUT: [1.0] * channels}, None)

    def mix(self, name: str, signal: Signal) -> Signal:
        """A convolution or a linear layer: read, then write."""
        layer = self.model.get_submodule(name)
        weight, bias = layer.weight.detach().double(), layer.bias
        outputs, inputs = weight.shape[0], weight.shape[1]
        kernels = weight.reshape(outputs, inputs, -1).tolist()
        squares = [[sum(w * w for w in kernel) for kernel in row] for row in kernels]
        sums = [[sum(kernel) for kernel in row] for row in kernels]
        columns = [sum(squares[o][c] for o in range(outputs)) for c in range(inputs)]
        variances = signal.variances
        total = sum(column * variance for column, variance in zip(columns, variances, strict=True))
        for writer, values in signal.parts.items():
            if writer == INPUT:
                continue
            for c in range(inputs):
                share = inputs * columns[c] * values[c] / total
                self.scores[writer][c] = self.scores[writer].get(c, 0.0) + share
        written = [sum(row[c] * variances[c] for c in range(inputs)) for row in squares]
        means = None
        if signal.means is not None:
            shifts = [0.0] * outputs if bias is None else bias.tolist()
            means = [
                sum(row[c] * signal.means[c] for c in range(inputs)) + b for row, b in zip(sums, shifts, strict=True)
            ]
        return Signal({name: written}, means)

    def batch_norm(self, name: str, signal: Signal) -> Signal:
        norm = self.model.get_submodule(name)
        return signal.brought_to(norm.weight.square().tolist(), norm.bias.tolist())

    def group_norm(self, name: str, signal: Signal) -> Signal:
        """Shares gamma^2 out within each group; a layer norm is one group."""
        norm = self.model.get_submodule(name)
        variances = signal.variances
        size = len(variances) // getattr(norm, "num_groups", 1)
        targets = []
        for c, gamma in enumerate(norm.weight.tolist()):
            group = variances[c // size * size :][:size]
            targets.append(gamma**2 * variances[c] / (sum(group) / size + norm.eps))
        return signal.brought_to(targets, norm.bias.tolist())

    def depthwise(self, name: str, signal: Signal) -> Signal:
        layer = self.model.get_submodule(name)
        signal = signal.scaled(layer.weight.flatten(1).sum(1).tolist())
        return signal if layer.bias is None else signal.shifted(layer.bias)


def by_hand(model):
    oracle = Oracle(model)
    model.walk(oracle)
    return {name: torch.tensor(list(s.values()), dtype=torch.float64) for name, s in oracle.scores.items()}


def filled(model, seed=0):
    """Random weights, gammas of both signs, betas, biases and statistics; double precision, evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.double().eval().state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.3, 2, generator=generator)
            elif value.is_floating_point():
                value.normal_(generator=generator)
    return model


class Chain(nn.Module):
    """Convolutions and norms in a row; the last two have no norm between them."""

    def __init__(self, kernel: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for number, (inputs, outputs) in enumerate(((3, 4), (4, 6), (6, 5), (5, 3))):
            self.body.append(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))
            if number < 2:
                self.body.append(norm(outputs))
            self.body.append(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def walk(self, o: Oracle) -> None:
        s = o.input(3)
        for name, layer in self.body.named_children():
            if isinstance(layer, nn.Conv2d):
                s = o.mix(f"body.{name}", s)
            elif isinstance(layer, nn.BatchNorm2d):
                s = o.batch_norm(f"body.{name}", s)
            elif isinstance(layer, nn.GroupNorm):
                s = o.group_norm(f"body.{name}", s)
            else:
                s = s.through(relu_moments)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        if inputs == outputs:
            self.down = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.down(x)).relu()

    def walk(self, o: Oracle, s: Signal, path: str) -> Signal:
        y = o.batch_norm(f"{path}.bn1", o.mix(f"{path}.conv1", s)).through(relu_moments)
        y = o.batch_norm(f"{path}.bn2", o.mix(f"{path}.conv2", y))
        if len(self.down):
            s = o.batch_norm(f"{path}.down.1", o.mix(f"{path}.down.0", s))
        return (y + s).through(relu_moments)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2), Block(6, 6, 1))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.bn(self.stem(x)).relu_()).mean((2, 3)))

    def walk(self, o: Oracle) -> None:
        s = o.batch_norm("bn", o.mix("stem", o.input(3))).through(relu_moments)
        for number, block in enumerate(self.blocks):
            s = block.walk(o, s, f"blocks.{number}")
        o.mix("head", s)


class Perceptron(nn.Module):
    """LayerNorm, GELU and biases; a branch with a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(7), nn.GELU()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 8)
        self.third, self.last = nn.Linear(8, 7), nn.Linear(7, 4)
        self.scale = nn.Parameter(Tensor(7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        y = self.third(self.act(self.second(x)))
        return self.last(self.act(x + y * self.scale))

    def walk(self, o: Oracle) -> None:
        s = o.group_norm("norm", o.mix("first", o.input(6))).through(gelu_moments)
        y = o.mix("third", o.mix("second", s).through(gelu_moments))
        o.mix("last", (s + y.scaled(self.scale.tolist())).through(gelu_moments))


class Separable(nn.Module):
    """A depthwise convolution with a norm behind it, and one with nothing but a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.dw1, self.bn2 = nn.Conv2d(6, 6, 1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.dw2, self.act = nn.Conv2d(6, 6, 1, groups=6), nn.ReLU6()
        self.project, self.bn3, self.last = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn2(self.dw1(self.act(self.bn1(self.expand(x))))))
        return self.last(self.bn3(self.project(self.act(self.dw2(x)))))

    def walk(self, o: Oracle) -> None:
        s = o.batch_norm("bn1", o.mix("expand", o.input(3))).through(relu6_moments)
        s = o.batch_norm("bn2", o.depthwise("dw1", s)).through(relu6_moments)
        s = o.depthwise("dw2", s).through(relu6_moments)
        o.mix("last", o.batch_norm("bn3", o.mix("project", s)))
