"""Noise, the statistics that batch norms have stored, and images that are made from both."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from call_tools import random, randomised
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from dfpc_plugin.errors import RepairError
from dfpc_plugin.repairing.batch_norms import ImposedStatistics, NormInput, NormInputs, divergence
from dfpc_plugin.repairing.synthesis import pink_noise, synthesise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Noise


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 7, 12), (3, 33, 8), (4, 2, 5, 5)])
def test_noise_has_mean_zero_and_deviation_one(shape: tuple[int, ...]) -> None:
    noise = pink_noise(shape, generator())
    assert noise.shape == shape and noise.dtype == torch.float32
    torch.testing.assert_close(noise.mean((-2, -1)), torch.zeros(shape[:-2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(noise.std((-2, -1)), torch.ones(shape[:-2]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
def test_amplitudes_fall_as_a_power_of_frequency(power: float, shape: tuple[int, int]) -> None:
    noise = pink_noise((16, 3, *shape), generator(), power).double()
    amplitudes = torch.fft.fft2(noise).abs().square().mean((0, 1)).sqrt()
    down, across = (torch.fft.fftfreq(size, dtype=torch.float64) for size in shape)
    frequency = torch.hypot(down[:, None], across[None])
    chosen = (frequency > 1.5 / min(shape)) & (frequency < 0.5)
    x, y = frequency[chosen].log(), amplitudes[chosen].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert float(slope) == pytest.approx(-power, abs=0.05)


def test_noise_is_that_of_its_generator() -> None:
    state = torch.get_rng_state()
    first, second, third = (
        pink_noise((1, 2, 8, 8), generator()),
        *(pink_noise((1, 2, 8, 8), g) for g in [generator(1)] * 2),
    )
    assert torch.equal(first, pink_noise((1, 2, 8, 8), generator()))
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[:, 0], first[:, 1])


# Divergence


@pytest.mark.parametrize("shape", [(50, 4), (9, 4, 7), (5, 4, 3, 6), (4, 4, 2, 3, 3)])
def test_divergence_is_that_of_normal_distributions(shape: tuple[int, ...]) -> None:
    data = 2 * random(0, *shape) + 1
    mean, variance = random(1, 4), random(2, 4).square() + 0.1
    axes = [0, *range(2, len(shape))]
    theirs = Normal(mean, variance.sqrt())
    wanted = kl_divergence(Normal(data.mean(axes), data.std(axes)), theirs).mean()
    found = divergence(NormInput(data, mean, variance))
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)
    assert float(found) > 0


def test_divergence_is_zero_only_where_statistics_agree() -> None:
    data = random(0, 20, 3, 4, 4)
    variance, mean = torch.var_mean(data, (0, 2, 3))
    assert float(divergence(NormInput(data, mean, variance))) == pytest.approx(0, abs=1e-6)
    assert float(divergence(NormInput(data, mean + 0.05, variance))) > 1e-4
    assert float(divergence(NormInput(data, mean, variance * 1.1))) > 1e-4
    assert float(divergence(NormInput(data, mean, variance * 0.9))) > 1e-4
    dead = divergence(NormInput(torch.zeros_like(data), mean, variance))
    assert math.isfinite(float(dead)) and float(dead) > 1


# What reaches batch norms


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.deep, self.plain = nn.Conv2d(6, 5, 3, 2), nn.BatchNorm2d(5, affine=False, eps=1e-3)
        self.own = nn.BatchNorm2d(5, track_running_stats=False)
        self.head, self.last = nn.Linear(5, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.gelu(self.plain(self.deep(x)))
        return self.last(self.head(self.own(x).mean((2, 3))))


def normed() -> Normed:
    return randomised(Normed())


def seen(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and outputs of batch norms, by hooks."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: found.update({name: (i[0], o)}))
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_inputs_of_norms_with_statistics_are_found_in_order() -> None:
    model, x = normed(), random(0, 4, 3, 8, 8)
    hooked = seen(model, x)
    with torch.no_grad(), NormInputs() as norms:
        result = model(x)
    with torch.no_grad():
        assert torch.equal(result, model(x))
    assert len(norms.found) == 3
    for name, found in zip(("norm", "plain", "last"), norms.found, strict=True):
        module = model.get_submodule(name)
        assert torch.equal(found.data, hooked[name][0]) and torch.equal(found.mean, module.running_mean)
        assert torch.equal(found.variance, module.running_var + module.eps)
    model.train()
    with NormInputs() as norms:
        model(x)
    assert not norms.found


def test_imposed_statistics_are_the_stored_ones() -> None:
    model, x = normed(), random(0, 8, 3, 8, 8) * 3 + 1
    before = copy.deepcopy(model.state_dict())
    with ImposedStatistics():
        hooked = seen(model, x)
    for name in ("norm", "plain", "last"):
        module, (given, made) = model.get_submodule(name), hooked[name]
        axes = [0, *range(2, made.dim())]
        zero, one = torch.zeros(made.shape[1]).double(), torch.ones(made.shape[1]).double()
        bias, weight = (zero, one) if module.bias is None else (module.bias, module.weight)
        torch.testing.assert_close(made.mean(axes), bias.detach(), rtol=1e-9, atol=1e-9)
        variance = given.var(axes, correction=0)
        exact = weight.detach().square() * variance / (variance + module.eps)
        torch.testing.assert_close(made.var(axes, correction=0), exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        hooked["norm"][1].var((0, 2, 3), correction=0), model.norm.weight.detach().square(), rtol=1e-3, atol=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training and not model.norm.training


def test_one_value_per_channel_has_no_statistics_to_impose() -> None:
    model = randomised(nn.BatchNorm1d(4))
    with torch.no_grad(), ImposedStatistics():
        found = model(torch.ones(1, 4, dtype=torch.float64))
    with torch.no_grad():
        assert torch.equal(found, model(torch.ones(1, 4, dtype=torch.float64)))


# Images


class Trained(nn.Module):
    """A small convnet whose statistics are those of some data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def trained() -> Trained:
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Trained()
        data = 1 + 0.5 * F.interpolate(torch.randn(64, 3, 4, 4), scale_factor=4)
        for _ in range(30):
            model(data)
    return model.eval()


EXAMPLE = torch.zeros(1, 3, 16, 16)


def everything(model: nn.Module) -> list[Any]:
    state = [(name, value.clone()) for name, value in model.state_dict().items()]
    flags = [p.requires_grad for p in model.parameters()] + [m.training for m in model.modules()]
    return [state, flags, [id(p) for p in model.parameters()], [p.grad for p in model.parameters()]]


def assert_unchanged(model: nn.Module, before: list[Any], rng: Tensor) -> None:
    state, *rest = everything(model)
    assert rest == before[1:]
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(state, before[0], strict=True))
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("training", [False, True])
def test_images_match_and_nothing_else_changes(training: bool) -> None:
    model = trained().train(training)
    model.body[1].eval()
    model.head[1].weight.requires_grad_(False)
    before, rng = everything(model), torch.get_rng_state()
    told: list[float] = []
    found = synthesise(model, EXAMPLE, count=16, steps=25, progress=told.append)
    assert_unchanged(model, before, rng)
    assert found.divergence < 0.3 * found.before
    (batch,) = found.batches
    assert batch.shape == (16, 3, 16, 16) and not batch.requires_grad and batch.dtype == torch.float32
    assert told == sorted(told) and told[-1] == pytest.approx(1.0) and 0 < told[0] <= 1
    model.eval()
    with torch.no_grad(), NormInputs() as norms:
        model(batch)
    own = torch.stack([divergence(n) for n in norms.found]).mean()
    assert float(own) == pytest.approx(found.divergence, rel=1e-4)
    assert_unchanged(model.train(training) and model, everything(model), rng)


def test_images_are_the_same_by_seed() -> None:
    model = trained()
    first, again, other = (synthesise(model, EXAMPLE, count=16, steps=5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.batches[0], again.batches[0]) and first.divergence == again.divergence
    assert not torch.equal(first.batches[0], other.batches[0])


def test_more_steps_come_nearer_and_none_leave_the_noise() -> None:
    model = trained()
    none, few, many = (synthesise(model, EXAMPLE, count=16, steps=steps) for steps in (0, 3, 25))
    assert none.divergence == none.before == few.before == many.before
    torch.testing.assert_close(none.batches[0].std((2, 3)), torch.ones(16, 3), rtol=1e-4, atol=0)
    assert many.divergence < few.divergence < none.divergence


@pytest.mark.parametrize("steps", [1, 2])
def test_images_that_are_worse_than_the_noise_are_not_kept(steps: int) -> None:
    """Noise has little of what a norm behind differences of neighbours looks at, so that any change of it is too much."""
    model = nn.Sequential(nn.Conv2d(3, 1, 3, bias=False), nn.BatchNorm2d(1, momentum=1.0), nn.Conv2d(1, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, 1, -1], [1, 0, 1], [-1, 1, -1]]).expand(1, 3, 3, 3))
        (noise,) = synthesise(model.eval(), EXAMPLE, count=16, steps=0).batches
        model.train()(noise)
        model.eval()[1].running_var *= 1.4
    told: list[Tensor] = []

    def forward_fn(model: nn.Module, images: Tensor) -> None:
        told.append(images.detach().clone())
        model(images)

    found = synthesise(model, EXAMPLE, count=16, steps=steps, forward_fn=forward_fn)
    divergences = []
    for images in told:
        with torch.no_grad(), NormInputs() as norms:
            model(images)
        divergences.append(float(divergence(norms.found[0])))
    assert len(divergences) == steps + 1 and divergences[0] < divergences[-1]
    assert found.divergence == pytest.approx(min(divergences), rel=1e-4)
    assert torch.equal(found.batches[0], told[divergences.index(min(divergences))])


@pytest.mark.parametrize("count", [1, 5, 16, 40, 100])
def test_there_are_as_many_images_as_asked_for(count: int) -> None:
    found = synthesise(trained(), torch.zeros(1, 3, 128, 128), count=count, steps=0)
    assert sum(len(batch) for batch in found.batches) == count


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=lambda mode: mode.__name__)
def test_images_are_made_whatever_the_mode(mode: Any) -> None:
    with mode():
        found = synthesise(trained(), EXAMPLE, count=16, steps=2)
    assert found.divergence < found.before and not found.batches[0].is_inference()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_come_in_the_precision_asked_for(dtype: torch.dtype) -> None:
    found = synthesise(trained().to(dtype), EXAMPLE.to(dtype), count=16, steps=3)
    assert found.batches[0].dtype == dtype and found.divergence < found.before


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(2, 3), torch.zeros(1, 3, 8, 8, dtype=torch.long), (EXAMPLE,), {"x": EXAMPLE}, torch.zeros(3, 8, 8)],
    ids=["matrix", "integers", "tuple", "dict", "unbatched"],
)
def test_what_is_no_tensor_of_images_is_refused(inputs: Any) -> None:
    with pytest.raises(
        RepairError, match="Synthetic images are for models that take one tensor of images; repair with"
    ):
        synthesise(trained(), inputs)


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(2, 8), nn.BatchNorm2d(8, track_running_stats=False)])
def test_models_without_stored_statistics_are_refused_and_left_as_they_are(norm: nn.Module) -> None:
    model = trained()
    model.body[1], model.body[4] = norm, nn.Identity()
    before, rng = everything(model), torch.get_rng_state()
    with pytest.raises(RepairError, match="The model has no batch norm with stored statistics, from which images"):
        synthesise(model, EXAMPLE, count=16)
    assert_unchanged(model, before, rng)


def test_models_that_are_not_finite_are_refused() -> None:
    model = trained()
    model.body[0].weight.data[0] = torch.nan
    with pytest.raises(RepairError, match="What the model makes of noise is not finite"):
        synthesise(model, EXAMPLE, count=16)
