"""Exported files do what the model does, by runs of onnxruntime and torch.export that share nothing with the package's own."""

import copy
import io
import json
import sys

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import DFPCError, ExampleInputsError, MissingDependencyError
from dfpc_plugin.exporting import ExportError, export_onnx, export_program
from dfpc_plugin.files import OutputError
from dfpc_plugin.runtimes import exporters, to_onnx

current = pytest.mark.skipif(not to_onnx.available("dynamo"), reason="PyTorch 2.4 lacks the current exporter to ONNX")
INPUTS = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Two convolutions and a head; what its modules return goes through the hooks that a test may add."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU()
        )
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.drop(self.features(x).mean((2, 3))))


def small(seed=0):
    torch.manual_seed(seed)
    return Small().eval()


def by_onnxruntime(path, *inputs):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    feed = dict(zip([value.name for value in session.get_inputs()], [x.numpy() for x in inputs], strict=True))
    return [torch.from_numpy(output) for output in session.run(None, feed)]


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(ours.abs().max())
    assert float(ours.abs().max()) > 1e-3  # two models that return nothing but zeros would agree about that


@current
@pytest.mark.parametrize(
    "name, size",
    [
        pytest.param("small", 32, id="conv"),
        pytest.param("test_vit.r160_in1k", 160, id="vit"),
        pytest.param("test_resnet.r160_in1k", 64, id="resnet", marks=pytest.mark.slow),
    ],
)
def test_pruned_models(name, size, tmp_path):
    options = {"depth": 2} if "vit" in name else {}
    model = small() if name == "small" else timm.create_model(name, **options).eval()
    inputs = torch.randn(1, 3, size, size)
    result = dfpc.prune(model, inputs, "macs=0.6", importance=dfpc.DFPCImportance())
    if "vit" in name:
        assert result.model.blocks[0].attn.head_dim != model.blocks[0].attn.head_dim
    done = export_onnx(result.model, inputs, tmp_path / "m.onnx")
    program = export_program(result.model, inputs, str(tmp_path / "m.pt2"))
    loaded = torch.export.load(tmp_path / "m.pt2").module()
    for batch in (torch.randn(n, 3, size, size) for n in (1, 2, 5)):
        with torch.no_grad():
            wanted = result.model(batch)
            assert_close(wanted, loaded(batch))
        (got,) = by_onnxruntime(done.path, batch)
        assert_close(wanted, got)
    assert done.exporter == "dynamo" and done.notes == () and done.dynamic_batch
    assert 0 < done.max_difference < 1e-5 and done.same_predictions == 1.0
    assert done.bytes == done.path.stat().st_size and program.bytes == program.path.stat().st_size
    assert program.max_difference < 1e-5 and program.same_predictions == 1.0
    described = onnx.load(done.path)
    assert done.opset == described.opset_import[0].version and (done.inputs, done.outputs) == (("input",), ("output",))
    assert described.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert json.loads(json.dumps(done.to_json()))["path"] == str(tmp_path / "m.onnx")
    assert json.loads(json.dumps(program.to_json()))["dynamic_batch"] is True


def test_the_older_exporter_and_a_fixed_batch(tmp_path):
    model = small()
    done = export_onnx(model, INPUTS, tmp_path / "m.onnx", exporter="torchscript", dynamic_batch=False, opset=17)
    assert (done.exporter, done.opset, done.dynamic_batch) == ("torchscript", 17, False)
    assert_close(model(INPUTS).detach(), by_onnxruntime(done.path, INPUTS)[0])
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        by_onnxruntime(done.path, INPUTS.repeat(2, 1, 1, 1))


@current
def test_falls_back_and_says_so(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("this operator is new")

    monkeypatch.setattr(exporters, "EXPORTERS", exporters.EXPORTERS | {"dynamo": broken})
    monkeypatch.setattr(to_onnx, "EXPORTERS", exporters.EXPORTERS)
    model = small()
    done = export_onnx(model, INPUTS, tmp_path / "m.onnx")
    assert done.exporter == "torchscript"
    assert done.notes == ("Another exporter was used, since one failed. Dynamo: this operator is new.",)
    assert_close(model(INPUTS).detach(), by_onnxruntime(done.path, INPUTS)[0])
    assert_close(model(INPUTS.repeat(4, 1, 1, 1)).detach(), by_onnxruntime(done.path, INPUTS.repeat(4, 1, 1, 1))[0])


def test_versions_of_pytorch_without_the_current_exporter(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "available", lambda name: name == "torchscript")
    done = export_onnx(small(), INPUTS, tmp_path / "m.onnx")
    assert done.exporter == "torchscript"
    assert done.notes == (f"PyTorch {torch.__version__} lacks the current exporter to ONNX.",)
    with pytest.raises(
        ExportError, match=r"lacks the current exporter to ONNX. Upgrade PyTorch, or pass exporter='torchscript'"
    ):
        export_onnx(small(), INPUTS, tmp_path / "m.onnx", exporter="dynamo")


class Several(nn.Module):
    """Takes tensors in nests beside what is no tensor; returns several by name."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, pair, scale, mask=None):
        both = self.left(pair[0]) + scale * self.right(pair[1])
        return {"sum": both if mask is None else both * mask, "left": self.left(pair[0])}


def test_several_inputs_and_outputs(tmp_path):
    torch.manual_seed(0)
    model = Several().eval()
    inputs = {"pair": (torch.randn(2, 4), torch.randn(2, 5)), "scale": 2.0, "mask": torch.rand(2, 3)}
    done = export_onnx(model, inputs, tmp_path / "m.onnx")
    assert (done.inputs, done.outputs) == (("pair_0", "pair_1", "mask"), ("sum", "left"))
    other = {"pair": (torch.randn(7, 4), torch.randn(7, 5)), "scale": 2.0, "mask": torch.rand(7, 3)}
    wanted = model(**other)
    for name, got in zip(("sum", "left"), by_onnxruntime(done.path, *other["pair"], other["mask"]), strict=True):
        assert_close(wanted[name].detach(), got)
    export_program(model, inputs, tmp_path / "m.pt2")
    assert_close(wanted["sum"].detach(), torch.export.load(tmp_path / "m.pt2").module()(**other)["sum"].detach())


def test_the_model_is_as_it_was(tmp_path):
    model = small().train()
    model.features[0].eval()

    def draw(*_):
        torch.rand(1)  # every forward moves the generator on

    model.head.register_forward_hook(draw)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    hooks = list(model.head._forward_hooks.items())
    inputs = INPUTS.clone()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    export_onnx(model, inputs, tmp_path / "m.onnx")
    export_program(model, inputs, tmp_path / "m.pt2")
    assert torch.equal(torch.rand(2), expected)
    assert modes == [module.training for module in model.modules()]
    assert hooks == list(model.head._forward_hooks.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(inputs, INPUTS)
    wanted = model.eval()(INPUTS).detach()  # not what it returns in training, which was its mode
    assert_close(wanted, by_onnxruntime(tmp_path / "m.onnx", INPUTS)[0])


class Strange(nn.Module):
    def forward(self, x):
        return torch.special.i1(x)


class Holder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class OfItsBatch(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.shape[0] == 2 else -x.flatten(1)


class OfItsValues(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


@current
def test_operators_and_modules_are_named(tmp_path):
    with pytest.raises(ExportError) as raised:
        export_onnx(Holder(Strange()), INPUTS, tmp_path / "m.onnx")
    message = str(raised.value)
    assert message.startswith(
        "The model cannot be exported to ONNX. By dynamo: No ONNX function found for prims.bessel_i1"
    )
    assert "(in module 'inner'). By torchscript: Exporting the operator 'aten::special_i1'" in message
    assert "dynamic_batch" not in message
    assert isinstance(raised.value, DFPCError) and list(tmp_path.iterdir()) == []


@current
@pytest.mark.parametrize("export, suffix", [(export_onnx, "onnx"), (export_program, "pt2")])
def test_a_batch_that_cannot_be_free(export, suffix, tmp_path):
    path = tmp_path / f"m.{suffix}"
    path.write_text("what was there")
    with pytest.raises(ExportError, match="Pass dynamic_batch=False if one size of batch is enough"):
        export(OfItsBatch(), INPUTS, path)
    assert path.read_text() == "what was there" and len(list(tmp_path.iterdir())) == 1
    export(OfItsBatch(), INPUTS, path, dynamic_batch=False)
    assert path.stat().st_size > 100


def test_a_failure_prints_no_graph(tmp_path, capfd):
    class Odd(nn.Sequential):
        def forward(self, x):
            return torch.special.bessel_j0(super().forward(x))

    with pytest.raises(ExportError, match="bessel_j0") as caught:
        export_onnx(
            Odd(nn.Conv2d(3, 4, 3)).eval(), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx", exporter="torchscript"
        )
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_decisions_on_values_are_found(tmp_path):
    with pytest.raises(ExportError, match=r"torchscript: 'output' of the exported model is 2 of its scale away"):
        export_onnx(OfItsValues(), INPUTS.abs(), tmp_path / "m.onnx", exporter="torchscript")
    with pytest.raises(ExportError, match=r"torch\.export cannot follow the model: Could not guard"):
        export_program(OfItsValues(), INPUTS, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []
    done = export_onnx(OfItsValues(), INPUTS, tmp_path / "m.onnx", exporter="torchscript", check=False)
    assert done.max_difference is None and done.same_predictions is None
    assert any("Tracing has fixed what may depend on the input" in note and "line" in note for note in done.notes)


def test_a_wrong_file_is_refused_with_its_figure(tmp_path, monkeypatch):
    def of_another(call, flat, *rest):
        changed = copy.deepcopy(call)
        with torch.no_grad():
            changed.model.head.bias += 0.5
        return exporters.EXPORTERS["torchscript"](changed, flat, *rest)

    monkeypatch.setattr(to_onnx, "EXPORTERS", {"torchscript": of_another})
    with pytest.raises(
        ExportError, match=r"of its scale away from what the model returns, and 0.0001 is allowed; largest diff"
    ):
        export_onnx(small(), INPUTS, tmp_path / "m.onnx", exporter="torchscript")
    assert list(tmp_path.iterdir()) == []
    done = export_onnx(small(), INPUTS, tmp_path / "m.onnx", exporter="torchscript", tolerance=100)
    with torch.no_grad():
        largest = float(small()(INPUTS).abs().max())
    assert done.max_difference >= 0.4 / largest


def test_latency_of_both(tmp_path):
    settings = dfpc.LatencySettings(threads=1, batch_size=4, forwards=5, warmup=1)
    done = export_onnx(small(), INPUTS, tmp_path / "m.onnx", exporter="torchscript", latency=settings)
    assert list(done.latency_ms) == ["torch", "onnxruntime"] and all(value > 0 for value in done.latency_ms.values())
    assert len(done.latency["torch"].seconds) == len(done.latency["onnxruntime"].seconds) == 5
    assert done.to_json()["latency_ms"] == done.latency_ms and "latency" not in done.to_json()


@pytest.mark.parametrize("package", ["onnx", pytest.param("onnxscript", marks=current), "onnxruntime"])
def test_missing_packages(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*dfpc-plugin\[export\]"):
        export_onnx(small(), INPUTS, tmp_path / "m.onnx")
    export_program(small(), INPUTS, tmp_path / "m.pt2", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"path": "nowhere/m.onnx"}, OutputError, "there is no directory 'nowhere'"),
        ({"exporter": "magic"}, ExportError, "There is no exporter 'magic'; choose auto, dynamo or torchscript."),
        ({"example_inputs": (INPUTS, torch.randn(2, 3))}, ExampleInputsError, "pass dynamic_batch=False"),
        ({"example_inputs": {"x": 3}}, ExampleInputsError, "The example inputs hold no tensor"),
        pytest.param({"opset": 3}, ExportError, "The model cannot be exported to ONNX. By dynamo: ", marks=current),
    ],
)
def test_what_cannot_be_is_told(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Pair() if isinstance(arguments.get("example_inputs"), tuple) else small()
    with pytest.raises(error) as raised:
        export_onnx(**({"model": model, "example_inputs": INPUTS, "path": "m.onnx"} | arguments))
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class Pair(nn.Module):
    def forward(self, a, b):
        return a.mean() + b


def test_programs_end_in_pt2(tmp_path):
    with pytest.raises(ExportError, match=r"wants a name that ends in \.pt2"):
        export_program(small(), INPUTS, tmp_path / "m.bin")


def test_weights_beyond_one_file(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(2**15, 2**15)
    with pytest.raises(ExportError, match=r"take 4\.0 GiB, and an ONNX file holds 2 GiB; .* use export_program"):
        export_onnx(model, INPUTS, tmp_path / "m.onnx")


def test_half_precision(tmp_path):
    model = small().half()
    done = export_onnx(model, INPUTS.half(), tmp_path / "m.onnx", exporter="torchscript", tolerance=1e-2)
    assert onnx.load_model(io.BytesIO(done.path.read_bytes())).graph.input[0].type.tensor_type.elem_type == 10
