import csv
import io
import json

import pytest
import torch

from dfpc_plugin import LayerCoupling, Saliency, bgsc
from dfpc_plugin.models import build_model
from dfpc_plugin.report.export import to_csv, to_json
from dfpc_plugin.report.summary import ModelScore, score_model


@pytest.fixture(scope="module")
def score():
    torch.manual_seed(0)
    model = build_model("test_resnet")
    return score_model("test_resnet", model, torch.ones(1, 3, 160, 160))


def test_scores_are_those_of_bgsc(score):
    torch.manual_seed(0)
    expected = bgsc(build_model("test_resnet"), torch.ones(1, 3, 160, 160), ranking=score.ranking)
    assert list(score.saliency) == list(expected)
    assert all(torch.equal(score.saliency[layer], expected[layer]) for layer in expected)
    assert score.channels == sum(map(len, expected.values()))


def test_json_reads_back_exactly(score):
    content = json.loads(to_json(score))
    assert content["layers"] == {layer: values.tolist() for layer, values in score.saliency.items()}
    assert content["input_shapes"] == [[1, 3, 160, 160]]
    assert len(content["couplings"]) == len(score.saliency.couplings)
    for found, coupling in zip(content["couplings"], score.saliency.couplings, strict=True):
        assert found["feed_in"] == list(coupling.feed_in)
        assert found["feed_out"] == list(coupling.feed_out)
        assert found["scores"] == score.saliency.scores(coupling).tolist()
        assert found["width"] == len(found["scores"])
        assert found["range"]["lowest"] == found["scores"][found["range"]["lowest_channel"]] == min(found["scores"])


def test_csv_reads_back_exactly(score):
    rows = list(csv.DictReader(io.StringIO(to_csv(score.saliency))))
    for index, coupling in enumerate(score.saliency.couplings, start=1):
        for layer in coupling.feed_in:
            of_layer = [row for row in rows if row["layer"] == layer]
            assert {row["coupling"] for row in of_layer} == {str(index)}
            assert [int(row["channel"]) for row in of_layer] == list(range(len(of_layer)))
            assert [float(row["saliency"]) for row in of_layer] == score.saliency[layer].tolist()
    assert len(rows) == score.channels


def test_json_has_no_sum_over_different_widths_and_no_infinity():
    values = {"a": torch.tensor([1.0, torch.inf]), "b": torch.tensor([3.0])}
    saliency = Saliency(values, (LayerCoupling(("a", "b"), ("c",)),))
    score = ModelScore("mine", False, "published", ((1, 3, 8, 8),), saliency, 0.1)
    content = json.loads(to_json(score), parse_constant=pytest.fail)
    assert content["layers"] == {"a": [1.0, None], "b": [3.0]}
    (coupling,) = content["couplings"]
    assert (coupling["width"], coupling["scores"]) == (None, None)
    assert coupling["range"] == {"lowest": 1.0, "median": 3.0, "highest": None}
