"""Runtimes: that each computes what the model does, and that measurements go through the one that was asked for."""

from __future__ import annotations

import sys

import onnx
import pytest
import torch
from torch import nn

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.errors import ExampleInputsError, MissingDependencyError
from dfpc_plugin.latency import LatencyModel, LatencySettings, measure, measure_latency, predict
from dfpc_plugin.runtimes import RUNTIMES, ExportError, GraphModel, RuntimeNameError, graphs, registry, runtime_of
from dfpc_plugin.runtimes.graphs import graph_inputs, require_inputs
from dfpc_plugin.runtimes.to_onnx import onnx_graph

GRAPHS = [
    pytest.param(name, marks=[] if name == "onnxruntime" else pytest.mark.slow)
    for name, runtime in RUNTIMES.items()
    if runtime.load is not None
]
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()


class Clock:
    """A timer that knows what each call takes, and calls it once to see who is called."""

    taken: dict[type, float]

    def __init__(self, statement: str, globals: dict, num_threads: int) -> None:
        self.run = globals["run"]
        self.called: list[object] = []

    def timeit(self, number: int = 1) -> Clock:
        self.run()
        return self

    @property
    def mean(self) -> float:
        return 1e-3


class Noted(GraphModel):
    """A graph that notes how it was made and every call."""

    runtime, title = "onnxruntime", "A runtime of the tests"

    def __init__(self, content: bytes, input_names, threads: int | None) -> None:
        super().__init__()
        self.content, self.input_names, self.threads = content, tuple(input_names), threads
        self.input_shapes = dict.fromkeys(self.input_names, (None,))
        made.append(self)

    def run(self, arrays):
        calls.append(self)  # not the graph's own attribute, which a measurement puts back
        return list(arrays.values())


made: list[Noted] = []
calls: list[Noted] = []


@pytest.fixture
def noted(monkeypatch):
    """Replace ONNX Runtime and the clock."""
    made.clear(), calls.clear()
    monkeypatch.setattr(measure, "timer_class", lambda: Clock)
    monkeypatch.setitem(
        RUNTIMES._entries, "onnxruntime", registry.Runtime("onnxruntime", "A runtime of the tests", Noted)
    )
    return made


@pytest.mark.parametrize("name", GRAPHS)
def test_a_prepared_model_computes_what_the_model_does(name):
    model = network().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    prepared = runtime_of(name).prepared(model, IMAGES, 1)
    assert isinstance(prepared, GraphModel) and prepared.runtime == name
    with torch.no_grad():
        wanted = network()(IMAGES)
    (got,) = prepared.outputs(IMAGES)
    assert torch.allclose(got, wanted, atol=1e-2 * float(wanted.abs().max()))
    assert torch.equal(torch.from_numpy(prepared.bound(IMAGES)()[0]), got)
    assert model.training and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert runtime_of(name).prepared(prepared, IMAGES, 1) is prepared


def test_pytorch_runs_modules_as_they_are():
    model = network()
    assert all(RUNTIMES[name].prepared(model, IMAGES, 1) is model for name in ("torch", "compile"))


def test_models_are_measured_in_the_runtime_that_is_asked_for(noted):
    models = {"a": network(), "b": network()}
    found = measure_latency(models, IMAGES, runtime="onnxruntime", threads=3, forwards=5, warmup=1)
    assert [(graph.threads, calls.count(graph) > 5) for graph in noted] == [(3, True)] * 2
    assert {latency.runtime for latency in found.values()} == {"onnxruntime"}
    assert onnx.load_model_from_string(noted[0].content).graph.node
    made.clear()
    assert measure_latency(models, IMAGES, forwards=5)["a"].runtime == "torch" and not noted


def test_a_loaded_graph_keeps_its_runtime_beside_models_in_another(noted):
    graph = Noted(b"", ["input"], 1)
    found = measure_latency({"model": network(), "graph": graph}, IMAGES, forwards=5)
    assert (found["model"].runtime, found["graph"].runtime) == ("torch", "onnxruntime")
    assert calls.count(graph) > 5


def test_layers_predict_the_latency_of_the_runtime(noted, monkeypatch):
    """Predictions are scaled to the whole model's time in the runtime, and the model is exported once."""

    class Halved(LatencySettings):
        def measure(self, models, example_inputs, progress=None):
            seconds = 1e-3 if self.runtime == "torch" else 5e-4
            return {name: measure.Latency((seconds,) * 5, 1, self.runtime) for name in models}

    monkeypatch.setattr(predict, "_time", lambda module, kind, inputs, outputs: 1e-6 * inputs * outputs / 8)
    model, channels = network(), map_couplings(network(), IMAGES).channels
    in_torch = LatencyModel(model, IMAGES, channels, Halved())
    in_graph = LatencyModel(model, IMAGES, channels, Halved(runtime="onnxruntime"))
    assert len(noted) == 1 and in_graph.prepared is noted[0] and in_torch.prepared is model
    removed = channels.removed.clone()
    assert in_graph.seconds(removed) == pytest.approx(in_graph.full) == pytest.approx(0.5 * in_torch.full)
    removed[:] = True
    assert in_graph.seconds(removed) == pytest.approx(0.5 * in_torch.seconds(removed))


@pytest.mark.parametrize("name", ["onnx-runtime", "tensorrt"])
def test_an_unknown_runtime_is_refused(name):
    with pytest.raises(RuntimeNameError, match=f"runtime='{name}' is none of torch, compile, onnxruntime, openvino;"):
        LatencySettings(runtime=name)
    with pytest.raises(RuntimeNameError):
        measure_latency({"a": network()}, IMAGES, runtime=name)


@pytest.mark.parametrize(
    ("runtime", "package", "extra"),
    [("onnxruntime", "onnxruntime", "export"), ("onnxruntime", "onnx", "export"), ("openvino", "openvino", "openvino")],
)
def test_a_runtime_that_is_missing_says_what_to_install(runtime, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*dfpc-plugin\[{extra}\]") as told:
        measure_latency({"a": network()}, IMAGES, runtime=runtime)
    assert str(told.value).startswith("This" if package == "onnx" else f"runtime='{runtime}' needs the package")


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_no_graph_is_refused(name):
    with pytest.raises(ExportError, match=f"{RUNTIMES[name].title} cannot load the exported model"):
        RUNTIMES[name].load(b"not ONNX", None, 1)


def test_what_a_graph_cannot_run_is_said_before_anything_is_timed():
    content, names = onnx_graph(network(), IMAGES)
    graph = graphs.OnnxRuntimeModel(content, names, 1)
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the exported model"):
        graph.bound(torch.zeros(1, 3, 9, 9))


@pytest.mark.parametrize("name", GRAPHS)
def test_inputs_are_made_from_what_the_graph_states(name):
    content, _ = onnx_graph(network(), IMAGES)
    graph = RUNTIMES[name].load(content, None, 1)
    (made_up,) = graph_inputs(graph, 2)
    assert made_up.shape == IMAGES.shape and made_up.dtype == torch.float32
    require_inputs(graph, IMAGES)
    assert graph.outputs((made_up,))[0].shape == (2, 5)


@pytest.mark.parametrize(
    ("axes", "batch_size", "size", "message"),
    [
        ((None, 3, 8, 8), 1, 9, "is anyx3x8x8, and a size of 9 was asked for; leave size out."),
        ((4, 3, 8, 8), 1, None, "has a batch of 4, and 1 was asked for; give batch_size 4."),
        ((None, 3, None, 8), 1, None, "has axes of any length, anyx3xanyx8; give size."),
    ],
)
def test_a_graph_that_leaves_lengths_open_asks_for_them(axes, batch_size, size, message):
    graph = Noted(b"", ["input"], 1)
    graph.input_shapes, graph.input_dtypes = {"input": axes}, {"input": "float32"}
    with pytest.raises(ExampleInputsError, match=message):
        graph_inputs(graph, batch_size, size)
    graph.input_shapes = {"input": (None, 3, None, 8)}
    assert graph_inputs(graph, 2, 8)[0].shape == (2, 3, 8, 8)
    with pytest.raises(ExampleInputsError, match="The ONNX file takes anyx3xanyx8, and is to be given 2x3x9;"):
        require_inputs(graph, torch.zeros(2, 3, 9))


def test_integers_become_zeros():
    graph = Noted(b"", ["tokens"], 1)
    graph.input_shapes, graph.input_dtypes = {"tokens": (None, 7)}, {"tokens": "int64"}
    assert torch.equal(graph_inputs(graph, 2)[0], torch.zeros(2, 7, dtype=torch.int64))
