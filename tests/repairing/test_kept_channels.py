"""Which channels a cut has left, told from weights alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from call_tools import calls_of, randomised
from torch import Tensor, nn

from brute_force import Between
from budget_nets import make
from dfpc_plugin.errors import RepairError
from dfpc_plugin.pruning import prune, replay
from dfpc_plugin.repairing.kept import Kept, kept_channels

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    width = 3
    for size in (8, 12, 10):
        layers += [nn.Conv2d(width, size, 3, padding=1, bias=False), nn.BatchNorm2d(size), nn.ReLU(), nn.MaxPool2d(2)]
        width = size
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 4))


def resnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.bn(m.stem(x)))
        x = F.relu(m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x))))) + x)
        return m.head((m.bn4(m.conv4(F.relu(m.bn3(m.conv3(x))))) + m.down(x)).mean((2, 3)))

    return Between(
        run,
        stem=nn.Conv2d(3, 8, 3, padding=1),
        bn=nn.BatchNorm2d(8),
        conv1=nn.Conv2d(8, 6, 3, padding=1),
        bn1=nn.BatchNorm2d(6),
        conv2=nn.Conv2d(6, 8, 3, padding=1),
        bn2=nn.BatchNorm2d(8),
        conv3=nn.Conv2d(8, 7, 3, 2, 1),
        bn3=nn.BatchNorm2d(7),
        conv4=nn.Conv2d(7, 12, 3, padding=1),
        bn4=nn.BatchNorm2d(12),
        down=nn.Conv2d(8, 12, 1, 2),
        head=nn.Linear(12, 4),
    )


def concat() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a = F.relu(m.first(x))
        b = F.relu(m.second(a))
        return m.head(m.last(torch.cat([b, a], 1)).relu().mean((2, 3)))

    return Between(
        run,
        first=nn.Conv2d(3, 6, 3, padding=1),
        second=nn.Conv2d(6, 8, 3, padding=1),
        last=nn.Conv2d(14, 8, 1),
        head=nn.Linear(8, 4),
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, 2),
        nn.ReLU(),
        nn.Conv2d(6, 10, 3),
        nn.ReLU(),
        nn.Conv2d(10, 10, 3, groups=10),
        nn.BatchNorm2d(10),
        nn.Conv2d(10, 4, 1),
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
    )


NETS = [vgg, resnet, concat, transposed, grouped]


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return randomised(make())


def trained_further(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose weights have changed a lot, but are related to the old ones."""
    trained = randomised(copy.deepcopy(model), seed)
    with torch.no_grad():
        for own, old in zip(trained.parameters(), model.parameters(), strict=True):
            own.lerp_(old, 0.5)
    return trained


def last_layer(model: nn.Module) -> nn.Module:
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def layers(model: nn.Module) -> dict[str, nn.Module]:
    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def check_weights(kept: Kept, original: nn.Module, pruned: nn.Module, inputs: Tensor = IMAGE) -> int:
    """Find the pruned weights in what is said to be left of the original's; return how many outputs went."""
    lost = 0
    old, new = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (original, pruned))
    for call in calls_of(original, inputs):
        outputs, ins = kept.outputs(call), kept.inputs(call)
        weight = old[f"{call.name}.weight"].detach()
        bias = old.get(f"{call.name}.bias")
        if call.groups == 1 or call.groups == len(weight):
            if outputs is not None:
                weight = weight.index_select(call.weight_axis, outputs.nonzero().squeeze(1))
            if ins is not None and call.groups == 1:
                weight = weight.index_select(1 - call.weight_axis, ins.nonzero().squeeze(1))
            assert torch.equal(weight, new[f"{call.name}.weight"]), call.name
        if outputs is not None:
            lost += int((~outputs).sum())
            if bias is not None:
                assert torch.equal(bias[outputs], new[f"{call.name}.bias"])
        assert (len(old[f"{call.name}.weight"]) != len(new[f"{call.name}.weight"])) <= (
            outputs is not None or call.weight_axis == 1
        )
    return lost


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_what_torch_pruning_removed_is_found(net: Callable[[], nn.Module], ratio: float) -> None:
    original = built(net)
    pruned = copy.deepcopy(original)
    pruner = tp.MetaPruner(
        pruned, IMAGE, tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio, ignored_layers=[last_layer(pruned)]
    )
    pruner.step()
    kept = kept_channels(pruned, original, IMAGE, None, None)
    assert check_weights(kept, original, pruned) > 0
    for name, module in pruned.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            stay = kept.along(f"{name}.weight", 0)
            before = original.get_submodule(name)
            for part in ("weight", "bias", "running_mean", "running_var"):
                values = getattr(before, part)
                assert torch.equal(values if stay is None else values[stay], getattr(module, part))


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_what_prune_removed_is_found(net: Callable[[], nn.Module]) -> None:
    original = built(net)
    result = prune(original, IMAGE, "ratio=0.4")
    found = kept_channels(result.model, original, IMAGE, None, None)
    told = kept_channels(result.model, original, IMAGE, None, result.removed)
    assert torch.equal(found.removed, told.removed) and found.removed.any()
    check_weights(told, original, result.model)
    for call in calls_of(original, IMAGE):
        outputs = found.outputs(call)
        gone = () if outputs is None else tuple((~outputs).nonzero().flatten().tolist())
        assert gone == tuple(result.removed.get(call.name, ()))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "fused attention", "torch attention"])
def test_what_prune_removed_is_found_in_larger_models(name: str) -> None:
    original, inputs = make(name)
    result = prune(original, inputs, "ratio=0.3")
    found = kept_channels(result.model, original, inputs, None, None)
    told = kept_channels(result.model, original, inputs, None, result.removed)
    assert torch.equal(found.removed, told.removed) and found.removed.any()


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_nothing_is_gone_from_the_same_model(net: Callable[[], nn.Module]) -> None:
    original = built(net)
    trained = trained_further(original, 1)  # everything is there
    kept = kept_channels(trained, original, IMAGE, None, None)
    assert not kept.removed.any()
    for call in calls_of(original, IMAGE):
        assert kept.outputs(call) is None and kept.inputs(call) is None


@pytest.mark.parametrize("recorded", [False, True])
def test_weights_of_another_training_are_refused(recorded: bool) -> None:
    original = built(resnet)
    result = prune(original, IMAGE, "macs=0.6")
    other = randomised(copy.deepcopy(original), 1)
    removed = result.removed if recorded else None
    with pytest.raises(RepairError, match=r"not those of the original|cannot be told from its weights"):
        kept_channels(result.model, other, IMAGE, None, removed)
    if recorded:
        assert kept_channels(result.model, original, IMAGE, None, removed).removed.any()


def cut_by_hand(model: nn.Sequential, stay: list[int], last: int = 3) -> nn.Sequential:
    """Channels of the first convolution of `twins` out, as any cut leaves it."""
    model = copy.deepcopy(model)
    first, norm, reader = model[0], model[1], model[last]
    for module, name in ((first, "weight"), (first, "bias"), (norm, "weight"), (norm, "bias")):
        if getattr(module, name) is not None:
            setattr(module, name, nn.Parameter(getattr(module, name).detach()[stay]))
    norm.running_mean, norm.running_var = norm.running_mean[stay], norm.running_var[stay]
    reader.weight = nn.Parameter(reader.weight.detach()[:, stay])
    first.out_channels = norm.num_features = reader.in_channels = len(stay)
    return model


def twins() -> nn.Sequential:
    """Channels 1, 2 and 4 have equal weights in the first convolution."""
    torch.manual_seed(0)
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)))
    for place in (2, 4):
        model[0].weight.data[place] = model[0].weight.data[1]
        model[0].bias.data[place] = model[0].bias.data[1]
    return model


STAYED = [[0, 2, 3, 5], [0, 1, 4], [2, 4, 5], [4], [1, 2, 4], [0, 3], [0, 1, 2, 3, 5]]


@pytest.mark.parametrize("stay", STAYED, ids=str)
@pytest.mark.parametrize("told_by", ["norm", "columns", "both"])
def test_equal_rows_are_told_apart_by_the_rest(stay: list[int], told_by: str) -> None:
    model = twins()
    if told_by != "both":
        alike = (
            [model[3].weight.data.transpose(0, 1)] if told_by == "norm" else list(model[1].state_dict().values())[:4]
        )
        for values in alike:
            for place in (2, 4):
                values[place] = values[1]
    kept = kept_channels(cut_by_hand(model, stay), model, IMAGE, None, None)
    found = kept.along("0.weight", 0)
    assert found is not None and found.nonzero().flatten().tolist() == stay


@pytest.mark.parametrize("stay", STAYED, ids=str)
def test_of_equal_channels_so_many_stay(stay: list[int]) -> None:
    """Which of them does not matter; that it is as many, and that all others are right, does."""
    model = twins()
    for values in (model[3].weight.data.transpose(0, 1), *list(model[1].state_dict().values())[:4]):
        for place in (2, 4):
            values[place] = values[1]
    pruned = cut_by_hand(model, stay)
    kept = kept_channels(pruned, model, IMAGE, None, None).along("0.weight", 0)
    assert kept is not None and torch.equal(model[0].weight[kept], pruned[0].weight)
    assert torch.equal(model[3].weight[:, kept], pruned[3].weight)


def test_changed_weights_are_no_guess() -> None:
    original = built(vgg)
    result = prune(original, IMAGE, "ratio=0.4")
    changed = trained_further(result.model, 3)
    with pytest.raises(
        RepairError, match=r"cannot be told from its weights, which have changed since; pass what was removed"
    ):
        kept_channels(changed, original, IMAGE, None, None)
    told = kept_channels(changed, original, IMAGE, None, result.removed)
    assert told.removed.any()


def test_weights_scaled_as_a_whole_are_the_same() -> None:
    original = built(vgg)
    result = prune(original, IMAGE, "ratio=0.4")
    expected = kept_channels(result.model, original, IMAGE, None, None).removed
    result.model[0].weight.data *= torch.linspace(0.5, 2, len(result.model[0].weight))[:, None, None, None]
    assert torch.equal(kept_channels(result.model, original, IMAGE, None, None).removed, expected)


def test_rows_without_weights_stay_the_same_beside_scaled_ones() -> None:
    """Zero rows are the same only exactly, the others only up to a factor."""
    original = built(vgg)
    original[0].weight.data[[0, 5]] = 0
    stay = [0, 1, 2, 5, 7]
    pruned = cut_by_hand(original, stay, last=4)
    pruned[0].weight.data *= 0.5
    pruned[1] = copy.deepcopy(randomised(nn.BatchNorm2d(5), 9))
    found = kept_channels(pruned, original, IMAGE, None, None).along("0.weight", 0)
    assert found is not None and found.nonzero().flatten().tolist() == stay


def test_dead_channels_are_told_apart_by_columns_of_a_layer_that_is_cut_as_well() -> None:
    """Zero rows behind a norm that hides them: only the columns of the next layer, itself cut, tell which."""
    original = built(vgg)
    dead = [0, 3, 6]
    original[0].weight.data[dead] = 0
    for values in list(original[1].state_dict().values())[:4]:
        values[dead] = values[0].clone()
    removed = {"0": [0, 6], "4": [2, 5]}
    pruned = replay(copy.deepcopy(original), IMAGE, removed)
    found = kept_channels(pruned, original, IMAGE, None, None)
    told = kept_channels(pruned, original, IMAGE, None, removed)
    assert torch.equal(found.removed, told.removed)


def test_another_model_is_refused() -> None:
    original = built(vgg)
    pruned = prune(original, IMAGE, "ratio=0.4").model
    with pytest.raises(RepairError, match=r"The original has no '0.weight' like the pruned model; pass what that was"):
        kept_channels(pruned, built(resnet), IMAGE, None, None)
    wider = built(lambda: nn.Sequential(*vgg()[:-1], nn.Linear(9, 5)))
    with pytest.raises(RepairError):
        kept_channels(prune(wider, IMAGE, "ratio=0.4").model, original, IMAGE, None, None)


def test_what_only_the_pruned_model_holds_is_left_alone() -> None:
    original = built(vgg)
    result = prune(original, IMAGE, "ratio=0.4")
    result.model.register_parameter("temperature", nn.Parameter(torch.ones(1)))
    assert torch.equal(
        kept_channels(result.model, original, IMAGE, None, result.removed).removed,
        kept_channels(result.model, original, IMAGE, None, None).removed,
    )


@pytest.mark.parametrize("recorded", [False, True])
def test_a_wrong_original_is_named_before_anything_is_traced(monkeypatch, recorded: bool) -> None:
    original = built(vgg)
    result = prune(original, IMAGE, "ratio=0.4")
    removed, kept = result.removed if recorded else None, len(result.model[0].weight)
    other = built(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), *vgg()[1:]))
    shorter = built(lambda: vgg()[:3])
    monkeypatch.delattr("dfpc_plugin.repairing.kept.map_couplings")
    with pytest.raises(RepairError) as swapped:
        kept_channels(original, result.model, IMAGE, None, removed)
    assert str(swapped.value) == (
        f"The pruned model and the original are swapped: '0.weight' has the shape (8, 3, 3, 3) in the pruned model and "
        f"({kept}, 3, 3, 3) in the original; call repair(pruned, original, ...)."
    )
    with pytest.raises(RepairError) as another:
        kept_channels(result.model, other, IMAGE, None, removed)
    assert str(another.value) == (
        f"'0.weight' has the shape ({kept}, 3, 3, 3) in the pruned model and (8, 3, 1, 1) in the original, so it was pruned "
        f"from another one; pass that, with its weights, as original."
    )
    with pytest.raises(
        RepairError, match=r"The original has no '.*' like the pruned model; pass what that was pruned from"
    ):
        kept_channels(result.model, shorter, IMAGE, None, removed)
    with pytest.raises(
        RepairError, match=r"model and original are the same object; give the unpruned model as original"
    ):
        kept_channels(original, original, IMAGE, None, removed)


def test_a_record_and_an_original_with_more_layers() -> None:
    original = built(vgg)
    result = prune(original, IMAGE, "ratio=0.4")
    longer = nn.Sequential(*original, nn.Linear(4, 3).double())
    with pytest.raises(RepairError, match=r"has no '.*' like the original; pass what it was pruned from"):
        kept_channels(result.model, longer, IMAGE, None, result.removed)


def test_a_record_of_another_cut_is_refused() -> None:
    original = built(vgg)
    result = prune(original, IMAGE, "ratio=0.4")
    with pytest.raises(RepairError, match="removed names outputs of 'nothing' that the original does not have"):
        kept_channels(result.model, original, IMAGE, None, {"nothing": [0]})
    with pytest.raises(RepairError, match="removed names outputs of '0' that the original does not have"):
        kept_channels(result.model, original, IMAGE, None, {"0": [8]})
    with pytest.raises(RepairError, match="entries in dimension 0 where 8 would be left"):
        kept_channels(result.model, original, IMAGE, None, {})
