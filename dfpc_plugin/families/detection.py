"""torchvision's detectors: backbone and heads, without the choice of boxes between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.families.registry import register_forward

__all__ = ["detector_forward"]

_DETECTION = "torchvision.models.detection"


@register_forward(
    f"{_DETECTION}.faster_rcnn.FasterRCNN",
    f"{_DETECTION}.generalized_rcnn.GeneralizedRCNN",
    f"{_DETECTION}.retinanet.RetinaNet",
    f"{_DETECTION}.fcos.FCOS",
    f"{_DETECTION}.ssd.SSD",
)
def detector_forward(model: nn.Module, example_inputs: Any) -> list[Any]:
    """Run a detector's backbone and every head on the feature maps that it sees.

    Args:
        model: One of torchvision's detectors.
        example_inputs: A batch `(N, 3, H, W)`, or a list of images `(3, H, W)` of one size.
    """
    detector: Any = model
    features = detector.backbone(_batch(example_inputs))
    maps = dict(features) if isinstance(features, Mapping) else {"0": features}
    if not hasattr(detector, "roi_heads"):
        return [detector.head(list(maps.values()))]
    return [detector.rpn.head(list(maps.values())), *_regions(detector.roi_heads, maps)]


def _regions(heads: Any, maps: Mapping[str, Tensor]) -> list[Any]:
    """Run the heads that look at regions, on one region per feature map."""
    outputs = []
    for kind in ("box", "mask", "keypoint"):
        pool = getattr(heads, f"{kind}_roi_pool", None)
        if pool is None:
            continue
        seen = [maps[name] for name in pool.featmap_names if name in maps]
        regions = torch.cat([F.adaptive_avg_pool2d(features, pool.output_size) for features in seen])
        inner = getattr(heads, f"{kind}_head")(regions)
        outputs.append(getattr(heads, f"{kind}_predictor")(inner))
    return outputs


def _batch(example_inputs: Any) -> Tensor:
    """Images as one batch."""
    while isinstance(example_inputs, list | tuple) and len(example_inputs) == 1:
        example_inputs = example_inputs[0]
    if isinstance(example_inputs, Tensor):
        return example_inputs if example_inputs.dim() == 4 else example_inputs[None]
    return torch.stack(list(example_inputs))
