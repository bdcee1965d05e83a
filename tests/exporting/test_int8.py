"""Quantized files, by runs of onnxruntime that share nothing with the package's own."""

from __future__ import annotations

import json
import logging
import sys

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.exporting import ExportError, export_onnx, quantize_onnx
from dfpc_plugin.files import OutputError
from dfpc_plugin.latency import Latency, LatencySettings

IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Counted(LatencySettings):
    """Does not measure: says that the first of two files takes twice as long as the second."""

    def measure(self, models, example_inputs, progress=None):
        assert example_inputs.shape == (1, 3, 12, 12)
        return {name: Latency((2e-3 / number,) * 5, 1) for number, name in enumerate(models, 1)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(2048, 10))
    path = tmp_path_factory.mktemp("source") / "net.onnx"
    export_onnx(model.eval(), IMAGES[:1], path, exporter="torchscript")
    return path


def run(path, images):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = [session.run(None, {"input": image.numpy()})[0] for image in images.split(1)]
    return torch.from_numpy(numpy.concatenate(found))


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_quantized_file_says_how_far_it_is_off(source, tmp_path, method):
    level = logging.getLogger().level
    told = []
    found = quantize_onnx(
        source, tmp_path / "int8.onnx", IMAGES, method=method, latency=Counted(), progress=told.append
    )
    assert told == [number / 16 for number in range(1, 17 if method == "static" else 5)]
    held_out = IMAGES[12:]
    before, after = run(source, held_out), run(found.path, held_out)
    difference = float(((after - before).abs().amax(1) / before.abs().amax(1)).max())
    assert found.max_difference == pytest.approx(difference, rel=1e-4)
    assert 1e-4 < found.max_difference < 0.1
    assert found.same_predictions == float((before.argmax(1) == after.argmax(1)).float().mean())
    assert (found.images, found.compared) == (12 if method == "static" else 0, 4)
    assert found.bytes == found.path.stat().st_size < 0.6 * found.bytes_before
    assert found.bytes_before == source.stat().st_size
    assert found.latency_ms == {"float32": 2.0, "int8": 1.0}
    assert json.loads(json.dumps(found.to_json()))["latency_ms"] == found.latency_ms
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"] and logging.getLogger().level == level


def test_static_quantizes_convolutions_and_dynamic_leaves_them(source, tmp_path):
    quantize_onnx(source, tmp_path / "static.onnx", IMAGES)
    quantize_onnx(source, tmp_path / "dynamic.onnx", IMAGES, method="dynamic")
    assert "QuantizeLinear" in operators(tmp_path / "static.onnx")
    assert {"Conv", "MatMulInteger"} <= operators(tmp_path / "dynamic.onnx")
    assert "ConvInteger" not in operators(tmp_path / "dynamic.onnx")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "nowhere.onnx"}, ExportError, "Cannot read 'nowhere.onnx': No such file"),
        ({"images": IMAGES[:3]}, ExportError, "Quantization takes at least 4 images, not 3; give more."),
        ({"method": "fixed"}, ExportError, "method='fixed' is none of static, dynamic; choose one of them."),
        ({"path": "nowhere/int8.onnx"}, OutputError, "there is no directory 'nowhere'"),
        ({"images": torch.zeros(4, 3, 9, 9)}, ExportError, "ONNX Runtime cannot"),
    ],
)
def test_what_cannot_be_quantized_is_said_and_leaves_nothing(source, tmp_path, monkeypatch, changes, error, message):
    monkeypatch.chdir(tmp_path)
    arguments = {"source": source, "path": "int8.onnx", "images": IMAGES} | changes
    with pytest.raises(error, match=message):
        quantize_onnx(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_files_with_several_inputs_are_refused(tmp_path):
    class Two(nn.Module):
        def forward(self, one, other):
            return one + other

    pair = (IMAGES[:1], IMAGES[1:2])
    export_onnx(Two(), pair, tmp_path / "two.onnx", exporter="torchscript")
    with pytest.raises(
        ExportError, match="Only files with one input can be quantized, and this one has 2: input_0, inp"
    ):
        quantize_onnx(tmp_path / "two.onnx", tmp_path / "int8.onnx", IMAGES)


def test_without_onnxruntime_it_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"'onnxruntime'.*dfpc-plugin\[export\]"):
        quantize_onnx(source, tmp_path / "int8.onnx", IMAGES)
