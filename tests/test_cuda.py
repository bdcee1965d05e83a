"""On a CUDA device: what the CPU gives, on that device, and nothing changed that the user owns. Run with `pytest -m gpu`."""

import copy

import pytest
import timm
import torch
import torchvision
from torch.utils.data import TensorDataset

import dfpc_plugin as dfpc
import odd_numbers
from device_cases import CASES, IMAGES, NETWORKS
from dfpc_plugin.artifact import load_pruned
from dfpc_plugin.cli import main as command
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.errors import DFPCError
from zero_cut import error_of_cut, masked_statistics, random_units, randomise

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
MODELS = [
    "resnet18",
    "mobilenetv3_small_100",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "efficientnet_b0",
    "regnety_002",
]


@pytest.fixture(autouse=True)
def exact_float32():
    """Convolutions on CUDA round to 10 bits by default, which would be all of the difference to the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def cuda(images):
    return images.cuda()


@pytest.mark.parametrize(("build", "name"), NETWORKS, ids=[f"{build.__name__}, {name}" for build, name in NETWORKS])
def test_every_call_does_on_the_device_what_it_does_on_the_cpu(build, name):
    there, here = CASES[name](build().cuda(), cuda), CASES[name](build(), lambda images: images)
    if here is None:
        return
    assert all(tensor.is_cuda for tensor in there.state_dict().values())
    assert not any(tensor.is_cuda for tensor in here.state_dict().values())
    mine, other = there.cpu().state_dict(), here.state_dict()
    assert {key: tensor.shape for key, tensor in mine.items()} == {key: tensor.shape for key, tensor in other.items()}
    for key, tensor in other.items():
        torch.testing.assert_close(mine[key], tensor, rtol=1e-3, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", MODELS)
def test_the_same_channels_go_and_the_cut_is_exact(name):
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)
    here = dfpc.prune(model, x, "macs=0.6", repair=None)
    there = dfpc.prune(copy.deepcopy(model).cuda(), x.cuda(), "macs=0.6", repair=None)
    assert next(there.model.parameters()).is_cuda
    ours, others = (
        {(layer, index) for layer, own in result.removed.items() for index in own} for result in (there, here)
    )
    assert len(ours & others) > 0.99 * len(ours | others)  # rounding may swap channels of the same score
    torch.testing.assert_close(
        there.model(x.cuda()).cpu(), dfpc.replay(model, x, there.removed)(x), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_on_the_device_is_exact(name):
    model, x = randomise(timm.create_model(name).eval()).cuda(), torch.randn(1, 3, 224, 224, device="cuda")
    couplings = map_couplings(model, x)
    with masked_statistics():
        assert error_of_cut(model, couplings, x, random_units(couplings)) < 1e-4


@pytest.mark.parametrize("repair", ["merge", "synthetic"])
def test_the_random_state_of_the_device_is_left(repair):
    model, x = odd_numbers.model().cuda(), IMAGES[:1].cuda()
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    result = dfpc.prune(model, x, "macs=0.7", repair=repair)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    again = dfpc.prune(model, x, "macs=0.7", repair=repair)
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor, again.model.state_dict()[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("repair", [None, "merge"])
def test_half_precision_on_the_device(dtype, repair):
    model = timm.create_model("resnet18").eval().cuda().to(dtype)
    x = torch.randn(1, 3, 64, 64, device="cuda", dtype=dtype)
    result = dfpc.prune(model, x, "macs=0.7", repair=repair)
    assert {tensor.dtype for tensor in result.model.parameters()} == {dtype}
    assert result.model(x).isfinite().all()


def test_under_autocast_the_same_channels_go():
    model, x = timm.create_model("resnet18").eval().cuda(), torch.randn(1, 3, 64, 64, device="cuda")
    plain = dfpc.prune(model, x, "macs=0.7", repair=None)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        result = dfpc.prune(model, x, "macs=0.7", repair=None)
    assert result.removed == plain.removed


def test_a_latency_on_the_device_is_measured_and_reached():
    model, x = timm.create_model("resnet50").eval().cuda(), torch.randn(64, 3, 224, 224, device="cuda")
    result = dfpc.prune(model, x, "speedup=1.3", repair=None, latency=dfpc.LatencySettings(batch_size=64))
    times = dfpc.measure_latency({"before": model, "after": result.model}, x, forwards=100)
    assert times["after"].speedup_over(times["before"]) > 1.2


@pytest.mark.filterwarnings("ignore")  # torch's own compiler warns
def test_a_compiled_model_is_timed_on_the_device():
    model, x = torchvision.models.resnet18().eval().cuda(), torch.randn(8, 3, 64, 64, device="cuda")
    found = dfpc.measure_latency({"net": model}, x, forwards=20, runtime="compile")
    assert found["net"].median > 0


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_fine_tuning_on_the_device_goes_on_from_a_checkpoint(precision, tmp_path):
    data = TensorDataset(IMAGES, torch.arange(len(IMAGES)) % 4)
    settings = dfpc.FinetuneSettings(
        steps=6, batch_size=8, mixed_precision=precision, checkpoint_every=2, schedule="constant"
    )

    def tuned(where, **options):
        model = odd_numbers.model().cuda()
        return dfpc.finetune(model, data, settings=settings, checkpoint=tmp_path / where, **options).model

    def stop(what, share):
        if what == "fine-tuning" and share > 0.5:
            raise KeyboardInterrupt

    whole = tuned("whole")
    with pytest.raises(KeyboardInterrupt):
        tuned("parts", progress=stop)
    parts = tuned("parts", resume=True)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)
    assert all(tensor.is_cuda for tensor in whole.state_dict().values())
    assert next(whole.parameters()).dtype == torch.float32
    assert not torch.equal(whole.stem.weight.cpu(), odd_numbers.model().stem.weight)


def test_the_command_prunes_saves_and_measures_on_the_device(tmp_path, capsys):
    artifact = str(tmp_path / "artifact")
    assert command(["prune", "resnet18", "--target", "macs=0.7", "--output", artifact, "--device", "cuda"]) == 0
    assert not any(tensor.is_cuda for tensor in load_pruned(artifact).state_dict().values())
    assert command(["bench", artifact, "--device", "cuda"]) == 0
    assert "GPU" in capsys.readouterr().out


def test_a_model_on_the_device_is_exported(tmp_path):
    model, x = timm.create_model("resnet18").eval().cuda(), torch.randn(1, 3, 64, 64, device="cuda")
    result = dfpc.prune(model, x, "macs=0.7", repair=None)
    dfpc.export_onnx(result.model, x, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").exists() and next(result.model.parameters()).is_cuda


def test_sensitivity_and_compare_on_the_device():
    model, x = odd_numbers.model().cuda(), IMAGES[:1].cuda()
    data = TensorDataset(IMAGES, torch.arange(len(IMAGES)) % 4)
    found = dfpc.compare(
        model,
        x,
        criteria=["auto", "magnitude", "taylor"],
        budgets=(0.7,),
        repairs=("none", "merge", "calibrate"),
        data=data,
        images=IMAGES,
    )
    assert all(0 <= cell.value <= 1 for cell in found.cells)
    assert dfpc.sensitivity(model, x)
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    dfpc.compare(model, x, criteria=["random"], budgets=(0.7,), data=data, seeds=(0, 1))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_images_for_calibration_may_stay_on_the_cpu_or_be_on_the_device():
    model, x = odd_numbers.model().cuda(), IMAGES[:1].cuda()
    mine, other = (
        dfpc.prune(model, x, "macs=0.7", repair=dfpc.RepairSettings("calibrate", images)).model
        for images in (IMAGES, IMAGES.cuda())
    )
    for name, tensor in mine.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name])


def test_an_input_on_the_wrong_device_is_one_sentence():
    with pytest.raises(DFPCError, match="device"):
        dfpc.prune(odd_numbers.model().cuda(), IMAGES[:1], "macs=0.7")
