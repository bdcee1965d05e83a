"""Detectors: the data flow through backbone and heads, without the choice of boxes."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from dfpc_plugin import DFPCPruner, bgsc, find_couplings, prune
from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.families import data_flow_forward, register_forward
from dfpc_plugin.families.registry import _FORWARDS

IMAGE = torch.rand(1, 3, 320, 320)


@pytest.fixture(scope="module")
def detector():
    return torchvision.models.get_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None
    ).eval()


def test_heads_read_what_the_pyramid_writes(detector):
    (pyramid,) = [c for c in find_couplings(detector, IMAGE) if "backbone.fpn.layer_blocks.0.0" in c.feed_in]
    assert {"rpn.head.conv.0.0", "roi_heads.box_head.fc6"} <= set(pyramid.feed_out)
    assert pyramid.protected is None
    (flattened,) = [piece for piece in pyramid.slices if piece.tensor == "roi_heads.box_head.fc6.weight" and piece.dim]
    assert flattened.indices.shape == (256, 49)  # a channel is read at seven by seven positions


def test_classes_and_boxes_stay(detector):
    reasons = {c.name: c.protected for c in find_couplings(detector, IMAGE)}
    for name in ("roi_heads.box_predictor.cls_score", "rpn.head.cls_logits", "rpn.head.bbox_pred"):
        assert reasons[name] == "is the model's output"


def test_a_pruned_detector_detects(detector):
    import copy

    model = copy.deepcopy(detector)
    before = sum(p.numel() for p in model.parameters())
    DFPCPruner(model, IMAGE, lambda group: torch.arange(float(len(group[0].idxs))), pruning_ratio=0.3).step()
    assert sum(p.numel() for p in model.parameters()) < 0.6 * before
    with torch.no_grad():
        (found,) = model([IMAGE[0]])
    assert set(found) == {"boxes", "labels", "scores"}


def test_scores_of_a_whole_detector(detector):
    scores = bgsc(detector, IMAGE)
    assert scores["backbone.fpn.layer_blocks.0.0"].shape == (256,)


def test_a_list_of_images_is_a_batch(detector):
    names = [c.name for c in find_couplings(detector, [IMAGE[0]])]
    assert names == [c.name for c in find_couplings(detector, IMAGE)]


SMALL = {"weights": None, "weights_backbone": None, "num_classes": 2}
ALL_REGIONS = {"rpn_nms_thresh": 1.0, "rpn_post_nms_top_n_test": 60, "box_score_thresh": 0.0, "box_nms_thresh": 1.0}
DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_fpn": {**ALL_REGIONS, "min_size": 128, "max_size": 256},
    "maskrcnn_resnet50_fpn": {**ALL_REGIONS, "min_size": 96, "box_detections_per_img": 10},
    "keypointrcnn_resnet50_fpn": {**ALL_REGIONS, "min_size": 64, "box_detections_per_img": 5},
    "retinanet_resnet50_fpn": {"min_size": 128},
    "fcos_resnet50_fpn": {"min_size": 128},
    "ssdlite320_mobilenet_v3_large": {},
}


def flops(model, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(list(x))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", [
    "fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn",
    *(pytest.param(name, marks=pytest.mark.slow) for name in [*DETECTORS][2:]),
])  # fmt: skip
def test_counted_macs_are_those_that_run(name):
    torch.manual_seed(0)
    model, x = torchvision.models.get_model(name, **SMALL, **DETECTORS[name]).eval(), torch.rand(2, 3, 90, 120)
    channels = map_couplings(model, x).channels
    assert CostModel(channels).full.macs == pytest.approx(flops(model, x), rel=0.03)


def test_a_budget_holds_for_what_runs_and_says_what_is_assumed():
    torch.manual_seed(0)
    options = {**SMALL, **DETECTORS["maskrcnn_resnet50_fpn"]}
    model, x = torchvision.models.get_model("maskrcnn_resnet50_fpn", **options).eval(), torch.rand(1, 3, 96, 96)

    def first(group):
        return torch.arange(float(len(group[0].idxs)))

    result = prune(model, x, "macs=0.6", importance=first)
    assert flops(result.model, x) / flops(model, x) == pytest.approx(0.6, abs=0.03)
    assert (
        "MACs are counted for images of 96 x 96 with 60 proposals and 10 detections each, the most that the model's "
        "settings allow."
    ) in result.notes


def test_values_are_computed_on_few_regions(detector):
    with torch.no_grad():
        assert len(data_flow_forward(detector)(detector, IMAGE)[-1][0]) <= 5


def test_other_models_are_called_as_they_are():
    assert data_flow_forward(torch.nn.Linear(2, 2)) is None


def test_a_forward_of_ones_own_is_found_by_class_name(monkeypatch):
    monkeypatch.setattr("dfpc_plugin.families.registry._FORWARDS", dict(_FORWARDS))

    class Chooses(torch.nn.Module):
        """Needs values."""

        def __init__(self):
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.outer(self.inner(x)) if x.sum() > 0 else x

    @register_forward(f"{Chooses.__module__}.{Chooses.__qualname__}")
    def flow(model, inputs):
        return model.outer(model.inner(inputs))

    assert [c.name for c in find_couplings(Chooses(), torch.ones(1, 3)) if c.protected is None] == ["inner"]
