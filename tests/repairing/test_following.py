"""A forward that is followed: what settles, when, with what, and that new weights reach the rest of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from call_tools import changer, random, randomised, stepped
from torch import Tensor, nn

from brute_force import Between
from dfpc_plugin.errors import ForwardError, RepairError
from dfpc_plugin.repairing.follow import Follower, Settlement
from dfpc_plugin.repairing.lockstep import Pair, SteppedForward, settlements


def conv(inputs: int, outputs: int, **options: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Everything(nn.Module):
    """Batch norms, ReLU and sums in place, layer scales, permutations, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 6), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = conv(6, 4, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = conv(4, 6, bias=False), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.depthwise = conv(6, 6, groups=6)
        self.wide, self.narrow = nn.Linear(6, 9), nn.Linear(9, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.twice = conv(6, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x
        x = self.relu(y)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = (self.narrow(F.gelu(self.wide(y))) * self.scale).permute(0, 3, 1, 2)
        x = x + self.drop(y)
        x = x.add_(self.twice(x))
        x = self.twice(x) + x
        return self.head(x.mean((2, 3))) / 2


ORDER = ["stem", "conv1", "conv2", "depthwise", "wide", "narrow", "twice", "twice", "head"]
IMAGE = random(1, 2, 3, 5, 5)


def everything() -> Everything:
    return randomised(Everything())


def test_layers_settle_in_order_once_per_call() -> None:
    model = everything()
    names = []
    result = stepped(model, IMAGE, lambda settlement: names.append(settlement.call.name))
    assert names == ORDER
    with torch.no_grad():
        assert torch.equal(result, model(IMAGE))


def test_tails_and_summands() -> None:
    model = everything()
    found = {}

    def note(s: Settlement) -> None:
        assert torch.equal(s.through_tail(s.output), s.value) and len(s.tail) == len(s.values)
        found.setdefault(s.call.name, (len(s.tail), s.norm_mean, s.other is not None))

    stepped(model, IMAGE, note)
    assert found["stem"] == (1, model.norm.running_mean, False)
    assert found["conv1"] == (1, model.norm1.running_mean, False)
    assert found["conv2"] == (1, model.norm2.running_mean, True)
    assert found["depthwise"] == (1, None, False)
    assert found["narrow"] == (2, None, True)
    assert found["twice"] == (0, None, True) and found["head"] == (0, None, False)


@pytest.mark.parametrize("seed", range(3))
def test_the_rest_of_a_forward_uses_new_weights(seed: int) -> None:
    model = everything()
    del model.twice  # of which the first call would have seen other weights than the second
    model.twice = nn.Identity()
    before = model(IMAGE)
    result = stepped(model, IMAGE, changer(10 * seed))
    with torch.no_grad():
        torch.testing.assert_close(result, model(IMAGE), rtol=1e-12, atol=1e-12)
        assert (result - before).abs().max() > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_new_biases_and_norms_too(seed: int) -> None:
    model = everything()
    calls = []

    def change(s: Settlement) -> None:
        calls.append(s.call.name)
        if calls.count(s.call.name) == ORDER.count(s.call.name):
            if s.norm_mean is not None:
                s.norm_mean.add_(0.7 + seed)
            elif s.call.bias is not None and "twice" not in calls:
                s.call.bias.sub_(0.3)
            s.refresh()

    result = stepped(model, IMAGE, change)
    with torch.no_grad():
        torch.testing.assert_close(result, model(IMAGE), rtol=1e-12, atol=1e-12)


def run_once(run: Callable[[Any, Tensor], Any], inputs: Tensor, **modules: nn.Module) -> list[Settlement]:
    model = randomised(Between(run, **modules))
    log: list[Settlement] = []
    follower = Follower(model, log.append)
    with torch.no_grad():
        with follower:
            model(inputs)
        follower.settle()
    return log


METADATA = {
    "shape": lambda y: y.shape[1],
    "size": lambda y: y.size(0),
    "dim": lambda y: y.dim() + y.ndim + y.numel(),
    "dtype": lambda y: (y.dtype, y.device, y.is_floating_point(), y.is_contiguous()),
}


@pytest.mark.parametrize("name", METADATA)
def test_questions_about_shape_do_not_settle(name: str) -> None:
    log: list[str] = []

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            METADATA[name](y)
            log.append("asked")
            return y.exp()

    model = Asks().double()
    with torch.no_grad(), Follower(model, lambda settlement: log.append(settlement.call.name)):
        model(random(1, 2, 3))
    assert log == ["asked", "layer"]


def test_what_is_returned_settles_at_the_end() -> None:
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    result = stepped(model, random(1, 5, 3), changer())
    with torch.no_grad():
        torch.testing.assert_close(result, model(random(1, 5, 3)), rtol=1e-12, atol=1e-12)


def others(run: Callable[[Any, Tensor], Any], inputs: Tensor, **modules: nn.Module) -> dict[str, bool]:
    return {s.call.name: s.other is not None for s in run_once(run, inputs, **modules)}


def test_only_sums_of_one_shape_are_sums() -> None:
    x = random(1, 2, 5, 4)
    layers = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    embedding = random(2, 1, 5, 4)
    assert others(lambda m, x: x + m.a(x), x, **layers) == {"a": True}
    assert others(lambda m, x: torch.add(m.a(x), x), x, **layers) == {"a": True}
    assert others(lambda m, x: m.a(x).add_(x), x, **layers) == {"a": True}
    assert others(lambda m, x: m.a(x) + embedding, x, **layers) == {"a": False}
    assert others(lambda m, x: embedding + m.a(x), x, **layers) == {"a": False}
    assert others(lambda m, x: m.a(x) + 1, x, **layers) == {"a": False}
    assert others(lambda m, x: 1 + m.a(x), x, **layers) == {"a": False}
    assert others(lambda m, x: torch.add(x, m.a(x), alpha=2), x, **layers) == {"a": False}
    assert others(lambda m, x: m.a(x) - x, x, **layers) == {"a": False}
    assert others(lambda m, x: torch.cat([m.a(x), x], -1), x, **layers) == {"a": False}
    assert others(lambda m, x: (y := m.a(x)) + y, x, **layers) == {"a": False}
    assert others(lambda m, x: m.a(x).transpose(1, 2) + x.transpose(1, 2), x, **layers) == {"a": True}


def test_of_two_that_wait_one_makes_good_for_the_other() -> None:
    x = random(1, 2, 4)
    layers = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}

    def add(m: Any, x: Tensor) -> Tensor:
        first, second = m.bn(m.a(x)), m.b(x)
        return (first + second).exp()

    log = run_once(add, x, **layers)
    assert [s.call.name for s in log] == ["b", "a"]
    assert log[0].other is None and log[1].other is log[0].value


def test_the_summand_is_never_the_layer_itself() -> None:
    x = random(1, 2, 4)
    layers = {"a": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    (found,) = run_once(lambda m, x: (y := m.a(x)) + m.bn(y), x, **layers)
    assert found.other is None


Run = Callable[[Any, Tensor], Any]

NO_TAILS: list[Run] = [
    lambda m, x: F.relu(m.a(x)),
    lambda m, x: F.dropout(m.a(x), 0.5, True),
    lambda m, x: F.batch_norm(m.a(x), None, None, None, None, True),
    lambda m, x: m.a(x) * x,
    lambda m, x: m.a(x).mul_(2),
    lambda m, x: m.a(x)[:, :2],
    lambda m, x: F.softmax(m.a(x), -1),
    lambda m, x: m.a(x).chunk(2, -1)[0],
]

TAILS: list[Run] = [
    lambda m, x: m.a(x).permute(1, 0),
    lambda m, x: m.a(x).reshape(-1, 2),
    lambda m, x: torch.flatten(m.a(x)),
    lambda m, x: torch.transpose(m.a(x), 0, 1),
    lambda m, x: m.a(x) * 0.3,
    lambda m, x: m.a(x).mul(m.bn.weight),
    lambda m, x: m.a(x) * m.bn.weight[None],
    lambda m, x: m.bn(m.a(x)),
    lambda m, x: m.a(x).roll(1, 0),
    lambda m, x: m.a(x).unsqueeze(0),
]


@pytest.mark.parametrize("run", NO_TAILS)
def test_what_mixes_or_overwrites_is_no_tail(run: Run) -> None:
    (found,) = run_once(run, random(1, 3, 4), a=nn.Linear(4, 4))
    assert not found.tail and not found.values


@pytest.mark.parametrize("run", TAILS)
def test_what_scales_and_moves_is_a_tail(run: Run) -> None:
    (found,) = run_once(run, random(1, 3, 4), a=nn.Linear(4, 4), bn=nn.BatchNorm1d(4))
    assert len(found.tail) == len(found.values) == 1


@pytest.mark.parametrize("run", [run for number, run in enumerate((*NO_TAILS, *TAILS)) if number != 1])
def test_whatever_follows_uses_new_weights(run: Run) -> None:
    """But for dropout in training, which is another every time."""
    model = randomised(Between(lambda m, x: run(m, x).exp(), a=nn.Linear(4, 4), bn=nn.BatchNorm1d(4)))
    result = stepped(model, random(1, 3, 4), changer())
    with torch.no_grad():
        torch.testing.assert_close(result, model(random(1, 3, 4)), rtol=1e-12, atol=1e-12)


def test_only_a_norm_right_behind_a_layer_takes_up_its_constant() -> None:
    layers = {"a": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    (found,) = run_once(lambda m, x: m.bn(m.a(x)), random(1, 3, 4), **layers)
    assert found.norm_mean is not None
    (found,) = run_once(lambda m, x: m.bn(m.a(x) * 2), random(1, 3, 4), **layers)
    assert found.norm_mean is None and len(found.tail) == 2


@pytest.mark.parametrize("run", [lambda m, x: x + m.a(x), lambda m, x: m.a(x) + x, lambda m, x: m.a(x).add_(x)])
def test_the_other_summand_is_the_other_one(run: Run) -> None:
    x = random(1, 3, 4)
    (found,) = run_once(run, x, a=nn.Linear(4, 4))
    assert found.other is x


def test_a_scale_that_repeats_the_output_is_no_tail() -> None:
    """It would be summed over when the tail is inverted."""
    (found,) = run_once(lambda m, x: m.a(x) * random(3, 5, 1), random(1, 3, 1, 4), a=nn.Linear(4, 4))
    assert all(value.numel() == found.output.numel() for value in found.values)


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).exp()
        raise ValueError("not today")


def test_what_the_model_raises_is_raised_and_its_thread_ends() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ForwardError, match="not today"):
        list(settlements(Raises(), torch.ones(2, 3), None))
    assert set(threading.enumerate()) == before
    with pytest.raises(ForwardError):
        list(settlements(Raises(), {"y": torch.ones(2, 3)}, None))
    assert set(threading.enumerate()) == before


def test_closing_half_way_ends_the_thread() -> None:
    before = set(threading.enumerate())
    model = everything()
    for steps in range(len(ORDER) + 2):
        forward = SteppedForward(model, IMAGE, None)
        with closing(forward):
            for _ in range(steps):
                forward.advance()
        assert set(threading.enumerate()) == before
        forward.close()
    steps = settlements(model, IMAGE, None)
    next(steps)
    assert len(threading.enumerate()) == len(before) + 1
    steps.close()
    assert set(threading.enumerate()) == before


def test_a_forward_says_none_when_it_has_ended_and_forever_after() -> None:
    forward = SteppedForward(everything(), IMAGE, None)
    with closing(forward):
        assert [forward.advance() is None for _ in range(len(ORDER) + 3)] == [False] * len(ORDER) + [True] * 3


def test_a_forward_function_within_a_context() -> None:
    model = everything()
    seen = []

    class Within:
        def __enter__(self) -> None:
            seen.append("in")

        def __exit__(self, *_: Any) -> None:
            seen.append("out")

    def forward_fn(model: nn.Module, inputs: Any) -> Any:
        seen.append(torch.is_grad_enabled())
        return model(inputs["x"])

    names = [s.call.name for s in settlements(model, {"x": IMAGE}, forward_fn, Within)]
    assert names == ORDER and seen == ["in", False, "out"]


def test_a_pair_walks_both_models_in_step() -> None:
    first, second = everything(), randomised(Everything(), 1)
    results = []
    with closing(Pair(first, second, IMAGE, lambda model, inputs: results.append((model, model(inputs))))) as pair:
        names = []
        while pair.advance():
            assert pair.original.call.weight is not pair.pruned.call.weight
            names.append((pair.original.call.name, pair.pruned.call.name))
        assert names == [(name, name) for name in ORDER]
    with torch.no_grad():
        assert len(results) == 2 and all(torch.equal(result, model(IMAGE)) for model, result in results)


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        ((("a", "b"), ("a", "c")), "where the original runs 'b', the pruned one runs 'c'"),
        ((("a", "b"), ("a",)), "where the original runs 'b', the pruned one runs nothing more"),
        ((("a",), ("a", "c")), "where the original runs nothing more, the pruned one runs 'c'"),
    ],
)
def test_a_pair_of_different_models(kinds: tuple[tuple[str, ...], ...], text: str) -> None:
    before = set(threading.enumerate())
    models = []
    for names in kinds:
        model = nn.Sequential()
        for name in names:
            model.add_module(name, nn.Linear(3, 3))
        models.append(model.eval())
    with closing(Pair(*models, torch.ones(2, 3), None)) as pair, pytest.raises(RepairError) as caught:
        while pair.advance():
            pass
    assert text in str(caught.value) and str(caught.value).startswith("The models do not run the same layers")
    assert set(threading.enumerate()) == before
