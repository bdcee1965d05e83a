import pytest
import torch

from dfpc_plugin import LayerCoupling, Saliency
from dfpc_plugin.report.summary import ScoreRange, summarise


@pytest.fixture
def saliency():
    scores = {
        "a": torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64),
        "b": torch.tensor([10.0, 10.0, 40.0], dtype=torch.float64),
        "c": torch.tensor([5.0, 6.0], dtype=torch.float64),
        "d": torch.tensor([7.0, 8.0, 9.0, 4.0], dtype=torch.float64),
        "e": torch.tensor([1.0, 2.0], dtype=torch.float64),
    }
    return Saliency(scores, (LayerCoupling(("a", "b"), ("c",)), LayerCoupling(("c", "d", "e"), ("f", "g"))))


def test_a_coupling_of_one_width_is_summed(saliency):
    first, _ = summarise(saliency)
    assert first.scores.tolist() == [13.0, 11.0, 42.0]
    assert first.range == ScoreRange(
        width=3, lowest=11.0, lowest_channel=1, median=13.0, highest=42.0, highest_channel=2
    )
    assert not first.mixed
    assert first.by_width == ()


def test_a_coupling_of_several_widths_is_told_apart_by_width(saliency):
    _, second = summarise(saliency)
    assert second.mixed
    assert second.scores is None
    assert [layers for layers, _ in second.by_width] == [("c", "e"), ("d",)]
    pooled, single = (values for _, values in second.by_width)
    assert (pooled.width, pooled.lowest, pooled.median, pooled.highest) == (4, 1.0, 3.5, 6.0)
    assert (single.lowest, single.lowest_channel, single.highest_channel) == (4.0, 3, 2)
