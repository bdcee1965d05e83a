"""Compiled and wrapped models are followed to the module inside; other forms are refused with advice."""

import copy

import pytest
import torch
from torch import nn

from dfpc_plugin import DFPCImportance, DFPCPruner, bgsc, find_couplings, missing_operators, prune, repair, replay
from dfpc_plugin.errors import ModelFormError, PrunerSettingError
from dfpc_plugin.wrappers import plain_model

X = torch.ones(1, 3, 8, 8)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1)
    ).eval()


def never(graph, inputs):
    raise AssertionError("compiled")


def compiled():
    return torch.compile(net(), backend=never)


def compiled_in_place():
    model = net()
    model.compile(backend=never)
    return model


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("make", [compiled, compiled_in_place])
def test_compiled_models_are_followed_as_they_were_before(make):
    plain = prune(net(), X, "macs=0.6")
    model = make()
    assert [c.name for c in find_couplings(model, X)] == [c.name for c in find_couplings(net(), X)]
    assert bgsc(model, X).keys() == bgsc(net(), X).keys()
    assert missing_operators(model, X) == ()
    result = prune(model, X, "macs=0.6")
    assert type(result.model) is nn.Sequential and result.removed == plain.removed
    assert repair(result.model, model, X, "merge").model(X).shape == (1, 4, 4, 4)
    assert replay(make(), X, result.removed)[0].out_channels == result.model[0].out_channels
    assert prune(make(), X, "macs=0.6", inplace=True).model[0].out_channels == plain.model[0].out_channels
    pruner = DFPCPruner(model, X, DFPCImportance(), pruning_ratio=0.5)
    pruner.step()
    assert plain_model(model)[0].out_channels == 4


def test_a_distributed_model_is_followed_but_not_cut_in_place(group):
    model = nn.parallel.DistributedDataParallel(net())
    plain = prune(net(), X, "macs=0.6")
    assert [c.name for c in find_couplings(model, X)] == [c.name for c in find_couplings(net(), X)]
    assert bgsc(model, X).keys() == bgsc(net(), X).keys()
    result = prune(model, X, "macs=0.6")
    assert type(result.model) is nn.Sequential and result.removed == plain.removed
    before = copy.deepcopy(model.module.state_dict())
    for cut in (
        lambda: prune(model, X, "macs=0.6", inplace=True),
        lambda: DFPCPruner(model, X, DFPCImportance()),
        lambda: replay(model, X, result.removed),
        lambda: repair(model, net(), X, "merge", inplace=True),
    ):
        with pytest.raises(ModelFormError, match=r"give its \.module"):
            cut()
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_data_parallel_models_keep_their_names():
    result = prune(nn.DataParallel(net()), X, "macs=0.6")
    assert isinstance(result.model, nn.DataParallel)
    assert result.removed == {f"module.{name}": gone for name, gone in prune(net(), X, "macs=0.6").removed.items()}


FORMS = {
    "scripted": (lambda: torch.jit.script(net()), "TorchScript"),
    "traced": (lambda: torch.jit.trace(net(), X), "TorchScript"),
    "exported": (lambda: torch.export.export(net(), (X,)), "give (the|a) module"),
    "exported_module": (lambda: torch.export.export(net(), (X,)).module(), "before torch.export"),
    "lazy": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3)), "lazy layer '1' .* call the model once"),
    "lazy_norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d()), "lazy layer '1'"),
    "weights": (lambda: net().state_dict(), " is a state_dict, which is weights without a model; build the model"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("run", [
    find_couplings,
    lambda model, x: prune(model, x, "macs=0.5"),
    lambda model, x: prune(model, x, "macs=0.5", inplace=True),
    lambda model, x: DFPCPruner(model, x, DFPCImportance()),
    lambda model, x: replay(model, x, {}),
    lambda model, x: repair(net(), model, x, "merge"),
    lambda model, x: repair(model, net(), x, "merge"),
])  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_refused_with_advice(form, run):
    make, message = FORMS[form]
    with pytest.raises((ModelFormError, PrunerSettingError), match=message):
        run(make(), X)


@pytest.mark.parametrize("form", ["exported", "exported_module", "lazy", "lazy_norm"])
def test_scores_are_refused_too(form):
    make, message = FORMS[form]
    with pytest.raises(ModelFormError, match=message):
        bgsc(make(), X)
