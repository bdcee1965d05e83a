"""`repair`: what it refuses, what it leaves alone, and that it can be stopped and goes on."""

import copy
import json
import threading

import pytest
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import RepairError
from dfpc_plugin.repairing.lockstep import survey
from repair_nets import relative_error, small_resnet


@pytest.fixture(scope="module")
def case():
    """A model, a cut of it, and images."""
    model, images = small_resnet()
    return model, dfpc.prune(model, images[:1], "macs=0.6"), images


def states(*models):
    """Everything of some models that a repair must not change."""
    return [
        (
            {k: v.clone() for k, v in m.state_dict().items()},
            [x.training for x in m.modules()],
            [p.requires_grad for p in m.parameters()],
            [id(p) for p in m.parameters()],
            [len(x._forward_hooks) + len(x._forward_pre_hooks) for x in m.modules()],
        )
        for m in models
    ]


def assert_same(before, after):
    for mine, other in zip(before, after, strict=True):
        assert mine[1:] == other[1:]
        assert all(torch.equal(mine[0][key], other[0][key]) for key in mine[0])


@pytest.mark.parametrize("how", ["none", "mean", "merge", "synthetic", "calibrate"])
def test_given_models_and_generators_are_left_alone(case, how):
    model, pruned, images = case
    model.train()
    pruned.model.train()
    before, random = states(model, pruned.model), torch.random.get_rng_state()
    result = dfpc.repair(
        pruned.model, model, images[:1], how, images=images[:16] if how == "calibrate" else None, removed=pruned.removed
    )
    assert_same(before, states(model, pruned.model))
    assert torch.equal(random, torch.random.get_rng_state())
    assert result.model is not pruned.model
    assert result.model.training
    model.eval()
    pruned.model.eval()


def test_in_place_keeps_parameters_and_their_settings(case):
    model, pruned, images = case
    cut = copy.deepcopy(pruned.model)
    cut.stem.weight.requires_grad_(False)
    identities = [id(parameter) for parameter in cut.parameters()]
    result = dfpc.repair(cut, model, images[:1], "calibrate", images=images[:32], removed=pruned.removed, inplace=True)
    assert result.model is cut
    assert [id(parameter) for parameter in cut.parameters()] == identities
    assert not cut.stem.weight.requires_grad
    elsewhere = dfpc.repair(pruned.model, model, images[:1], "calibrate", images=images[:32], removed=pruned.removed)
    for own, other in zip(cut.state_dict().values(), elsewhere.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("how", ["merge", "synthetic", "calibrate"])
def test_the_same_seed_gives_the_same_weights(case, how):
    model, pruned, images = case
    given = images[:32] if how == "calibrate" else None
    settings = dfpc.RepairSettings(how, given, rows=256, steps=5, seed=3)
    first, second = (dfpc.repair(pruned.model, model, images[:1], settings, removed=pruned.removed) for _ in range(2))
    for own, other in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_one_batch_at_a_time_gives_the_same_weights(case):
    """With little memory, some forwards or all are started again for every layer instead of being held."""
    model, pruned, images = case
    batches = list(images.split(16))
    of_one = 4 * max(step.largest for step in survey(model, images[:1], None)) * len(batches[0]) / 2**30
    held, *again = (
        dfpc.repair(
            pruned.model,
            model,
            images[:1],
            dfpc.RepairSettings("calibrate", batches, memory_gib=memory),
            removed=pruned.removed,
        )
        for memory in (None, 1.5 * of_one, 1e-9)
    )
    assert len(batches) > 1
    for result in again:
        for own, other in zip(held.model.parameters(), result.model.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_no_layer_is_worse_on_what_it_has_not_seen(case):
    model, pruned, images = case
    result = dfpc.repair(pruned.model, model, images[:1], "calibrate", images=images[:16], removed=pruned.removed)
    solved = [layer for layer in result.layers if layer.changed]
    assert len(solved) >= 4
    assert all(layer.after <= layer.before for layer in solved)
    assert result.output_error[1] < result.output_error[0]
    text = str(result)
    assert "Repaired by calibrate: " in text and "squared error of the outputs" in text.replace("\n", " ")
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["method"] == "calibrate"


class Interrupted(Exception):
    """Stands for a user who stops a repair."""


def test_a_repair_that_was_stopped_goes_on(case, tmp_path):
    model, pruned, images = case
    settings = dfpc.RepairSettings("synthetic", steps=5, count=32, checkpoint=tmp_path / "repair")
    whole = dfpc.repair(
        pruned.model, model, images[:1], dfpc.RepairSettings("synthetic", steps=5, count=32), removed=pruned.removed
    )
    told = []

    def stop(phase, share):
        told.append((phase, share))
        if phase == "layers" and share > 0.5:
            raise Interrupted

    before, threads = states(model, pruned.model), threading.active_count()
    with pytest.raises(Interrupted):
        dfpc.repair(pruned.model, model, images[:1], settings, removed=pruned.removed, progress=stop)
    assert_same(before, states(model, pruned.model))
    assert threading.active_count() == threads
    kept = sorted(path.name for path in (tmp_path / "repair").iterdir())
    assert "images" in kept and any(name.startswith("layer-") for name in kept)
    rest = dfpc.repair(pruned.model, model, images[:1], settings, removed=pruned.removed)
    for own, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    assert [layer.name for layer in rest.layers] == [layer.name for layer in whole.layers]


def test_a_directory_of_another_repair_is_refused(case, tmp_path):
    model, pruned, images = case
    one, other = (dfpc.RepairSettings("calibrate", images[:16], seed=seed, checkpoint=tmp_path) for seed in (0, 1))
    dfpc.repair(pruned.model, model, images[:1], one, removed=pruned.removed)
    with pytest.raises(
        RepairError, match=r"holds the beginnings of another repair .* name another directory, or remove it"
    ):
        dfpc.repair(pruned.model, model, images[:1], other, removed=pruned.removed)
    next(tmp_path.glob("layer-*")).write_bytes(b"nothing")
    with pytest.raises(RepairError, match=r"cannot be read .* remove it, and the layer is solved again"):
        dfpc.repair(pruned.model, model, images[:1], one, removed=pruned.removed)


@pytest.mark.parametrize("damage", ["flip", "swap"])
def test_a_damaged_layer_is_noticed(damage, case, tmp_path):
    model, pruned, images = case
    settings = dfpc.RepairSettings("calibrate", images[:16], checkpoint=tmp_path)
    dfpc.repair(pruned.model, model, images[:1], settings, removed=pruned.removed)
    first, second = sorted(tmp_path.glob("layer-*"), key=lambda path: -path.stat().st_size)[:2]
    content = bytearray(first.read_bytes())
    content[-1] ^= damage == "flip"
    spoilt = first if damage == "flip" else second
    spoilt.write_bytes(content)
    with pytest.raises(RepairError, match=r"is not what was written there; remove it, and the layer is solved again"):
        dfpc.repair(pruned.model, model, images[:1], settings, removed=pruned.removed)
    spoilt.unlink()
    dfpc.repair(pruned.model, model, images[:1], settings, removed=pruned.removed)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"method": "retrain"},
            "method='retrain' is none of none, mean, merge, synthetic, calibrate; choose one of them",
        ),
        ({"method": "calibrate"}, "method='calibrate' needs images"),
        ({"method": "mean", "images": torch.zeros(2, 3, 8, 8)}, "method='mean' uses no images"),
        ({"ridge": -1.0}, "ridge must be 0 or more, not -1.0"),
        ({"rows": 3}, "rows must be 16 or more, not 3"),
        ({"count": 1}, "count must be 2 or more, not 1"),
        ({"memory_gib": 0.0}, "memory_gib must be above 0, not 0.0"),
    ],
)
def test_settings_that_cannot_be_followed(settings, text):
    with pytest.raises(RepairError, match=text):
        dfpc.RepairSettings(**settings)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.zeros(1, 3, 8, 8), "There are 1 images; give two or more"),
        ([], "There are 0 images"),
        (7, "images is a int; give a tensor, a dict, or batches"),
        (["a"], "A batch of images is a str; batches are tensors"),
        (torch.full((4, 3, 8, 8), torch.nan), "not finite; leave these out"),
    ],
)
def test_images_that_cannot_be_used(case, images, text):
    model, pruned, example = case
    with pytest.raises(RepairError, match=text):
        dfpc.repair(pruned.model, model, example[:1], "calibrate", images=images, removed=pruned.removed)


def test_batches_may_carry_labels_and_come_from_a_loader(case):
    model, pruned, images = case
    data = torch.utils.data.TensorDataset(images[:32].double(), torch.arange(32))
    loader = torch.utils.data.DataLoader(data, batch_size=32)
    found = dfpc.repair(pruned.model, model, images[:1], "calibrate", images=loader, removed=pruned.removed)
    plain = dfpc.repair(pruned.model, model, images[:1], "calibrate", images=images[:32], removed=pruned.removed)
    for own, other in zip(found.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_models_without_batch_norm_say_what_can_be_done():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    images = torch.randn(16, 3, 8, 8)
    cut = dfpc.prune(model, images[:1], "ratio=0.3")
    with pytest.raises(
        RepairError, match=r"no batch norm with stored statistics.*method='calibrate'.*'merge' or 'mean'"
    ):
        dfpc.repair(cut.model, model, images[:1], "synthetic", removed=cut.removed)
    mended = dfpc.repair(cut.model, model, images[:1], "calibrate", images=images, removed=cut.removed)
    assert relative_error(mended.model, model, images) < relative_error(cut.model, model, images)


def test_another_original_is_refused(case):
    _, pruned, images = case
    other, _ = small_resnet(seed=1)
    with pytest.raises(RepairError, match="cannot be told from its weights"):
        dfpc.repair(pruned.model, other, images[:1], "mean")
    with pytest.raises(RepairError, match="removed names outputs of 'nowhere'"):
        dfpc.repair(pruned.model, other, images[:1], "mean", removed={"nowhere": (0,)})
    with pytest.raises(RepairError, match="would be left"):
        dfpc.repair(pruned.model, other, images[:1], "mean", removed={})


def test_half_precision_is_repaired_in_its_own_precision(case):
    model, pruned, images = case
    half, cut = copy.deepcopy(model).bfloat16(), copy.deepcopy(pruned.model).bfloat16()
    result = dfpc.repair(cut, half, images[:1].bfloat16(), "calibrate", images=images, removed=pruned.removed)
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert result.output_error[1] < result.output_error[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", ["mean", "merge", "synthetic", "calibrate"])
def test_on_a_gpu_it_is_the_same(case, how):
    model, pruned, images = case
    given = images[:32] if how == "calibrate" else None
    here = dfpc.repair(pruned.model, model, images[:1], how, images=given, removed=pruned.removed)
    on_gpu, cut = copy.deepcopy(model).cuda(), copy.deepcopy(pruned.model).cuda()
    there = dfpc.repair(cut, on_gpu, images[:1].cuda(), how, images=given, removed=pruned.removed)
    assert relative_error(there.model.cpu(), here.model, images) < 1e-2


def test_a_table_has_no_columns_that_are_empty():
    """Neither errors nor ridges where a repair looks at weights alone."""
    model, images = small_resnet()
    cut = dfpc.prune(model, images[:1], "macs=0.6")
    lines = {
        how: str(dfpc.repair(cut.model, model, images[:1], how, images=given, removed=cut.removed)).splitlines()
        for how, given in (("merge", None), ("calibrate", images))
    }
    assert not any("ridge" in line or "error before" in line for line in lines["merge"])
    assert any("ridge" in line and "error before" in line for line in lines["calibrate"])
    assert any("first.conv2" in line for line in lines["merge"])
