"""Hand-written tiny networks, one per way in which layers can meet. Each function returns a `Graph`."""

from __future__ import annotations

from typing import Any

from tiny_nets import Graph, Shape

Step = tuple[str, dict[str, Any]]

IMAGE: dict[str, Shape] = {"x": (3, 6, 5)}
SAME: dict[str, Any] = {"kernel_size": 3, "padding": 1}
HALF: dict[str, Any] = {**SAME, "stride": 2}
BN: Step = ("bn", {})
RELU: Step = ("relu", {})


def _classify(g: Graph, t: str, classes: int = 3) -> Graph:
    g.chain(t, ("gap", {}), ("flatten", {}), ("linear", {"out": classes}))
    return g


def plain() -> Graph:
    """Four convolutions in a row, two of them without BatchNorm, then flatten and a hidden linear layer."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 4, **SAME}), BN, RELU, ("conv", {"out": 5, **HALF, "bias": False}), RELU)
    t = g.chain(t, ("conv", {"out": 2, "kernel_size": (3, 1)}), ("avgpool", {"kernel_size": (1, 2)}), ("flatten", {}))
    g.chain(t, ("linear", {"out": 6}), BN, RELU, ("linear", {"out": 3, "bias": False}))
    return g


def residual() -> Graph:
    """A stem and two basic blocks: three layers write one stream, which each later block reads."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 4, **SAME}), BN, ("relu", {"inplace": True}))
    for _ in range(2):
        y = g.chain(t, ("conv", {"out": 3, **SAME}), BN, ("relu", {"inplace": True}), ("conv", {"out": 4, **SAME}), BN)
        t = g.add("relu", g.add("add_", y, t), inplace=True)
    return _classify(g, t)


def bottleneck() -> Graph:
    """Bottlenecks with a strided downsampling branch between two streams of different width."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 3, **SAME}), BN, RELU)
    for out, stride in ((4, 1), (6, 2), (6, 1)):
        y = g.chain(t, ("conv", {"out": 2}), BN, RELU, ("conv", {"out": 2, **SAME, "stride": stride}), BN, RELU)
        y = g.chain(y, ("conv", {"out": out}), BN)
        if g.shapes[t] != g.shapes[y]:
            t = g.chain(t, ("conv", {"out": out, "stride": stride}), BN)
        t = g.add("relu", g.add("add", y, t))
    return _classify(g, t)


def dense() -> Graph:
    """Every layer reads the concatenation of all before it; a transition with average pooling."""
    g = Graph(dict(IMAGE))
    t = g.add("conv", "x", out=3, **SAME)
    for _ in range(2):
        y = g.chain(t, BN, RELU, ("conv", {"out": 2, **SAME}))
        t = g.add("cat", t, y)
    t = g.chain(t, BN, RELU, ("conv", {"out": 3}), ("avgpool", {"kernel_size": 2}))
    return _classify(g, g.chain(g.add("cat", t, g.add("conv", t, out=2)), BN, RELU))


def inverted_residual() -> Graph:
    """Expand, depthwise, project, add; the depthwise convolution belongs to what lies between."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 3, **HALF}), BN, RELU)
    for kernel, stride in ((3, 1), (5, 1), (3, 2)):
        depthwise = ("dw", {"kernel_size": kernel, "padding": kernel // 2, "stride": stride})
        y = g.chain(t, ("conv", {"out": 6}), BN, RELU, depthwise, BN, RELU, ("conv", {"out": 3}), BN)
        t = g.add("add", y, t) if stride == 1 else y
    return _classify(g, t)


def depthwise_multiplier() -> Graph:
    """A depthwise convolution that makes two channels of each, added to a stream of the doubled width."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 3, **SAME}), BN)
    wide = g.chain(t, ("dw", {"multiplier": 2}), BN)
    t = g.add("add", wide, g.add("conv", t, out=6))
    return _classify(g, g.chain(t, RELU, ("dw", {"kernel_size": 2, "padding": 0}), ("dw", {}), ("conv", {"out": 2})))


def dilated() -> Graph:
    """Parallel dilated branches, summed with a pooled one."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 3, **SAME}), BN, RELU)
    branches = [g.add("conv", t, out=4, kernel_size=3, padding=d, dilation=d) for d in (1, 2, 3)]
    pooled = g.chain(t, ("conv", {"out": 4}), ("avgpool", {"kernel_size": 3, "stride": 1, "padding": 1}))
    return _classify(g, g.chain(g.add("add", *branches, pooled), BN, RELU, ("conv", {"out": 3, **SAME})))


def grouped() -> Graph:
    """ResNeXt-like grouped convolutions, one with several input and output channels per group."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 4, **SAME}), BN, RELU)
    y = g.chain(t, ("conv", {"out": 6, **SAME, "groups": 2}), BN, RELU, ("conv", {"out": 6, **SAME, "groups": 3}))
    y = g.chain(y, ("shuffle", {"groups": 2}), ("conv", {"out": 4}), BN)
    return _classify(g, g.add("relu", g.add("add", t, y)))


def transposed_decoder() -> Graph:
    """Encoder and decoder with a skip: plain, grouped and depthwise transposed convolutions, upsampling."""
    g = Graph({"x": (2, 6, 4)})
    skip = g.chain("x", ("conv", {"out": 3, **SAME}), BN, RELU)
    t = g.chain(skip, ("conv", {"out": 4, **HALF}), BN, RELU, ("tconv", {"out": 3, "stride": 2}))
    t = g.add("add", t, g.chain(skip, ("avgpool", {"kernel_size": 2}), ("upsample", {"mode": "nearest"})))
    t = g.chain(t, RELU, ("conv", {"out": 4, **HALF}), ("tconv", {"out": 6, "kernel_size": 3, "groups": 2}))
    t = g.chain(t, ("tconv", {"out": 6, "kernel_size": 3, "groups": 6, "stride": 1, "padding": 1, "dilation": 1}))
    t = g.chain(t, RELU, ("tconv", {"out": 3, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}))
    g.add("conv", g.chain(t, ("upsample", {"mode": "bilinear", "align_corners": False})), out=2)
    return g


def shared_module() -> Graph:
    """One convolution (and one BatchNorm) called twice: scores and what it reads add up over both."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 4, **SAME}), RELU)
    for _ in range(2):
        y = g.add("conv", t, layer="shared", out=4, **SAME)
        t = g.add("add", t, g.add("relu", g.add("bn", y, layer="shared_bn")))
    return _classify(g, t)


def two_inputs() -> Graph:
    """Two inputs, each through its own stem, added; the second one also reaches the sum by itself, halved."""
    g = Graph({"left": (3, 6, 5), "right": (2, 6, 5)})
    a = g.chain("left", ("conv", {"out": 2, **SAME}), BN)
    b = g.chain("right", ("conv", {"out": 2}), BN)
    return _classify(g, g.chain(g.add("add", a, b, "right"), RELU, ("conv", {"out": 4, **SAME})))


def nested_streams() -> Graph:
    """A concatenation of two streams added to a third layer, the same tensor read twice, and split halves."""
    g = Graph(dict(IMAGE))
    a = g.add("conv", "x", out=2, **SAME)
    b = g.add("conv", "x", out=4, **SAME)
    t = g.add("add", g.add("cat", a, b), g.add("conv", "x", out=6), g.add("cat", b, a))
    t = g.add("add", t, t)
    t = g.add("add", g.add("head", t), g.add("tail", t))
    return _classify(g, g.chain(t, BN, ("conv", {"out": 4}), ("even", {})))


def dead_ends() -> Graph:
    """Two heads and an auxiliary output: layers that no convolution or linear reads have no scores."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 4, **SAME}), BN, RELU)
    g.chain(t, ("conv", {"out": 3}), BN, RELU)
    y = g.chain(t, ("avgpool", {"kernel_size": 2}), ("conv", {"out": 5}), RELU)
    g.add("linear", g.add("flatten", y), out=2)
    return _classify(g, y)


def channels_last_linear() -> Graph:
    """ConvNeXt's block: depthwise, then linear layers over the last axis, and a residual."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("conv", {"out": 3, "kernel_size": 2, "stride": 2}), BN)
    y = g.chain(t, ("dw", {}), BN, ("linear_last", {"out": 6}), RELU, ("linear_last", {"out": 3}))
    return _classify(g, g.add("add", t, y))


def padded() -> Graph:
    """Every way to pad: in a module, in the convolution's own mode, as a string, and in pooling."""
    g = Graph(dict(IMAGE))
    t = g.chain("x", ("pad", {"size": (0, 1, 2, 0)}), ("conv", {"out": 3, "kernel_size": 3, "stride": 2}), BN)
    t = g.chain(t, ("pad", {"size": (1, 0, 1, 0)}), ("conv", {"out": 3, "kernel_size": (1, 3), "padding": "same"}))
    t = g.chain(t, ("conv", {"out": 4, **SAME, "padding_mode": "circular"}))
    t = g.chain(t, ("avgpool", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}))
    t = g.chain(t, ("conv", {"out": 4, **SAME, "padding_mode": "reflect"}))
    t = g.chain(t, ("avgpool", {"kernel_size": 2, "ceil_mode": True}), ("dw", {"padding_mode": "circular"}))
    g.chain(t, ("gap", {"size": (2, 1)}), ("flatten", {}), ("bn", {"affine": False}), ("linear", {"out": 2}))
    return g


def mlp() -> Graph:
    """Linear layers only, with a residual."""
    g = Graph({"x": (5,)})
    t = g.chain("x", ("linear", {"out": 4}), ("bn", {"eps": 0.1}), RELU)
    t = g.add("add", t, g.chain(t, ("linear", {"out": 6}), RELU, ("linear", {"out": 4})))
    g.add("linear", t, out=2)
    return g


def one_dimensional() -> Graph:
    """Conv1d, BatchNorm1d over a signal, a strided residual."""
    g = Graph({"x": (2, 9)})
    t = g.chain("x", ("conv", {"out": 3, **SAME}), BN, RELU)
    y = g.chain(t, ("conv", {"out": 4, **HALF}), BN, RELU, ("dw", {}), ("conv", {"out": 4, "groups": 2}))
    t = g.add("add", y, g.add("conv", t, out=4, stride=2))
    g.chain(t, RELU, ("flatten", {}), ("linear", {"out": 2}))
    return g


def three_dimensional() -> Graph:
    """Conv3d and BatchNorm3d with a residual."""
    g = Graph({"x": (1, 3, 4, 3)})
    t = g.chain("x", ("conv", {"out": 2, **SAME}), BN, RELU)
    t = g.add("add", t, g.chain(t, ("dw", {}), ("conv", {"out": 2, **SAME}), BN))
    g.chain(t, ("conv", {"out": 2, "stride": 2}), ("flatten", {}), ("linear", {"out": 2}))
    return g


NAMED = {
    make.__name__: make
    for make in (
        plain, residual, bottleneck, dense, inverted_residual, depthwise_multiplier, dilated, grouped,
        transposed_decoder, shared_module, two_inputs, nested_streams, dead_ends, channels_last_linear,
        padded, mlp, one_dimensional, three_dimensional,
    )
}  # fmt: skip
