"""What stands for a model, for inputs or for an importance is taken; all else is answered with what to give."""

import copy
import dataclasses
import importlib

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.data import DataError
from dfpc_plugin.errors import ExampleInputsError, ForwardError, ModelFormError, PrunerSettingError
from dfpc_plugin.finetuning import FinetuneSettings
from dfpc_plugin.finetuning.settings import FinetuneError
from dfpc_plugin.wrappers import HoldsModel


class Small(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES = TensorDataset(X.repeat(4, 1, 1, 1), torch.arange(8) % 4)
TUNING = FinetuneSettings(steps=1, batch_size=4)


def pruned(model, x=X, **options):
    return dfpc.prune(model, x, "macs=0.8", **options)


CALLS = {
    "bgsc": lambda model, x, path: dfpc.bgsc(model, x),
    "find_couplings": lambda model, x, path: dfpc.find_couplings(model, x),
    "missing_operators": lambda model, x, path: dfpc.missing_operators(model, x),
    "prune": lambda model, x, path: pruned(model, x),
    "repair": lambda model, x, path: dfpc.repair(model, Small().eval(), x, "mean"),
    "measure_latency": lambda model, x, path: dfpc.measure_latency(model, x, min_run_time=1e-6),
    "LatencySettings": lambda model, x, path: dfpc.LatencySettings(min_run_time=1e-6).measure({"a": model}, x),
    "export_program": lambda model, x, path: dfpc.export_program(model, x, path / "x.pt2"),
    "DFPCPruner": lambda model, x, path: dfpc.DFPCPruner(model, x, dfpc.DFPCImportance()),
    "sensitivity": lambda model, x, path: dfpc.sensitivity(model, x, shares=[0.5]),
    "compare": lambda model, x, path: dfpc.compare(model, x, criteria=["random"], budgets=0.8, repairs=["none"]),
    "DataFlowGraph": lambda model, x, path: dfpc.DataFlowGraph().build_dependency(model, x),
}
OF_MODELS = {
    **CALLS,
    "evaluate_model": lambda model, x, path: dfpc.evaluate_model(model, IMAGES),
    "finetune": lambda model, x, path: dfpc.finetune(model, IMAGES, settings=TUNING),
    "save_pruned": lambda model, x, path: dfpc.save_pruned(model, path / "saved", model="test_arguments:Small"),
    "prune_and_tune": lambda model, x, path: dfpc.prune_and_tune(model, x, "macs=0.9", IMAGES),
}


def by_torch_pruning(model, x, path):
    tp.MetaPruner(model, X, importance=dfpc.DFPCImportance(example_inputs=x), pruning_ratio=0.3).step()


def replayed(model, x, path):
    dfpc.replay(model, x, {"body.0": (0, 1)})


def exported(model, x, path):
    pytest.importorskip("onnxruntime")
    dfpc.export_onnx(model, x, path / "x.onnx")


OF_INPUTS = {**CALLS, "Torch-Pruning's pruner": by_torch_pruning, "replay": replayed, "export_onnx": exported}


@pytest.fixture
def result():
    return pruned(Small().eval())


def agree(found, wanted):
    """Whether two returned values say the same, but for times."""
    if isinstance(wanted, HoldsModel):
        states = (each.model.state_dict() for each in (found, wanted))
        return all(torch.equal(*pair) for pair in zip(*(state.values() for state in states), strict=True))
    if isinstance(wanted, dfpc.Saliency):
        return all(torch.equal(found[layer], wanted[layer]) for layer in wanted)
    if isinstance(wanted, dfpc.Evaluation):
        return (found.top1, found.loss) == (wanted.top1, wanted.loss)
    return type(found) is type(wanted)


@pytest.mark.parametrize("name", [name for name in OF_MODELS if name != "prune_and_tune"])
def test_a_result_stands_for_its_model(name, result, tmp_path):
    places = [tmp_path / "result", tmp_path / "model"]
    for place in places:
        place.mkdir()
    found, wanted = (
        OF_MODELS[name](each, X, place) for each, place in zip((result, result.model), places, strict=True)
    )
    assert agree(found, wanted)


def test_so_do_other_results(result, tmp_path):
    repaired = dfpc.repair(result, Small().eval(), X, "mean")
    for number, each in enumerate((repaired, dfpc.finetune(repaired, IMAGES, settings=TUNING))):
        exported = dfpc.export_program(each, X, tmp_path / f"{number}.pt2")
        with torch.no_grad():
            torch.testing.assert_close(torch.export.load(exported.path).module()(X), each.model.eval()(X))


def test_an_export_to_onnx_takes_a_result(result, tmp_path):
    pytest.importorskip("onnxruntime")
    assert dfpc.export_onnx(result, X, tmp_path / "x.onnx").max_difference < 1e-4


NO_MODELS = {
    "name": ("resnet18", "is the text 'resnet18'; build the model first: build_model('resnet18', pretrained=True), or"),
    "weights": (
        Small().state_dict(),
        "is a state_dict, which is weights without a model; build the model, and call its",
    ),
    "class": (Small, "is the class Small; call it, and give the model that it makes."),
    "function": (pruned, "is the function pruned; call it, and give the model that it returns."),
    "loader": (DataLoader(IMAGES), "is a DataLoader; give a torch.nn.Module, such as build_model('resnet50') returns."),
    "nothing": (None, "is None; give a torch.nn.Module"),
}


@pytest.mark.parametrize("name", OF_MODELS)
@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model_is_answered_with_how_to_get_one(name, kind, tmp_path):
    value, said = NO_MODELS[kind]
    with pytest.raises(ModelFormError) as caught:
        OF_MODELS[name](value, X, tmp_path)
    assert said in str(caught.value)


def test_paths_in_place_of_models(tmp_path):
    (tmp_path / "x.pth").touch()
    with pytest.raises(ModelFormError, match=r"load the model first: load_pruned\('"):
        dfpc.bgsc(str(tmp_path), X)
    with pytest.raises(ModelFormError, match=r"build the model first: build_model\(NAME, weights='.*x\.pth'\)\."):
        dfpc.bgsc(tmp_path / "x.pth", X)


def test_a_single_model_has_a_single_latency():
    model = Small().eval()
    assert isinstance(dfpc.measure_latency(model, X, min_run_time=1e-6), dfpc.Latency)
    with pytest.raises(ModelFormError, match=r"models\['b'\] is the text 'resnet18'"):
        dfpc.measure_latency({"a": model, "b": "resnet18"}, X)


def test_repair_knows_what_a_result_has_removed(result, monkeypatch):
    seen = []
    module = importlib.import_module("dfpc_plugin.repairing.repair")
    monkeypatch.setattr(module, "kept_channels", lambda *args: seen.append(args[-1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dfpc.repair(result, Small().eval(), X, "mean")
    assert seen == [result.removed]


def test_a_result_is_replayed(result):
    again = dfpc.replay(Small().eval(), X, result)
    assert [p.shape for p in again.parameters()] == [p.shape for p in result.model.parameters()]


@pytest.mark.parametrize("name", OF_INPUTS)
@pytest.mark.parametrize("given", [X.double().numpy(), (X.numpy(),)], ids=["float64", "tuple"])
def test_arrays_are_inputs(name, given, result, tmp_path):
    model = result.model if name == "repair" else Small().eval()
    again = copy.deepcopy(model)
    assert agree(OF_INPUTS[name](model, given, tmp_path), OF_INPUTS[name](again, X, tmp_path))


NO_INPUTS = {
    "shape": ((1, 3, 8, 8), "is a shape; give a tensor of it: torch.randn(1, 3, 8, 8)."),
    "size": (X.shape, "is a shape; give a tensor of it: torch.randn(2, 3, 8, 8)."),
    "loader": (DataLoader(IMAGES), "is a DataLoader; give the images of one batch: next(iter(loader))[0]."),
    "picture": (
        np.zeros((8, 9, 3), np.uint8),
        "is a picture of shape (8, 9, 3), channels last; give a batch with channels",
    ),
    "no batch": (X[0], "has the shape (3, 8, 8), without an axis for the batch; give x[None] ("),
    "batch twice": (X[:1][None], "has the shape (1, 1, 3, 8, 8), with an axis too many; give x[0] ("),
    "channels last": (X.movedim(1, -1), "has the shape (2, 8, 8, 3), channels last; give x.movedim(-1, 1) ("),
    "channels": (X[:, :2], "has 2 channels, and 'body.0', the model's first convolution, takes 3; give as many, or"),
    "channels, grey": (
        X[:, :1],
        "has 1 channel, and 'body.0', the model's first convolution, takes 3; give as many, or",
    ),
    "labels": ([X, torch.zeros(2).long()], "holds images and labels; give the images alone ("),
}


@pytest.mark.parametrize("name", OF_INPUTS)
@pytest.mark.parametrize("kind", NO_INPUTS)
def test_what_are_no_inputs_is_answered_with_what_to_give(name, kind, result, tmp_path):
    given, said = NO_INPUTS[kind]
    model = result.model if name == "repair" else Small().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ExampleInputsError) as caught:
        OF_INPUTS[name](model, given, tmp_path)
    assert str(caught.value).startswith(f"example_inputs {said}")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["prune", "measure_latency", "export_program"])
def test_whole_numbers_in_place_of_floats(name, tmp_path):
    said = r"is of torch\.uint8, and the model's weights of torch\.float32; give x\.to\(torch.float32\) \("
    with pytest.raises(ExampleInputsError, match=said):
        CALLS[name](Small().eval(), (255 * X).byte(), tmp_path)


LAYERS = {
    "linear": (nn.Linear(3, 4), (2, 1)),
    "layer norm": (nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4)), (2, 1)),
    "convolution": (nn.Conv2d(3, 4, 3), (2, 1, 8, 8)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3), (2, 1, 8, 8)),
    "batch norm": (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), (2, 1, 8, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("call", [dfpc.bgsc, dfpc.find_couplings, dfpc.missing_operators])
def test_one_channel_is_not_spread_over_those_that_a_layer_takes(call, kind):
    layer, shape = LAYERS[kind]
    with pytest.raises((ExampleInputsError, ForwardError)):
        call(layer.eval(), torch.rand(shape))


def test_other_failures_stay_what_they_are():
    class Failing(Small):
        def forward(self, x):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dfpc.bgsc(Failing().eval(), X)


IMPORTANCES = {
    "name": ("magnitude", tp.importance.GroupMagnitudeImportance()),
    "our class": (dfpc.DFPCImportance, dfpc.DFPCImportance()),
    "their class": (tp.importance.GroupMagnitudeImportance, tp.importance.GroupMagnitudeImportance()),
    "auto": ("auto", None),
}


@pytest.mark.parametrize("kind", IMPORTANCES)
def test_importances_by_name_and_without_brackets(kind):
    value, meant = IMPORTANCES[kind]
    model = Small().eval()
    assert pruned(model, importance=value).removed == pruned(model, importance=meant).removed
    dfpc.DFPCPruner(model, X, value).step()


NO_IMPORTANCES = {
    "typo": ("magnitud", ("importance='magnitud' is none of auto, taylor, dfpc, ", "; did you mean magnitude?")),
    "number": (
        3,
        (
            "importance is a int; give an object that scores groups, such as DFPCImportance(), or one of the names auto, taylor, dfpc,",
        ),
    ),
    "class": (dict, ("importance is the class dict; give an object that scores groups",)),
}


@pytest.mark.parametrize("kind", NO_IMPORTANCES)
def test_what_is_no_importance(kind):
    value, said = NO_IMPORTANCES[kind]
    model = Small().eval()
    for call in (lambda: pruned(model, importance=value), lambda: dfpc.DFPCPruner(model, X, value)):
        with pytest.raises(PrunerSettingError) as caught:
            call()
        assert all(part in str(caught.value) for part in said)


@pytest.mark.parametrize("kind", [dfpc.DFPCImportance, dfpc.RepairedImportance])
def test_a_class_in_torch_prunings_own_pruner(kind):
    said = rf"importance={kind.__name__} is a class; write importance={kind.__name__}\(\), with brackets"
    with pytest.raises(PrunerSettingError, match=said):
        tp.MetaPruner(Small().eval(), X, importance=kind).step()


def test_options_of_torch_prunings_importances():
    with pytest.raises(PrunerSettingError, match="DFPCImportance has no option p, group_reduction: nothing is left"):
        dfpc.DFPCImportance(p=2, group_reduction="mean")


def test_a_loader_is_evaluated_as_its_data_set_is():
    model = Small().eval()
    of_set, of_loader = dfpc.evaluate_model(model, IMAGES), dfpc.evaluate_model(model, DataLoader(IMAGES, 3))
    assert (of_loader.top1, of_loader.top5, of_loader.count) == (of_set.top1, of_set.top5, of_set.count)
    assert of_loader.loss == pytest.approx(of_set.loss)


def test_loaders_in_place_of_training_sets():
    for name, sets in (("train", (DataLoader(IMAGES),)), ("val", (IMAGES, DataLoader(IMAGES)))):
        with pytest.raises(
            FinetuneError, match=rf"{name} is a DataLoader; give its data set, {name}\.dataset: settings"
        ):
            dfpc.finetune(Small(), *sets)


def test_what_is_no_data_set():
    with pytest.raises(
        DataError, match="The images are of the type generator; give a map-style data set, such as open_images"
    ):
        dfpc.evaluate_model(Small().eval(), (pair for pair in IMAGES))


class Named(TensorDataset):
    classes = ("a", "b", "c", "d")


def knowing(outputs, one):
    """A model of so many classes that gives one of them to every image."""
    model = Small().eval()
    model.head = nn.Linear(8, outputs)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()[one] = 1.0
    return model


def test_a_model_of_other_classes_is_not_evaluated_at_nought():
    named = Named(*IMAGES.tensors)
    for images in (named, DataLoader(named, 3)):
        said = r"has 4 classes, the model 1000 outputs, and 0\.0 % of the images are classified as their labels say"
        with pytest.raises(DataError, match=said):
            dfpc.evaluate_model(knowing(1000, 500), images)


def test_outputs_for_nothing_are_no_fault():
    few = Named(IMAGES.tensors[0], torch.zeros(8).long())
    with pytest.warns(UserWarning, match="has 4 classes and the model 1000 outputs"):
        assert dfpc.evaluate_model(knowing(1000, 0), few).top1 == 100
    assert dfpc.evaluate_model(knowing(4, 0), Named(*IMAGES.tensors)).top1 == 25
    assert dfpc.evaluate_model(knowing(1000, 500), IMAGES).top1 == 0  # it does not say how many classes there are


def test_a_model_of_other_classes_is_fine_tuned(tmp_path):
    named = Named(*IMAGES.tensors)
    assert dfpc.finetune(knowing(9, 8), named, named, settings=TUNING).evaluation.count == 8


def test_a_result_is_pruned_again(result):
    again = dfpc.prune(result, X, "macs=0.8")
    assert again.before.macs == result.after.macs
    assert again.after.macs <= 0.8 * result.after.macs


def test_results_are_frozen_as_before(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.model = None
