"""torchvision's detectors: backbone and heads, without the selection of boxes between them.

To count MACs, images have the size that the detector resizes them to, and heads see the maximum number of regions that its
settings allow. To compute values, images keep their size and heads see one region per feature map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.families.registry import register_forward, register_note
from dfpc_plugin.tracing.proxy import Proxy

_DETECTION = "torchvision.models.detection"


@register_forward(
    f"{_DETECTION}.faster_rcnn.FasterRCNN",
    f"{_DETECTION}.generalized_rcnn.GeneralizedRCNN",
    f"{_DETECTION}.retinanet.RetinaNet",
    f"{_DETECTION}.fcos.FCOS",
    f"{_DETECTION}.ssd.SSD",
)
def detector_forward(model: nn.Module, example_inputs: Any) -> list[Any]:
    """Run a detector's backbone, and every head on the feature maps that it sees.

    Args:
        model: One of torchvision's detectors.
        example_inputs: A batch `(N, 3, H, W)`, or a list of images `(3, H, W)` of one size.
    """
    detector: Any = model
    images = _batch(example_inputs)
    counts = images.is_meta or (isinstance(images, Proxy) and images.run.traces_sizes)
    features = detector.backbone(F.interpolate(images, size=_resized(detector, images)) if counts else images)
    maps = dict(features) if isinstance(features, Mapping) else {"0": features}
    if not hasattr(detector, "roi_heads"):
        return [detector.head(list(maps.values()))]
    shapes = [(int(each.shape[-2]), int(each.shape[-1])) for each in maps.values()]
    regions = counted_regions(detector, shapes) if counts else None
    proposals = detector.rpn.head(list(maps.values()))
    return [proposals, *_regions(detector.roi_heads, maps, regions, len(images))]


@register_note(f"{_DETECTION}.faster_rcnn.FasterRCNN", f"{_DETECTION}.generalized_rcnn.GeneralizedRCNN")
def _note(model: nn.Module, example_inputs: Any) -> str:
    detector: Any = model
    height, width = _resized(detector, _batch(example_inputs))
    found = counted_regions(detector, None)
    kinds = {"proposals": found["box"]}
    if any(getattr(detector.roi_heads, f"{kind}_roi_pool", None) is not None for kind in ("mask", "keypoint")):
        kinds["detections"] = found["mask"]
    most = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"MACs are counted for images of {height} x {width} with {most} each, the most that the model's settings allow."
    )


def counted_regions(detector: Any, maps: Sequence[tuple[int, int]] | None) -> dict[str, int]:
    """Return the maximum number of regions per image for each kind of head.

    Args:
        detector: A two-stage detector.
        maps: Heights and widths of its feature maps, which limit the number of proposals; None for no limit.
    """
    rpn, heads = detector.rpn, detector.roi_heads
    proposals = rpn.post_nms_top_n()
    if maps is not None:
        each = rpn.anchor_generator.num_anchors_per_location()
        anchors = [height * width * count for (height, width), count in zip(maps, each, strict=True)]
        proposals = min(proposals, sum(min(rpn.pre_nms_top_n(), count) for count in anchors))
    return {"box": proposals, "mask": heads.detections_per_img, "keypoint": heads.detections_per_img}


def _regions(heads: Any, maps: Mapping[str, Tensor], counts: Mapping[str, int] | None, images: int) -> list[Any]:
    """Run the heads on regions: one per feature map, or `counts` per image."""
    outputs = []
    for kind in ("box", "mask", "keypoint"):
        pool = getattr(heads, f"{kind}_roi_pool", None)  # the layer that extracts regions
        if pool is None:
            continue
        seen = [maps[name] for name in pool.featmap_names if name in maps]
        parts = [F.adaptive_avg_pool2d(features, pool.output_size) for features in seen]
        if counts is None:
            regions = torch.cat(parts)
        else:
            regions = sum(parts[1:], parts[0])[:1].expand(images * counts[kind], -1, -1, -1)
        inner = getattr(heads, f"{kind}_head")(regions)
        outputs.append(getattr(heads, f"{kind}_predictor")(inner))
    return outputs


def _resized(detector: Any, images: Tensor) -> tuple[int, int]:
    """Height and width of images after the detector's resizing and padding."""
    transform = detector.transform
    height, width = int(images.shape[-2]), int(images.shape[-1])
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
    else:
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        height, width = math.floor(height * scale), math.floor(width * scale)
    step = transform.size_divisible
    return math.ceil(height / step) * step, math.ceil(width / step) * step


def _batch(example_inputs: Any) -> Tensor:
    while isinstance(example_inputs, list | tuple) and len(example_inputs) == 1:
        example_inputs = example_inputs[0]
    if isinstance(example_inputs, Tensor):
        return example_inputs if example_inputs.dim() == 4 else example_inputs[None]
    return torch.stack(list(example_inputs))
