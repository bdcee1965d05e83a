import json

import torch
from torch import nn

from dfpc_plugin.models import build_model, example_inputs
from dfpc_plugin.report.check import check_model


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Asking(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def checked(model):
    return check_model("mine", lambda: (model.to("meta"), example_inputs(model, "mine")))


def test_numbers_of_a_good_model():
    result = checked(build_model("test_resnet", meta=True))
    assert result.ok
    assert (result.layers, result.couplings, result.missing, result.error) == (15, 11, (), "")
    assert json.loads(json.dumps(result.to_json()))["ok"] is True


def test_missing_operators_are_reported():
    result = checked(nn.Sequential(nn.Conv2d(3, 4, 1), Odd()))
    assert not result.ok
    (entry,) = (entry for entry in result.missing if entry.function.endswith("bessel_j0"))
    assert entry.modules == ("1",)
    assert {"function": entry.function, "modules": ["1"]} in result.to_json()["missing"]


def test_values_are_reported_and_not_raised():
    result = checked(nn.Sequential(nn.Conv2d(3, 4, 1), Asking()))
    assert "needs the values of the data" in result.error


def test_a_model_that_breaks_is_reported_and_not_raised():
    result = checked(nn.Linear(7, 2))
    assert not result.ok
    assert "Error: " in result.error
