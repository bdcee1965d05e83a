"""What timm's models state about the widths of their features, held against the features themselves."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.inputs import as_call
from dfpc_plugin.surgery import cut
from dfpc_plugin.tracing.tree import returned_tensors
from zero_cut import random_units, removed_channels

POOLS = (None, "", "avg", "max", "avgmax", "catavgmax", "token", "map")
"""What `reset_classifier` is asked for; None for nothing but a number of classes."""

CLASSES = 7


def stated(model: nn.Module) -> tuple[Any, ...]:
    """All widths that a model of timm states."""
    own = vars(model)
    info = [entry["num_chs"] for entry in own.get("feature_info", [])]
    return own.get("num_features"), own.get("head_hidden_size"), own.get("embed_dim"), info


def cut_at_random(model: nn.Module, inputs: Any) -> nn.Module:
    """Cut a share of every coupling that can be cut, whatever it is worth."""
    couplings = map_couplings(model, inputs)
    cut(model, couplings, removed_channels(couplings, random_units(couplings)))
    return model


def called(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = as_call(inputs)
    return model(*args, **kwargs)


@torch.no_grad()
def truths(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Which statements of a model are true, and what it returns after `reset_classifier`, without values."""
    model = copy.deepcopy(model).to("meta")
    inputs = inputs.to("meta")
    features = _tried(lambda: model.forward_features(inputs))
    pooled = _tried(lambda: model.forward_head(features, pre_logits=True))
    found: dict[str, Any] = {
        "num_features": _is_width(features, getattr(model, "num_features", None)),
        "head_hidden_size": _is_width(pooled, getattr(model, "head_hidden_size", None)),
    }
    info = getattr(model, "feature_info", [])
    found |= {
        f"feature_info of {entry['module']}": true for entry, true in zip(info, _of_modules(model, inputs), strict=True)
    }
    returned = _tried(lambda: model.forward_intermediates(inputs, intermediates_only=True))
    if isinstance(returned, list) and len(returned) == len(info):
        found |= {
            f"intermediate {i}": _is_width(t, e["num_chs"]) for i, (t, e) in enumerate(zip(returned, info, strict=True))
        }
    for pool in POOLS:
        found[f"reset with {pool}"] = _tried(lambda pool=pool: _after_reset(model, inputs, pool))
    return found


def _of_modules(model: nn.Module, inputs: Any) -> list[bool]:
    """Whether the modules that `feature_info` names return tensors of such widths; False where they are not called."""
    modules, true, handles = dict(model.named_modules()), {}, []
    for number, entry in enumerate(getattr(model, "feature_info", [])):
        if entry["module"] in modules:

            def keep(_: Any, args: Any, output: Any, number: int = number, entry: Any = entry) -> None:
                true[number] = _is_width(args if entry.get("hook_type") == "forward_pre" else output, entry["num_chs"])

            handles.append(modules[entry["module"]].register_forward_hook(keep))
    called(model, inputs)
    for handle in handles:
        handle.remove()
    return [true.get(number, False) for number in range(len(getattr(model, "feature_info", [])))]


def _is_width(tree: Any, width: Any) -> bool:
    """Whether a tensor has so many channels, on its second or last axis, or several have them together."""
    shapes = [tensor.shape for tensor in returned_tensors(tree)]
    sums = {sum(shape[axis] for shape in shapes if len(shape) > 1) for axis in (1, -1)}
    return width in sums or any(width in (shape[1], shape[-1]) for shape in shapes if len(shape) > 1)


def _after_reset(model: nn.Module, inputs: Any, pool: str | None) -> str:
    """How many axes and classes the outputs have after `reset_classifier`."""
    model = copy.deepcopy(model)
    model.reset_classifier(CLASSES) if pool is None else model.reset_classifier(CLASSES, global_pool=pool)
    return str([(tensor.dim(), CLASSES in tensor.shape) for tensor in returned_tensors(called(model, inputs))])


def _tried(function: Any) -> Any:
    """What a function returns, or the type of what it raises."""
    try:
        return function()
    except Exception as error:
        return type(error).__name__


def widths_of(maps: Tensor | list[Tensor]) -> list[int]:
    """Numbers of channels of feature maps `(N, C, H, W)`."""
    return [tensor.shape[1] for tensor in maps]


class Detector(nn.Module):
    """A network of one's own on a feature extractor of timm's, whose features it does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("test_resnet", features_only=True, out_indices=(2, 3, 4))
        self.necks = nn.ModuleList(nn.Conv2d(channels, 8, 1) for channels in self.body.feature_info.channels())
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([neck(y).mean((2, 3)) for neck, y in zip(self.necks, self.body(x), strict=True)], 1))
