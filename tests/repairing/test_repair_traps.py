"""Models that a repair could get wrong without a word."""

import copy
import threading

import pytest
import torch
import torch_pruning as tp
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import RepairError
from dfpc_plugin.repairing import synthesise
from dfpc_plugin.repairing.inputs import collected
from dfpc_plugin.repairing.lockstep import SteppedForward
from repair_nets import relative_error, settled, small_resnet

RUNGS = ("mean", "merge", "calibrate")


class Repeats(nn.Module):
    """Calls one layer three times, in one way or another."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once, self.first, self.shared = once, nn.Linear(6, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = torch.relu(self.first(x)) + 1
        return 3 * self.shared(x) if self.once else self.shared(x) + 2 * self.shared(x)


def layer_errors(model, original, images, how, removed, **options):
    """Output error before and after a repair."""
    given = images if how == "calibrate" else None
    cut = dfpc.replay(copy.deepcopy(original), images[:1], removed)
    settings = dfpc.RepairSettings(how, given, batchnorm=False, **options)
    result = dfpc.repair(cut, original, images, settings, removed=removed)
    return relative_error(cut, original, images), relative_error(result.model, original, images), result


@pytest.mark.parametrize("how", RUNGS)
def test_a_layer_that_runs_twice_is_repaired_once(how):
    torch.manual_seed(0)
    images = torch.randn(64, 6)
    twice, once = Repeats(False).eval(), Repeats(True).eval()
    once.load_state_dict(twice.state_dict())
    removed = {"first": (1, 4, 7, 9)}
    results = [layer_errors(m, m, images, how, removed) for m in (twice, once)]
    assert results[0][1] == pytest.approx(results[1][1], rel=0.05, abs=1e-6)
    assert results[0][1] < results[0][0] or how == "mean"  # which cannot know means without a norm in front


def test_layers_that_share_a_weight_are_left_alone_and_say_so():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.one, self.two = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12)
            self.two.weight = self.one.weight
            self.end = nn.Linear(12, 4)

        def forward(self, x):
            return self.end(torch.relu(self.two(torch.relu(self.one(torch.relu(self.start(x)))))))

    torch.manual_seed(0)
    model, images = Tied().eval(), torch.randn(64, 6)
    cut = dfpc.prune(model, images[:1], "ratio=0.2")
    for how in ("merge", "calibrate"):
        result = dfpc.repair(
            cut.model, model, images[:1], how, images=images if how == "calibrate" else None, removed=cut.removed
        )
        assert result.model.one.weight is result.model.two.weight
        assert not any(layer.changed for layer in result.layers if layer.name in ("one", "two"))
        assert relative_error(result.model, model, images) <= relative_error(cut.model, model, images)
        assert how == "merge" or "shares its weight with another layer" in {layer.note for layer in result.layers}


class NormsPerCall(nn.Module):
    """A convolution without a bias that two batch norms follow, as in the heads of detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 6, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])

    def forward(self, x):
        x = torch.relu(self.stem(x)) + 1
        return torch.stack([self.norms[0](self.shared(x)), self.norms[1](self.shared(x * 0.5))], 1)


class UsedBesideItsNorm(nn.Module):
    """A convolution whose output goes into a batch norm and somewhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x):
        y = self.conv(torch.relu(self.stem(x)) + 1)
        return torch.stack([self.norm(y).relu(), y], 1)


@pytest.mark.parametrize("kind", [NormsPerCall, UsedBesideItsNorm])
@pytest.mark.parametrize("how", RUNGS)
def test_a_constant_goes_only_where_it_reaches_nothing_else(kind, how):
    torch.manual_seed(0)
    images = torch.randn(64, 3, 4, 4)
    model = settled(kind(), images)
    bare, mended, result = layer_errors(model, model, images, how, {"stem": (0, 3, 8)})
    assert mended <= bare * 1.001
    if how == "mean":
        assert any("no place for a constant" in layer.note for layer in result.layers)


def test_an_input_that_is_overwritten_is_seen_as_it_was():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.read, self.end = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(24, 4)

        def forward(self, x):
            x = torch.sigmoid(self.first(x))
            y = self.read(x)
            x.mul_(-3).add_(1)
            return self.end(torch.cat([x, torch.relu(y)], 1))

    torch.manual_seed(0)
    model, images = Overwrites().eval(), torch.randn(200, 6)
    bare, mended, result = layer_errors(model, model, images, "calibrate", {"first": (2, 5, 11)})
    assert mended < 0.5 * bare
    assert next(layer for layer in result.layers if layer.name == "read").after < 0.2


@pytest.mark.parametrize("rows", [1, 12, 24])
def test_stand_ins_are_not_believed_on_a_few_rows(rows):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.Linear(64, 8)).eval()
    images = torch.randn(256, 6)
    removed = {"0": tuple(range(0, 64, 4))}
    cut = dfpc.replay(copy.deepcopy(model), images[:1], removed)
    mended = dfpc.repair(cut, model, images[:rows], "merge", removed=removed).model
    assert all(torch.isfinite(p).all() for p in mended.parameters())
    assert relative_error(mended, model, images) < 1.2 * relative_error(cut, model, images)


def test_channels_that_never_vary_do_not_keep_a_layer_from_repair():
    model, images = small_resnet()
    with torch.no_grad():
        model.first.bn1.weight[:6] = 0.0
        model.first.bn1.bias[:6] = 0.7
    bare, mended, _ = layer_errors(model, model, images, "calibrate", {"first.conv1": (1, 8, 12)})
    assert mended < 0.2 * bare


@pytest.mark.parametrize("size", [1, 3, 16])
def test_batches_of_any_size_are_the_same_images(size):
    """And start no thread per image."""
    model, images = small_resnet()
    pruned = dfpc.prune(model, images[:1], "macs=0.6")
    most, others = 0, threading.active_count() - 1

    def watch(phase, share):
        nonlocal most
        most = max(most, threading.active_count())

    found = [
        dfpc.repair(pruned.model, model, images[:1], "calibrate", images=given, removed=pruned.removed, progress=watch)
        for given in (images, images.split(size))
    ]
    assert most - others <= 3
    assert found[0].output_error == found[1].output_error
    for own, other in zip(found[0].model.parameters(), found[1].model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_what_is_judged_by_takes_no_part():
    batches = collected(torch.arange(20.0)[:, None], 20, nn.Linear(1, 1), seed=0)
    seen, unseen = (torch.cat(part.parts).flatten().tolist() for part in (batches.fitted, batches.unseen))
    assert sorted(seen + unseen) == list(range(20)) and len(unseen) == 5
    assert seen != sorted(seen)  # inputs that come class by class are shuffled


def test_an_interrupted_forward_ends_its_thread():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                try:
                    x = layer(x).relu()
                except BaseException:  # what nobody should write, and some do
                    x = x * 2
            return x

    before = threading.active_count()
    forward = SteppedForward(Stubborn().eval(), torch.zeros(2, 4), None)
    forward.advance()
    forward.close()
    assert threading.active_count() == before


def test_a_directory_belongs_to_one_repair(tmp_path):
    model, images = small_resnet()
    pruned = dfpc.prune(model, images[:1], "macs=0.6")

    def repaired(given, original=model):
        settings = dfpc.RepairSettings("calibrate", [given], checkpoint=tmp_path)
        return dfpc.repair(pruned.model, original, images[:1], settings, removed=pruned.removed)

    repaired(images[:16])
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)
    with pytest.raises(RepairError, match="holds the beginnings of another repair"):
        repaired(images[16:32])
    with pytest.raises(RepairError, match="holds the beginnings of another repair"):
        repaired(images[:16], other)


def test_pruning_with_a_directory_keeps_the_last_repair_alone(tmp_path):
    model, images = small_resnet()
    settings = dfpc.RepairSettings("calibrate", images[:32], checkpoint=tmp_path / "kept")
    result = dfpc.prune(model, images[:1], "macs=0.6", rescore=0.3, repair=settings)
    again = dfpc.prune(model, images[:1], "macs=0.6", rescore=0.3, repair=settings)
    assert any((tmp_path / "kept").iterdir())
    assert result.repair.model is result.model
    for own, other in zip(result.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("how", ["mean", "merge", "synthetic", "calibrate"])
def test_buffers_that_share_memory_and_any_mode_do_no_harm(how):
    model, images = small_resnet()
    model.register_buffer("table", torch.zeros(1).expand(4))
    with torch.inference_mode():
        given = images[:32] if how == "calibrate" else None
        settings = dfpc.RepairSettings(how, given, steps=3, count=None if how == "calibrate" else 16)
        result = dfpc.prune(model, images[:1], "macs=0.6", repair=settings, inplace=True)
    assert result.model is model and result.repair.model is model


def test_importances_with_other_images_and_shuffled_loaders():
    model, images = small_resnet()
    importance = dfpc.RepairedImportance("calibrate", images=images[:16])
    dfpc.prune(model, images[:1], "macs=0.7", importance=importance, repair="calibrate", images=images[:40])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=8, shuffle=True)
    state = torch.random.get_rng_state()
    dfpc.prune(model, images[:1], "macs=0.7", importance=dfpc.RepairedImportance("calibrate", images=loader))
    assert torch.equal(state, torch.random.get_rng_state())


def test_depthwise_convolutions_read_nothing_in_torch_pruning():
    torch.manual_seed(0)
    images = torch.randn(32, 3, 8, 8)
    model = settled(
        nn.Sequential(
            nn.Conv2d(3, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        images,
    )
    means = []
    for graph in (tp.DependencyGraph(), dfpc.DataFlowGraph()):
        graph.build_dependency(model, images[:1])
        importance = dfpc.RepairedImportance("calibrate", images=images)
        group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, list(range(16)))
        means.append(importance(group).mean())
    assert means[0] == pytest.approx(float(means[1]))


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "Images are torch.uint8; give numbers scaled"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 6, 6)], "differ in shape or type; give images of one size"),
        ([torch.zeros(())], "A batch of images is a Tensor"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(images, text):
    with pytest.raises(RepairError, match=text):
        collected(images, 10, nn.Linear(2, 2), seed=0)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_data_set_gives_single_images(labelled):
    """With or without labels; the repair is that of the same images in one batch."""
    model, images = small_resnet()
    pruned = dfpc.prune(model, images[:1], "macs=0.7")
    single = [(image, 0) if labelled else image for image in images]
    found = [
        dfpc.repair(pruned.model, model, images[:1], "calibrate", images=given, removed=pruned.removed).model
        for given in (images, single)
    ]
    for own, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.equal(own, other)


class Sorted(torch.utils.data.Dataset):
    """A data set whose images come class by class, beside their labels or under a name."""

    def __init__(self, named: bool) -> None:
        self.named = named

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index):
        image = torch.full((3, 2, 2), float(index // 100))
        return {"images": image} if self.named else (image, index // 100)


@pytest.mark.parametrize("named", [False, True])
def test_of_a_sorted_data_set_all_classes_are_drawn(named):
    example = torch.zeros(1, 3, 2, 2)
    found = collected(Sorted(named), 100, nn.Linear(2, 2), 0, {"images": example} if named else example)
    (batch,) = found.parts
    images = batch["images"] if named else batch
    assert images.shape == (100, 3, 2, 2)
    assert set(images[:, 0, 0, 0].tolist()) == set(range(10))


def test_records_of_another_cut_are_refused():
    model, images = small_resnet()
    with pytest.raises(RepairError, match="that the original does not have"):
        dfpc.repair(copy.deepcopy(model), model, images[:1], "mean", removed={"stem": (-1,)})


@pytest.mark.parametrize(("side", "count"), [(8, 31), (128, 40)])
def test_there_are_as_many_images_as_asked_for(side, count):
    model, _ = small_resnet()
    made = synthesise(model, torch.zeros(1, 3, side, side), count=count, steps=1)
    assert sum(map(len, made.batches)) == count


def test_detectors_are_followed_as_when_they_were_pruned():
    from dfpc_plugin.models import build_model

    torch.manual_seed(0)
    model = build_model("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn").eval()
    images = torch.rand(3, 3, 96, 96)
    cut = dfpc.prune(model, images[:1], "ratio=0.1", importance=dfpc.DFPCImportance())
    result = dfpc.repair(cut.model, model, images[:1], "calibrate", images=images, removed=cut.removed)
    assert sum(layer.changed for layer in result.layers) > 10
