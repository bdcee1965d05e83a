"""A hypothesis strategy for tiny networks: at most 6 channels and 7x7 positions, to keep matrices small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

from hypothesis import strategies as st

from tiny_nets import Graph

MAX_CHANNELS, MAX_SIZE = 6, 7


@dataclass
class Grower:
    """Appends random blocks to a graph; what it may use is set by the test."""

    graph: Graph
    draw: Callable[[Any], Any]
    activations: tuple[str, ...] = ("ReLU",)
    batchnorm: bool = True
    groups: bool = True
    maxpool: bool = False
    bias: bool = True

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def width(self, t: str) -> int:
        return self.graph.shapes[t][0]

    def touch_up(self, t: str) -> str:
        """Maybe BatchNorm, maybe an activation."""
        if self.batchnorm and self.flag():
            t = self.graph.add("bn", t)
        return self.graph.add("act", t, kind=self.draw(st.sampled_from(self.activations))) if self.flag() else t

    def conv(self, t: str, out: int | None = None, stride: int = 1, same: bool = True) -> str:
        """A convolution that keeps the positions (before the stride) if `same`, else any that fits."""
        channels, *size = self.graph.shapes[t]
        out = out or self.integer(1, MAX_CHANNELS)
        kernel, dilation = self.draw(st.sampled_from(((3, 1), (1, 1), (3, 2)) if same else ((2, 1), (3, 1), (2, 2))))
        reach = dilation * (kernel - 1)
        padding = reach // 2
        if not same:
            stride = self.integer(1, 2)
            padding = reach if min(size) <= reach else self.integer(0, reach // 2)
        groups = 1
        if self.groups:
            fitting = [g for g in range(1, gcd(channels, out) + 1) if gcd(channels, out) % g == 0 and g < channels]
            groups = self.draw(st.sampled_from(fitting or [1]))
        options = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride, "groups": groups}
        return self.graph.add("conv", t, out=out, bias=self.bias and self.flag(), **options)

    # Blocks: each takes a tensor's name and returns one.

    def plain(self, t: str) -> str:
        return self.touch_up(self.conv(t, same=False))

    def residual(self, t: str) -> str:
        y = t
        for _ in range(self.integer(0, 1)):
            y = self.touch_up(self.conv(y))
        y = self.conv(y, self.width(t))
        return self.touch_up(self.graph.add("add", *self.draw(st.permutations((self.touch_up(y), t)))))

    def downsample(self, t: str) -> str:
        stride = 2 if min(self.graph.shapes[t][1:]) > 1 else 1
        out = self.integer(1, MAX_CHANNELS)
        branches = [self.touch_up(self.conv(t, out, stride)) for _ in range(self.integer(2, 3))]
        return self.touch_up(self.graph.add("add", *branches))

    def concatenate(self, t: str) -> str:
        room = MAX_CHANNELS - self.width(t)
        if room < 1:
            return self.plain(t)
        y = self.touch_up(self.conv(t, self.integer(1, room)))
        return self.touch_up(self.graph.add("cat", *self.draw(st.permutations((t, y)))))

    def mixed(self, t: str) -> str:
        """A concatenation added to a layer of the joint width."""
        if self.width(t) > MAX_CHANNELS - 1:
            return self.plain(t)
        joint = self.graph.add("cat", t, self.conv(t, 1))
        return self.touch_up(self.graph.add("add", joint, self.conv(t, self.width(joint))))

    def depthwise(self, t: str) -> str:
        multiplier = self.integer(1, 2) if 1 < self.width(t) <= MAX_CHANNELS // 2 else 1
        if self.width(t) == 1:
            return self.plain(t)
        return self.touch_up(self.graph.add("dw", t, multiplier=multiplier, stride=self.integer(1, 2)))

    def inverted(self, t: str) -> str:
        y = self.touch_up(self.conv(t, self.integer(2, MAX_CHANNELS)))
        y = self.touch_up(self.graph.add("dw", y, bias=self.bias))
        return self.graph.add("add", t, self.touch_up(self.conv(y, self.width(t))))

    def pool(self, t: str) -> str:
        op = self.draw(st.sampled_from(("avgpool", "maxpool"))) if self.maxpool else "avgpool"
        options: dict[str, Any] = {"kernel_size": 3, "stride": self.integer(1, 2), "padding": 1}
        if op == "avgpool":
            options["count_include_pad"] = self.flag()
        return self.graph.add(op, t, **options)

    def two_ways(self, t: str) -> str:
        """Two paths without a layer between: a tensor and its pooled self."""
        return self.graph.add("add", t, self.graph.add("avgpool", t, kernel_size=3, stride=1, padding=1))

    def enlarge(self, t: str) -> str:
        if max(self.graph.shapes[t][1:]) > MAX_SIZE // 2:
            return self.pool(t)
        if self.flag():
            return self.graph.add("upsample", t, mode="nearest")
        return self.touch_up(self.graph.add("tconv", t, out=self.integer(1, MAX_CHANNELS), stride=2, bias=self.bias))

    def head(self, t: str) -> None:
        kind = self.draw(st.sampled_from(("conv", "gap", "flatten", "hidden", "none")))
        if kind == "conv":
            self.conv(t)
        elif kind != "none":
            t = self.graph.add("flatten", self.graph.add("gap", t) if kind == "gap" else t)
            if kind == "hidden":
                t = self.touch_up(self.graph.add("linear", t, out=self.integer(1, 4), bias=self.bias))
            self.graph.add("linear", t, out=self.integer(1, 3), bias=self.bias)


BLOCKS = (
    Grower.plain, Grower.residual, Grower.downsample, Grower.concatenate, Grower.mixed, Grower.depthwise,
    Grower.inverted, Grower.pool, Grower.two_ways, Grower.enlarge,
)  # fmt: skip


@st.composite
def graphs(draw: Callable[[Any], Any], max_blocks: int = 4, **allowed: Any) -> Graph:
    """A random network: a stem, some blocks, each on the latest tensor or an earlier one, a head."""
    image = (draw(st.integers(1, 3)), draw(st.integers(3, MAX_SIZE)), draw(st.integers(3, MAX_SIZE)))
    grower = Grower(Graph({"x": image}), draw, **allowed)
    ends = [grower.touch_up(grower.conv("x", same=draw(st.booleans())))]
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=max_blocks)):
        at = -1 if len(ends) == 1 or draw(st.integers(0, 3)) else -2
        ends.append(block(grower, ends[at]))
    grower.head(ends[-1])
    return grower.graph
