import json
import math
import re

import pytest
import torch
from torch import nn

from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.pruning import prune
from dfpc_plugin.record import Point, RecordError, RunRecord, machine
from dfpc_plugin.require import installed_versions


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2), nn.Flatten(), nn.Linear(294, 4)
    )


def pruned():
    net = small_net().eval()
    return net, prune(net, torch.randn(1, 3, 8, 8), "macs=0.6")


def test_it_goes_through_json_and_back():
    _, result = pruned()
    record = RunRecord({"name": "m"}, recipe="model: m\n")
    record.add_pruning(result.to_json())
    record.add_evaluation("before", "digits", Evaluation(50.0, 90.0, 1.5, 10, 0.1))
    record.add_point(Point("before", 10, 5, 50.0))
    content = record.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    again = RunRecord.from_json(content)
    assert vars(again) == vars(record)
    assert content["asked"] == "macs=0.6"
    assert content["evaluations"] == [
        {"stage": "before", "data": "digits", "top1": 50.0, "top5": 90.0, "loss": 1.5, "count": 10}
    ]
    assert content["curve"] == [{"label": "before", "macs": 10, "parameters": 5, "top1": 50.0, "latency_ms": None}]


def test_saliency_is_that_of_the_couplings():
    _, result = pruned()
    record = RunRecord()
    record.add_pruning(result.to_json())
    saliency = record.to_json()["saliency"]
    assert saliency["importance"] == "DFPC, output"
    for entry, coupling in zip(saliency["couplings"], result.to_json()["couplings"], strict=True):
        assert (entry["name"], entry["scores"], entry["gone"]) == (
            coupling["name"],
            coupling["scores"],
            coupling["gone"],
        )
        assert len(entry["scores"]) == coupling["before"]
        assert len(entry["gone"]) == coupling["before"] - coupling["after"]
    assert RunRecord().to_json()["saliency"] is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_none(loss):
    record = RunRecord()
    record.add_evaluation("before", "d", Evaluation(0.0, 0.0, loss, 10, 0.1))
    assert record.evaluations[0]["loss"] is None
    json.dumps(record.to_json(), allow_nan=False)


def test_what_is_absent_or_null_is_as_at_first():
    assert vars(RunRecord.from_json({"layers": None, "finetune": None, "unknown": 3})) == vars(RunRecord())


@pytest.mark.parametrize(
    ("name", "value"), [("layers", {}), ("model", []), ("prune", "x"), ("recipe", 3), ("seconds", [1])]
)
def test_a_record_of_another_kind_is_refused(name, value):
    told = f"^The record was not written by this library: {name} must be (an object|a list|text), not {re.escape(repr(value))}.$"
    with pytest.raises(RecordError, match=told):
        RunRecord.from_json({name: value})


def test_one_record_does_not_fill_another():
    RunRecord().evaluations.append({})
    assert RunRecord.from_json({}).evaluations == []


def test_widths_are_inputs_and_outputs():
    _, result = pruned()
    left = {path: module for path, module in result.model.named_modules() if path in ("0", "3", "5")}
    assert result.layers().to_json() == [
        {"path": "0", "kind": "Conv2d", "before": [3, 8], "after": [3, left["0"].out_channels]},
        {
            "path": "3",
            "kind": "ConvTranspose2d",
            "before": [8, 6],
            "after": [left["0"].out_channels, left["3"].out_channels],
        },
        {"path": "5", "kind": "Linear", "before": [294, 4], "after": [left["5"].in_features, 4]},
    ]
    assert left["0"].out_channels < 8


def test_versions_and_machine_are_named():
    found = RunRecord().to_json()["versions"]
    assert found == installed_versions()
    assert set(found) >= {"python", "dfpc_plugin", "torch", "torchvision", "torch_pruning", "timm"}
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert machine()["threads"] == torch.get_num_threads()
