"""Detectors: the data flow through backbone and heads, without the choice of boxes."""

import pytest
import torch
import torchvision

from dfpc_plugin import DFPCPruner, bgsc, find_couplings
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
