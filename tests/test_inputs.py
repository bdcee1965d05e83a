"""Example inputs are left alone by everything that calls a model with them."""

import pytest
import torch
from torch import nn

from dfpc_plugin import export_onnx, export_program, measure_latency, prune, repair
from dfpc_plugin.errors import ForwardError
from dfpc_plugin.inputs import fresh, is_written_to
from steady_machine import RealForwards


class Normalising(nn.Module):
    """Normalises its input in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.seen = [].append  # not the list itself, which is restored

    def forward(self, x):
        x.sub_(0.5).div_(0.2)
        self.seen(float(x.detach().sum()) if x.device.type == "cpu" and type(x) is torch.Tensor else None)
        return self.body(x).mean((2, 3))


@pytest.fixture
def model():
    return Normalising().eval()


@pytest.fixture
def inputs():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["mean", "merge", "synthetic", "calibrate"])
def test_prune_and_repair(model, inputs, method):
    images = inputs.clone()
    given = {"images": inputs} if method == "calibrate" else {}
    result = prune(model, inputs, "ratio=0.3", repair=method, **given)
    repair(result.model, model, inputs, method, **given)
    assert torch.equal(inputs, images)


def test_latency_calls_every_forward_with_the_same_values(model, inputs):
    before, sums = inputs.clone(), []
    model.seen = sums.append
    measure_latency({"a": model}, inputs, min_run_time=1e-6, warmup=2)
    assert torch.equal(inputs, before)
    assert len(sums) > 10 and len(set(sums)) == 1


def test_latency_budget(model, inputs):
    before = inputs.clone()
    assert prune(model, inputs, "speedup=1.01", latency=RealForwards(forwards=16), min_channels=1, round_to=1).reached
    assert torch.equal(inputs, before)


def test_exports(model, inputs, tmp_path):
    pytest.importorskip("onnxruntime")
    before = inputs.clone()
    model.seen = bool
    assert export_program(model, inputs, tmp_path / "a.pt2").max_difference < 1e-4
    assert export_onnx(model, inputs, tmp_path / "a.onnx").max_difference < 1e-4
    assert torch.equal(inputs, before)


def test_fresh_keeps_structure_and_graph():
    x = torch.ones(2, requires_grad=True)
    copied = fresh({"x": (x, [x, 3]), "name": "n"})
    assert copied["x"][1][1] == 3 and copied["name"] == "n"
    copied["x"][0].sum().backward()
    assert torch.equal(x.grad, torch.ones(2))
    assert fresh(torch.ones(1).expand(5)).add_(1).tolist() == [2.0] * 5


def test_is_written_to():
    x = torch.zeros(2, 1)
    copied = fresh([x])
    assert not is_written_to(copied, [x])
    copied[0].squeeze_()
    assert is_written_to(copied, [x])


def test_a_message_of_the_model_is_kept_to_the_end_of_its_line():
    error = ValueError("It takes 16 pixels, e.g. a thumbnail. It got 20.\nMore on this elsewhere.")
    assert "(ValueError: It takes 16 pixels, e.g. a thumbnail. It got 20)" in str(ForwardError("images", (), error))
