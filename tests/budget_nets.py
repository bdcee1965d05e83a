"""Small models to prune to a budget, and what they cost as PyTorch itself counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from brute_force import Between
from cut_nets import Attention, Residual, Tied, built, inputs_of
from dfpc_plugin.cost import Cost
from dfpc_plugin.inputs import as_call

IMAGE = torch.rand(2, 3, 8, 8, dtype=torch.float64)
TOKENS = torch.rand(2, 5, 3, dtype=torch.float64)
PHOTO = torch.rand(1, 3, 32, 32)


def counted(model: nn.Module, inputs: Any) -> Cost:
    """MACs by the operators that really run, and the entries of all parameters."""
    args, kwargs = as_call(inputs)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # fused attention is one operator, uncounted
        model(*args, **kwargs)
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in model.parameters()))


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).double().eval()


def convolutions() -> nn.Module:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    first = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return sequence(*first, nn.Conv2d(8, 7, 3, 2), nn.ReLU(), *pool, nn.Linear(7, 4))


def flattened() -> nn.Module:
    """Every channel is several inputs of the layer that reads it."""
    return sequence(nn.Conv2d(3, 6, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 2))


def grouped() -> nn.Module:
    middle = [nn.ReLU(), nn.Conv2d(12, 18, 3, groups=3), nn.ReLU(), nn.Conv2d(18, 6, 1, groups=2)]
    return sequence(nn.Conv2d(3, 12, 1), *middle, nn.ReLU(), nn.Conv2d(6, 2, 1))


def depthwise() -> nn.Module:
    middle = [nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=6, bias=False), nn.ReLU()]
    return sequence(nn.Conv2d(3, 6, 1), *middle, nn.Conv2d(12, 2, 1))


def transposed() -> nn.Module:
    middle = [nn.ReLU(), nn.ConvTranspose2d(6, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 12, 3, groups=2)]
    return sequence(nn.Conv2d(3, 6, 3), *middle, nn.ReLU(), nn.Conv2d(12, 2, 1))


def linear() -> nn.Module:
    return sequence(
        nn.Linear(3, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 7, bias=False), nn.ReLU(), nn.Linear(7, 2)
    )


def concatenation() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        first = m.first(x)
        return m.last(torch.cat([first, m.second(first.relu()), x], 1))

    return Between(run, first=nn.Conv2d(3, 6, 3, padding=1), second=nn.Conv2d(6, 5, 1), last=nn.Conv2d(14, 2, 1))


def attention_by_hand() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        b, n, _ = x.shape
        q, k = (t.reshape(b, n, m.heads, -1).transpose(1, 2) for t in m.qk(x).chunk(2, -1))
        v = m.v(x).reshape(b, n, m.heads, -1).transpose(1, 2)  # wider than queries and keys
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return m.out(x + m.proj(mixed.transpose(1, 2).flatten(2)))

    parts = {"embed": (3, 7), "qk": (7, 16), "v": (7, 12), "proj": (12, 7), "out": (7, 2)}
    return Between(run, **{name: nn.Linear(*sizes) for name, sizes in parts.items()}, heads=2)


def torch_attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 10, batch_first=True)
    return sequence(nn.Linear(3, 8), layer, nn.Linear(8, 2))


def shared() -> nn.Module:
    """One layer runs twice, on maps of two sizes, and costs its parameters once."""
    pool, layer = nn.AvgPool2d(2), nn.Conv2d(6, 6, 3, padding=1)
    return sequence(nn.Conv2d(3, 6, 1), layer, nn.ReLU(), pool, layer, nn.ReLU(), nn.Conv2d(6, 2, 1))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutions, "flattened": flattened, "grouped": grouped, "depthwise": depthwise,
    "transposed": transposed, "linear": linear, "residual": lambda: built(Residual), "tied": lambda: built(Tied),
    "concatenation": concatenation, "fused attention": lambda: built(Attention), "shared": shared,
    "attention by hand": attention_by_hand, "torch attention": torch_attention,
}  # fmt: skip
TIMM = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
ON_TOKENS = ("linear", "attention by hand", "torch attention")


def make(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode, always with the same weights, and inputs for it."""
    torch.manual_seed(0)
    if name in TIMM:
        size = {"img_size": 32} if name == "test_vit" else {}
        return timm.create_model(name, num_classes=10, **size).eval(), PHOTO
    model = SMALL[name]()
    if isinstance(model, Residual | Attention | Tied):
        return model, inputs_of(model)
    return model, TOKENS if name in ON_TOKENS else IMAGE
