"""Where a repair can be exact, it is."""

import copy

import pytest
import torch
import torch_pruning as tp
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.repairing.inputs import collected
from repair_nets import relative_error, settled, small_resnet


def rows(layer, keep):
    """Outputs of a layer that are not kept."""
    return {layer: tuple(i for i in range(len(keep)) if not keep[i])}


def duplicated(model, pairs):
    """Make inner channels of the first block doubles of others, the layer that reads them left alone."""
    with torch.no_grad():
        for copy_of, double in pairs:
            model.first.conv1.weight[double] = model.first.conv1.weight[copy_of]
            for tensor in (*model.first.bn1.parameters(), model.first.bn1.running_mean, model.first.bn1.running_var):
                tensor[double] = tensor[copy_of]
    return model


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_merge_loses_nothing_of_duplicated_channels(scale):
    """Scaled doubles (after a ReLU, a positive scale of both gamma and beta) are as good as equal ones."""
    model, images = small_resnet()
    model = duplicated(model, [(0, 5), (3, 11), (0, 15)]).double()
    with torch.no_grad():
        for double in (5, 11, 15):
            model.first.bn1.weight[double] *= scale
            model.first.bn1.bias[double] *= scale
    example = images[:1].double()
    cut = dfpc.replay(copy.deepcopy(model), example, {"first.conv1": (5, 11, 15)})
    bare = relative_error(cut, model, images.double())
    mended = dfpc.repair(cut, model, example, "merge", removed={"first.conv1": (5, 11, 15)}).model
    assert bare > 1e-2
    assert relative_error(mended, model, images.double()) < 1e-8


def test_merge_of_duplicates_is_found_from_weights_alone():
    """Doubles cannot be told from each other by their rows, but what they are is all the same to the repair."""
    model, images = small_resnet()
    model = duplicated(model, [(0, 5), (3, 11)]).double()
    cut = dfpc.replay(copy.deepcopy(model), images[:1].double(), {"first.conv1": (5, 11)})
    mended = dfpc.repair(cut, model, images[:1].double(), "merge").model
    assert relative_error(mended, model, images.double()) < 1e-8


def constant(norm, channels):
    """Let a batch norm return a constant in some channels."""
    with torch.no_grad():
        norm.weight[channels] = 0.0
        norm.bias[channels] = torch.linspace(0.5, 1.5, len(channels)).to(norm.bias)


def test_mean_loses_nothing_of_constant_channels():
    images = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 10, 3, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()
    settled(model, images)
    gone = {"0": (1, 6), "3": (0, 2, 9)}
    constant(model[1], list(gone["0"]))
    constant(model[4], list(gone["3"]))
    cut = dfpc.replay(copy.deepcopy(model), images[:1], gone)
    bare = relative_error(cut, model, images)
    result = dfpc.repair(cut, model, images[:1], "mean", removed=gone)
    assert bare > 1e-3
    assert relative_error(result.model, model, images) < 1e-12
    assert {layer.name for layer in result.layers if layer.changed} == {"3", "6"}


@pytest.mark.parametrize("bias", [True, False])
def test_calibrate_on_a_linear_network_is_least_squares(bias):
    """The optimum of each layer in turn, computed independently by lstsq on the same samples."""
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(6, 9, bias=bias), nn.Linear(9, 7, bias=bias), nn.Linear(7, 4, bias=bias))
        .double()
        .eval()
    )
    data = torch.randn(80, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 1
    gone = {"0": (2, 5, 8), "1": (0, 3)}
    cut = dfpc.replay(copy.deepcopy(model), data[:1], gone)
    settings = dfpc.RepairSettings("calibrate", data, ridge=0.0, rows=1000, batchnorm=False)
    mended = dfpc.repair(cut, model, data[:1], settings, removed=gone).model

    (seen,) = collected(data, 80, model, seed=0).fitted.parts
    assert len(seen) == 60
    x, target = seen, seen
    for name, (layer, original) in enumerate(zip(mended, model, strict=True)):
        target = original(target)
        keep = [i for i in range(target.shape[1]) if i not in gone.get(str(name), ())]
        wanted = target[:, keep]
        design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) if bias else x
        found = torch.linalg.lstsq(design, wanted).solution
        best = design @ found
        torch.testing.assert_close(layer(x), best, rtol=1e-6, atol=1e-8)
        x = best
    assert relative_error(mended, model, data) < relative_error(cut, model, data)


@pytest.mark.parametrize("groups", [1, 4])
def test_every_rung_does_better_than_the_one_before_it(groups):
    model, images = small_resnet(groups=groups, width=16)
    pruned = dfpc.prune(model, images[:1], "macs=0.6")
    errors = [relative_error(pruned.model, model, images)]
    for how in ("mean", "merge", "synthetic", "calibrate"):
        given = images[:48] if how == "calibrate" else None
        result = dfpc.repair(pruned.model, model, images[:1], how, images=given, removed=pruned.removed)
        errors.append(relative_error(result.model, model, images))
    bare, mean, merge, synthetic, calibrate = errors
    assert mean < bare
    assert merge < bare
    assert synthetic < min(mean, 0.8 * bare)
    assert calibrate < synthetic * 1.1


def test_works_after_plain_torch_pruning():
    model, images = small_resnet()
    original = copy.deepcopy(model)
    pruner = tp.MetaPruner(
        model, images[:1], tp.importance.GroupMagnitudeImportance(), pruning_ratio=0.4, ignored_layers=[model.head]
    )
    pruner.step()
    bare = relative_error(model, original, images)
    result = dfpc.repair(model, original, images[:1], "calibrate", images=images[:48])
    assert relative_error(result.model, original, images) < 0.5 * bare


def test_attention_keeps_the_scale_that_a_cut_gave_its_queries():
    """Queries of a narrower head are scaled up; fitting them to the original's would undo it."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(48, 3, 32, 32)
    others = ["patch_embed.*", "blocks.*.mlp.*", "blocks.*.attn.proj"]
    pruned = dfpc.prune(model, images[:1], "ratio=0.3", importance=dfpc.DFPCImportance(), ignored_layers=others)
    assert pruned.model.blocks[0].attn.head_dim < model.blocks[0].attn.head_dim
    bare = relative_error(pruned.model, model, images)
    result = dfpc.repair(pruned.model, model, images[:1], "calibrate", images=images[:32], removed=pruned.removed)
    assert relative_error(result.model, model, images) < 0.5 * bare
    by_weights = dfpc.repair(pruned.model, model, images[:1], "calibrate", images=images[:32])
    for own, other in zip(result.model.parameters(), by_weights.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_multihead_attention_is_repaired_in_all_its_projections():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    data = torch.randn(40, 6, 24)
    pruned = dfpc.prune(model, data[:1], "ratio=0.3")
    bare = relative_error(pruned.model, model, data)
    result = dfpc.repair(pruned.model, model, data[:1], "calibrate", images=data, removed=pruned.removed)
    assert relative_error(result.model, model, data) < 0.5 * bare
    names = [layer.name for layer in result.layers]
    assert [layer.name for layer in result.layers if layer.changed].count("layers.1.self_attn.in_proj_weight") == 3
    assert names.index("layers.1.self_attn.in_proj_weight") < names.index("layers.1.self_attn.out_proj")


def test_layers_that_run_twice_are_fitted_to_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.last(torch.relu(self.shared(torch.relu(self.shared(x)))))

    torch.manual_seed(0)
    model, data = Twice().eval(), torch.randn(200, 5)
    cut = dfpc.prune(model, data[:1], "ratio=0.3", min_channels=1)
    result = dfpc.repair(cut.model, model, data[:1], "calibrate", images=data, removed=cut.removed)
    assert [layer.name for layer in result.layers].count("shared") == 1
    assert relative_error(result.model, model, data) <= relative_error(cut.model, model, data)


def test_mean_lets_the_norm_behind_expect_less_variance_where_nothing_can_be_measured():
    """By the share of the variance that kept inputs have, written out for one layer; one example is too little to measure by."""
    torch.manual_seed(0)
    data = torch.randn(512, 6)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )
    settled(model, data)
    removed = {"0": (0, 5, 9, 14)}
    cut = dfpc.replay(copy.deepcopy(model), data[:1], removed)
    mended = dfpc.repair(cut, model, data[:1], "mean", removed=removed).model
    keep = [i for i in range(16) if i not in removed["0"]]
    norm, nodes = model[1], torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    by_input = model[3].weight.square() * torch.relu(norm.bias + norm.weight * nodes).var(0)
    share = by_input[:, keep].sum(1) / by_input.sum(1)
    wanted = model[4].running_var * share.clamp_min(0).pow(1.5).clamp_min(0.1)
    torch.testing.assert_close(mended[4].running_var, wanted, rtol=2e-2, atol=0)


def left_out(kept, removed, ridge):
    """The mean square of what regressions on all other rows miss of each row, one row after another, over the mean square."""
    missed = 0.0
    for row in range(len(kept)):
        others = torch.arange(len(kept)) != row
        gram = kept[others].mT @ kept[others] + len(kept) * ridge * torch.eye(kept.shape[1]).double()
        slopes = torch.linalg.solve(gram, kept[others].mT @ removed[others])
        missed += float((removed[row] - kept[row] @ slopes).square().sum())
    return missed / float(removed.square().sum())


def hadamard(doublings):
    matrix = torch.ones(1, 1).double()
    for _ in range(doublings):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@pytest.mark.parametrize(("explained", "kept"), [(0.8, 6), (1.0, 3), (2.0, 6)])
def test_merge_trusts_a_regression_as_much_as_rows_that_were_left_out_tell(explained, kept):
    """Rows that all weigh alike: the ridge is 0.3 of the share that is missed, times the level of the kept channels."""
    columns = hadamard(6)[:, 1:]
    read, rest = columns[:, :kept], columns[:, kept : kept + 20]
    torch.manual_seed(0)
    removed = explained * read @ torch.rand(kept, 1).double() + rest @ torch.rand(20, 1).double() / 3
    x = torch.cat([read, removed], 1)
    model = nn.Sequential(nn.Linear(kept + 1, kept + 1, bias=False), nn.Linear(kept + 1, 2)).double().eval()
    model[0].weight.data = torch.eye(kept + 1).double()
    cut = dfpc.replay(copy.deepcopy(model), x, {"0": (kept,)})
    mended = dfpc.repair(cut, model, x, "merge", removed={"0": (kept,)}).model
    missed = left_out(read, removed, 1e-7)
    assert 0.1 < missed < 0.95
    slopes = (read.mT @ removed / len(x)) / (1 + 0.3 * missed)  # the kept channels are uncorrelated, their level is 1
    before = model[1].weight.detach()
    torch.testing.assert_close(
        mended[1].weight.detach(), before[:, :kept] + before[:, kept:] @ slopes.mT, rtol=1e-4, atol=1e-6
    )


class Overwriting(nn.Module):
    """A layer's output is used after something else has overwritten its input; or that has been done on a copy."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.stem, self.first, self.second = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.first(x)
        x = x.mul_(-3) if self.in_place else x * -3
        return self.head((y * self.second(x)).relu())


def test_a_layer_is_fitted_to_its_input_though_this_is_overwritten():
    torch.manual_seed(0)
    images, found = torch.randn(16, 3, 8, 8).double(), []
    plain = Overwriting(False).double().eval()
    gone = {"stem": (1, 4, 5, 9)}
    for in_place in (False, True):
        model = Overwriting(in_place).double().eval()
        model.load_state_dict(plain.state_dict())
        cut = dfpc.replay(copy.deepcopy(model), images[:1], gone)
        bare = relative_error(cut, model, images)
        mended = dfpc.repair(cut, model, images[:1], "calibrate", images=[images], removed=gone).model
        assert relative_error(mended, model, images) < 0.8 * bare
        found.append(mended.state_dict())
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-8, atol=1e-10, msg=name)
