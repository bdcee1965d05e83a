"""What batch norms are made to expect, against forwards in training mode, written out."""

import copy

import pytest
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.progress import Phases
from dfpc_plugin.repairing.batch_norms import MomentsSeen, moments_of, update_norms
from dfpc_plugin.repairing.data_free import fold_means
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.kept import kept_channels
from dfpc_plugin.repairing.noise import pink_noise
from repair_nets import relative_error, settled, small_resnet

REMOVED = {
    "first.conv1": (0, 5, 9, 14),
    "second.conv1": (2, 3, 4, 8, 11),
    "stem": (1,),
    "first.conv2": (1,),
    "second.conv2": (1,),
}


def norms(model):
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }


def in_training_mode(model, noise):
    """Mean and variance of what every batch norm is given while all of them normalise by their batch."""
    own, found = copy.deepcopy(model), {}
    for name, norm in norms(own).items():
        norm.train()
        norm.register_forward_pre_hook(lambda _, given, name=name: found.update({name: given[0].detach()}))
    with torch.no_grad():
        own(noise)
    return {name: (data.mean((0, 2, 3)), data.var((0, 2, 3), correction=0)) for name, data in found.items()}


def left(name):
    """Which channels of a batch norm of the small ResNet stay."""
    layer = {"norm": "stem", "first.bn1": "first.conv1", "second.bn1": "second.conv1"}.get(name, "stem")
    return [i for i in range(16 if "bn1" in name else 12) if i not in REMOVED[layer]]


@pytest.fixture
def cut():
    """A model, its images, what is left of it, and noise as a repair makes it."""
    model, images = small_resnet()
    noise = pink_noise((256, *images.shape[1:]), torch.Generator().manual_seed(0)).to(images)
    return model, images, dfpc.replay(copy.deepcopy(model), images[:1], REMOVED), noise


def test_merge_scales_variances_as_noise_tells(cut):
    model, images, pruned, noise = cut
    mended = dfpc.repair(pruned, model, images[:1], "merge", removed=REMOVED).model
    before, after = in_training_mode(model, noise), in_training_mode(mended, noise)
    shares = []
    for name, norm in norms(mended).items():
        shares.append(after[name][1] / before[name][1][left(name)])
        wanted = norms(model)[name].running_var[left(name)] * shares[-1]
        torch.testing.assert_close(norm.running_var, wanted, rtol=1e-4, atol=1e-7)
    assert max((share - 1).abs().max() for share in shares) > 0.05, "some norm sees much less"


def test_mean_averages_two_estimates_of_means_and_scales_variances(cut):
    model, images, pruned, noise = cut
    folded = copy.deepcopy(pruned)
    kept = kept_channels(folded, model, images[:1], None, REMOVED)
    job = RepairJob(folded, model, images[:1], dfpc.RepairSettings("mean"), kept, Phases(lambda *said: None))
    with torch.no_grad():
        fold_means(job)
    mended = dfpc.repair(pruned, model, images[:1], "mean", removed=REMOVED).model
    before, after = in_training_mode(model, noise), in_training_mode(folded, noise)
    for name, norm in norms(mended).items():
        rows, old = left(name), norms(model)[name]
        measured = old.running_mean[rows] + after[name][0] - before[name][0][rows]
        wanted = (norms(folded)[name].running_mean + measured) / 2
        torch.testing.assert_close(norm.running_mean, wanted, rtol=1e-4, atol=1e-5)
        wanted = old.running_var[rows] * after[name][1] / before[name][1][rows]
        torch.testing.assert_close(norm.running_var, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["mean", "merge"])
def test_noise_brings_the_output_closer(cut, method, monkeypatch):
    model, images, pruned, _ = cut
    mended = dfpc.repair(pruned, model, images[:1], method, removed=REMOVED).model
    monkeypatch.setattr("dfpc_plugin.repairing.methods.update_norms", lambda *args, **kwargs: None)
    without = dfpc.repair(pruned, model, images[:1], method, removed=REMOVED).model
    assert relative_error(mended, model, images) < relative_error(without, model, images)


def test_a_norm_that_is_called_twice_expects_the_average():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(self.norm(x)))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(8, 4, 5, 5)
    (found,) = moments_of(model, x, None).values()
    normalised = torch.nn.functional.batch_norm(x, None, None, training=True)
    second = model.conv(normalised).detach()
    torch.testing.assert_close(
        found.mean, ((x.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2).double(), atol=1e-6, rtol=1e-5
    )
    variances = [data.var((0, 2, 3), correction=0) for data in (x, second)]
    torch.testing.assert_close(found.variance, (sum(variances) / 2).double(), atol=1e-6, rtol=1e-5)


def test_looking_changes_nothing(cut):
    model, _, _, noise = cut
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments_of(model, noise, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_a_channel_that_never_varied_is_left_as_it_is(cut):
    model, images, pruned, noise = cut
    for own in (model, pruned):
        with torch.no_grad():
            own.first.conv1.weight[0 if own is pruned else 1] = 0  # the first that is left
    kept, before = kept_channels(pruned, model, images[:1], None, REMOVED), float(pruned.first.bn1.running_var[0])
    update_norms(pruned, model, moments_of(model, noise, None), moments_of(pruned, noise, None), kept, shift=0.5)
    assert pruned.first.bn1.running_var[0] == before
    assert pruned.first.bn1.running_var.isfinite().all()


def test_variances_are_not_taken_below_a_fiftieth(cut):
    model, images, pruned, noise = cut
    with torch.no_grad():
        pruned.first.conv1.weight *= 1e-3
    kept = kept_channels(pruned, model, images[:1], None, REMOVED)
    update_norms(pruned, model, moments_of(model, noise, None), moments_of(pruned, noise, None), kept, shift=0.0)
    wanted = 0.02 * model.first.bn1.running_var[left("first.bn1")]
    torch.testing.assert_close(pruned.first.bn1.running_var, wanted)


def test_too_few_numbers_tell_nothing():
    torch.manual_seed(0)
    model = settled(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), torch.randn(64, 6))
    with torch.no_grad(), MomentsSeen() as seen:
        model(torch.randn(31, 6))
    assert not seen.by_name(model)
    assert len(moments_of(model, torch.randn(32, 6), None)) == 1


class Clips(nn.Module):
    """Takes six images at a time, as models of video do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.conv(x)))).mean((2, 3)).view(-1, 6, 2).mean(1)


@pytest.mark.parametrize("method", ["mean", "merge"])
def test_a_model_that_takes_only_so_many_images_is_given_so_many(method):
    torch.manual_seed(0)
    model, x = Clips().eval(), torch.randn(6, 3, 9, 9)
    cut = dfpc.prune(model, x, "ratio=0.4").model
    result = dfpc.repair(cut, model, x, method)
    (note,) = (note for note in result.notes if "images of noise" in note)
    assert note.startswith(
        "Looked at 6 images of noise only, as the model does not take 256: shape '[-1, 6, 2]' is invalid"
    )
    for options in (
        {},
        {"importance": "magnitude", "evaluate": lambda other: sum(p.numel() for p in other.parameters()) / 100},
    ):
        target = "max_drop=1" if options else "ratio=0.4"
        repaired = dfpc.prune(model, x, target, repair=method, **options).repair
        assert note in repaired.notes, "also where the ranking, or an earlier repair, has run the noise"


class Nested(nn.Module):
    """Takes its images in a dict or a tuple."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images)


@pytest.mark.parametrize("wrap", [lambda x: {"images": x}, lambda x: (x,)], ids=["dict", "tuple"])
@pytest.mark.parametrize("method", ["mean", "merge"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_of_example_inputs_do_not_matter(cut, method, wrap, value):
    model, images, pruned, _ = cut
    removed = {f"inner.{name}": rows for name, rows in REMOVED.items()}
    wanted = dfpc.repair(pruned, model, images[:1], method, removed=REMOVED).model
    example = wrap(torch.full_like(images[:1], value))
    found = dfpc.repair(Nested(pruned), Nested(model), example, method, removed=removed).model
    for own, other in zip(found.inner.state_dict().values(), wanted.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other)


class Logarithm(nn.Module):
    """Has no output for noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.conv(torch.log(x))))).mean((2, 3))


def test_where_noise_has_no_finite_values_mean_leaves_norms_and_merge_says_so():
    torch.manual_seed(0)
    model, x = Logarithm().eval(), torch.rand(1, 3, 9, 9) + 0.1
    cut = dfpc.prune(model, x, "ratio=0.4").model
    mended = dfpc.repair(cut, model, x, "mean").model
    assert all(torch.isfinite(tensor).all() for tensor in mended.state_dict().values())
    with pytest.raises(
        dfpc.errors.RepairError, match=r"'conv' is given values .* give images of your own to calibrate"
    ):
        dfpc.repair(cut, model, x, "merge")


class OwnNorm(nn.Module):
    """A norm of one's own, with buffers of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("means", torch.zeros(width))
        self.register_buffer("variances", torch.ones(width))

    def forward(self, x):
        return nn.functional.batch_norm(x, self.means, self.variances, self.weight, self.bias)


@pytest.mark.parametrize("method", ["mean", "merge"])
def test_norms_of_ones_own_are_changed_in_place_too(method):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 12, 3),
        OwnNorm(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3),
        OwnNorm(12),
        nn.ReLU(),
        nn.Conv2d(12, 2, 1),
    )
    model, x = nn.Sequential(*layers).eval(), torch.randn(1, 3, 12, 12)
    data = pink_noise((64, 3, 12, 12), torch.Generator().manual_seed(1))
    for layer in model:  # as after training, or else there is nothing to expect
        if isinstance(layer, OwnNorm):
            layer.means.copy_(data.mean((0, 2, 3)))
            layer.variances.copy_(data.var((0, 2, 3)))
        data = layer(data).detach()
    importance = dfpc.DFPCImportance()
    result = dfpc.prune(model, x, "ratio=0.3", importance=importance)
    mended = dfpc.repair(result.model, model, x, method, removed=result.removed).model
    assert not torch.equal(mended[4].variances, result.model[4].variances)
    together = dfpc.prune(model, x, "ratio=0.3", importance=importance, repair=method).model
    dfpc.repair(result.model, model, x, method, removed=result.removed, inplace=True)
    for own, other, third in zip(*(m.state_dict().values() for m in (mended, together, result.model)), strict=True):
        torch.testing.assert_close(other, own)
        torch.testing.assert_close(third, own)


def test_variances_are_not_taken_above_tenfold(cut):
    model, images, pruned, noise = cut
    with torch.no_grad():
        pruned.first.conv1.weight *= 1e3
    kept = kept_channels(pruned, model, images[:1], None, REMOVED)
    update_norms(pruned, model, moments_of(model, noise, None), moments_of(pruned, noise, None), kept, shift=0.0)
    torch.testing.assert_close(pruned.first.bn1.running_var, 10 * model.first.bn1.running_var[left("first.bn1")])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_tell_the_same(cut, dtype):
    model, _, _, noise = cut
    wanted = moments_of(model, noise, None)
    found = moments_of(copy.deepcopy(model).to(dtype), noise.to(dtype), None)
    rough = {"rtol": 0.1, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    for name, own in found.items():
        torch.testing.assert_close(own.variance, wanted[name].variance, **rough)
