"""A hypothesis strategy for networks of blocks that lay channels out, bring them together or mix them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from brute_force import Between

Draw = Callable[[Any], Any]
WIDTHS = (4, 6, 8)
ACTIVATIONS = (torch.sin, torch.tanh, F.hardswish, F.relu)
"""Zero at zero: means over channels have to see which of them are not there."""


def conv(into: int, width: int, size: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(into, width, size, padding=size // 2, **options)


def _draw_conv(draw: Draw, into: int, width: int) -> nn.Module:
    """A convolution, perhaps in groups, perhaps with a norm and an activation."""
    groups = 2 if into % 2 == width % 2 == 0 and draw(st.integers(0, 3)) == 0 else 1
    layer = conv(into, width, draw(st.sampled_from((1, 3))), groups=groups, bias=draw(st.booleans()))
    norm = draw(st.sampled_from((None, nn.BatchNorm2d, partial(nn.GroupNorm, 2 - width % 2), partial(nn.GroupNorm, 1))))
    act = draw(st.sampled_from((None, *ACTIVATIONS)))
    layers = [layer] if norm is None else [layer, norm(width)]
    return Between(lambda m, x: m.body(x) if act is None else act(m.body(x)), body=nn.Sequential(*layers))


def plain(draw: Draw, width: int) -> tuple[nn.Module, int]:
    wider = draw(st.sampled_from(WIDTHS))
    return _draw_conv(draw, width, wider), wider


def residual(draw: Draw, width: int, depth: int = 1) -> tuple[nn.Module, int]:
    inner, middle = _draw_chain(draw, width, draw(st.integers(1, 2)), depth - 1)
    last = _draw_conv(draw, middle, width)
    return Between(lambda m, x: x + m.last(m.inner(x)), inner=inner, last=last), width


def concatenated(draw: Draw, width: int) -> tuple[nn.Module, int]:
    first, second = _draw_conv(draw, width, 2), _draw_conv(draw, width, 4)
    keeps = draw(st.booleans()) and width <= 6
    join = (lambda m, x: torch.cat((x, m.a(x)), 1)) if keeps else (lambda m, x: torch.cat((m.b(x), m.a(x)), 1))
    return Between(join, a=first, b=second), width + 2 if keeps else 6


def gated_halves(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        value, gate = m.a(x).chunk(2, 1)
        return value * gate.sigmoid()

    return Between(run, a=_draw_conv(draw, width, 8)), 4


def joined_halves(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat((m.a(second), first), 1)

    return Between(run, a=_draw_conv(draw, width // 2, width // 2)), width


def split_by_sizes(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        first, second = m.a(x).split(m.sizes, 1)
        return torch.cat((m.b(first), second.sin()), 1)

    return Between(run, a=conv(width, 6), b=_draw_conv(draw, 2, 2), sizes=[2, 4]), 6


def sliced(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        first, second = x[:, : m.part], x[:, m.part :]
        return torch.cat((m.a(first), second), 1)

    return Between(run, a=_draw_conv(draw, 2, 2), part=2), width


def attention(draw: Draw, width: int) -> tuple[nn.Module, int]:
    spelled, scaled = draw(st.integers(0, 2)), draw(st.booleans())

    def run(m: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        batch, count, _ = tokens.shape
        if spelled == 0:
            q, k, v = m.qkv(tokens).reshape(batch, count, 3, m.heads, m.inner // m.heads).permute(2, 0, 3, 1, 4)
        else:
            parts = m.qkv(tokens).chunk(3, -1)
            q, k, v = (t.unflatten(-1, (m.heads, -1)).transpose(1, 2) for t in parts)
        if spelled == 2:
            mixed = (q @ k.transpose(-2, -1) * (m.scale if scaled else 0.5)).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=m.scale if scaled else None)
        tokens = tokens + m.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    qkv, proj = nn.Linear(width, 24, bias=draw(st.booleans())), nn.Linear(8, width)
    return Between(run, qkv=qkv, proj=proj, heads=2, inner=8, scale=0.5), width


def mlp(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        y = m.down(F.gelu(m.up(m.norm(y)))) * m.gamma
        return x + y.permute(0, 3, 1, 2)

    parts = {"up": nn.Linear(width, 6), "down": nn.Linear(6, width), "norm": nn.LayerNorm(width)}
    return Between(run, **parts, gamma=torch.rand(width)), width


def squeezed(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        return x * m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid()

    return Between(run, down=conv(width, 4), up=conv(4, width)), width


def spatial(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        return x * m.map(torch.cat((x.mean(1, True), x.square().amax(1, True)), 1)).sigmoid()

    return Between(run, map=conv(2, 1, 3)), width


def depthwise(draw: Draw, width: int) -> tuple[nn.Module, int]:
    times = 2 if width == 4 and draw(st.booleans()) else 1
    return Between(lambda m, x: m.d(x), d=conv(width, times * width, 3, groups=width)), times * width


def shared(draw: Draw, width: int) -> tuple[nn.Module, int]:
    layer = _draw_conv(draw, width, width)
    return Between(lambda m, x: m.layer(x + m.layer(x)), layer=layer), width


def shuffled(draw: Draw, width: int) -> tuple[nn.Module, int]:
    by_hand = draw(st.booleans())

    def run(m: Any, x: Tensor) -> Tensor:
        if by_hand:
            b, c, h, w = x.shape
            return x.view(b, m.groups, c // m.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return F.channel_shuffle(x, m.groups)

    return Between(run, groups=2), width


def moved(draw: Draw, width: int) -> tuple[nn.Module, int]:
    kind = draw(st.integers(0, 3))

    def run(m: Any, x: Tensor) -> Tensor:
        if kind == 0:
            return x.roll((1, -1), (2, 3))
        if kind == 1:
            return x + x.flip(1).flip(3) if m.both else x.flip(1)
        if kind == 2:
            b, c, h, w = x.shape
            windows = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
            windows = windows.flip(1).view(b, h // 2, w // 2, 2, 2, -1)
            return windows.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return torch.cat([part.roll(number, 2) for number, part in enumerate(x.chunk(2, 1))], 1)

    return Between(run, both=draw(st.booleans())), width


def to_depth_and_back(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        return F.pixel_shuffle(m.a(F.pixel_unshuffle(x, 2)), 2)

    return Between(run, a=conv(4 * width, 16)), 4


def up_and_down(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        return x + m.up(m.down(F.avg_pool2d(x, 2)))

    return Between(run, down=conv(width, 4), up=nn.ConvTranspose2d(4, width, 2, stride=2)), width


def written(draw: Draw, width: int) -> tuple[nn.Module, int]:
    def run(m: Any, x: Tensor) -> Tensor:
        result = x.new_zeros(x.shape)
        result[:, :, ::2] = x[:, :, 1::2]
        result[:, :, 1::2] = m.a(x)[:, :, ::2]
        return result

    return Between(run, a=_draw_conv(draw, width, width)), width


BLOCKS = (
    plain, residual, concatenated, gated_halves, joined_halves, split_by_sizes, sliced, attention, mlp,
    squeezed,    spatial, depthwise, shared, shuffled, moved, to_depth_and_back, up_and_down, written,
)  # fmt: skip


def _draw_chain(draw: Draw, width: int, length: int, depth: int) -> tuple[nn.Module, int]:
    """Blocks in a row; residuals nest as deep as `depth`."""
    chain = nn.Sequential()
    for _ in range(length):
        block = draw(st.sampled_from(BLOCKS))
        if block is residual:
            layer, width = residual(draw, width, depth) if depth > 0 else plain(draw, width)
        else:
            layer, width = block(draw, width)
        chain.append(layer)
    return chain, width


@st.composite
def networks(draw: Draw, max_blocks: int = 4) -> tuple[nn.Module, Any]:
    """A model in double precision with inputs: one or two stems, blocks, and a head."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    width = draw(st.sampled_from(WIDTHS))
    body, last = _draw_chain(draw, width, draw(st.integers(1, max_blocks)), 2)
    parts = {"stem": conv(3, width, 3), "body": body}
    inputs: tuple[Tensor, ...] = (torch.rand(2, 3, 4, 4, dtype=torch.float64) - 0.5,)
    if draw(st.booleans()):
        parts["other"] = conv(2, width)
        inputs += (torch.rand(2, 2, 4, 4, dtype=torch.float64) - 0.5,)
    head = draw(st.sampled_from(("pooled", "flat", "map")))
    parts["head"] = {"pooled": nn.Linear(last, 2), "flat": nn.Linear(16 * last, 2), "map": conv(last, 2)}[head]

    def run(m: Any, x: Tensor, y: Tensor | None = None) -> Any:
        x = m.stem(x) if y is None else m.stem(x) + m.other(y)
        x = m.body(x)
        x = x.mean((2, 3)) if head == "pooled" else x.flatten(1) if head == "flat" else x
        return m.head(x) if head != "map" else {"map": m.head(x)}

    return Between(run, **parts), inputs if len(inputs) > 1 else inputs[0]
