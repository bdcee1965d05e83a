"""Operators of users: registered once, they are scored and pruned through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.errors import DuplicateRuleError, RuleError, UnsupportedOperatorError
from dfpc_plugin.tracing.operator import find_operator
from zero_cut import error_of_cut, random_units, randomise

RANKINGS = ("published", "relative", "expected", "output")
IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Kernel(torch.autograd.Function):
    """What a kernel looks like from Python: nothing inside it can be seen."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *args: Any) -> Tensor:
        return function(*args)


def kernel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that hands itself over, as torch's own do, and is opaque otherwise."""

    def call(*args: Any) -> Tensor:
        if has_torch_function(args):
            return handle_torch_function(call, args, *args)
        return Kernel.apply(function, *args)

    call.__name__ = call.__qualname__ = function.__name__
    return call


def hard_clip(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


def snake(x: Tensor) -> Tensor:
    return x + x.sin() ** 2


def scaled_linear(input: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return F.linear(input, weight * scale[:, None])


def blend(x: Tensor, y: Tensor) -> Tensor:
    return x + y / 2


def turned(x: Tensor) -> Tensor:
    return x.flip(1)


CLIP, SNAKE, SCALED, BLEND, TURNED = (kernel(f) for f in (hard_clip, snake, scaled_linear, blend, turned))


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    """Registrations end with their test."""
    with dfpc.rule_scope():
        yield


class Block(nn.Module):
    """A residual block around an activation."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.narrow, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = x + self.act(self.inner_norm(self.inner(x)))
        return self.head(self.narrow(x).relu().mean((2, 3)))


class Activation(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Chain(nn.Sequential):
    """An activation between two linear layers."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.Linear(5, 6), Activation(act), nn.Linear(6, 2))


class Scaled(nn.Module):
    """A linear layer with a scale per output."""

    def __init__(self, inputs: int, outputs: int, product: Callable[..., Tensor]) -> None:
        super().__init__()
        self.product = product
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.scale = nn.Parameter(torch.rand(outputs) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.scale)


class Perceptron(nn.Module):
    """Two scaled layers."""

    def __init__(self, product: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.norm = Scaled(5, 8, product), nn.BatchNorm1d(8)
        self.middle, self.last = Scaled(8, 6, product), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.norm(self.first(x)).relu()).relu())


class Pair(nn.Module):
    """Two branches that meet."""

    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.meet = meet
        self.one, self.other, self.last = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.meet(self.one(x), self.other(x)))


def built(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    """The same weights for every way to write a model."""
    torch.manual_seed(0)
    return randomise(make(*args)).double().eval()


def scores(model: nn.Module, x: Tensor, ranking: Any) -> dict[str, Tensor]:
    return dict(dfpc.bgsc(model, x, ranking=ranking))


def assert_same_scores(one: nn.Module, other: nn.Module, x: Tensor, rtol: float = 1e-6) -> None:
    """Under every ranking."""
    for ranking in RANKINGS:
        found, wanted = scores(one, x, ranking), scores(other, x, ranking)
        assert list(found) == list(wanted)
        for name, own in wanted.items():
            assert own.max() > 0
            torch.testing.assert_close(found[name], own, rtol=rtol, atol=1e-9, msg=f"{ranking} scores of {name}")


def free(model: nn.Module, x: Tensor) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """Couplings that may be pruned: producers, consumers, channels."""
    return [(c.feed_in, c.feed_out, c.channels) for c in dfpc.find_couplings(model, x) if c.protected is None]


def assert_cut_is_exact(model: nn.Module, x: Tensor, count: int) -> None:
    """Cutting channels of every one of `count` couplings does what zeros do."""
    found = map_couplings(model, x)
    units = random_units(found, least=2)
    assert len(units) == count
    assert error_of_cut(model, found, x, units) < 1e-12


def test_an_activation_registered_once_is_scored_like_one_that_is_known() -> None:
    dfpc.rule(CLIP, convention="bound", kind="pointwise")(lambda x: x)
    assert_same_scores(built(Block, CLIP), built(Block, F.hardtanh), IMAGE)


def test_the_rule_of_an_activation_is_what_bounds_are_multiplied_by() -> None:
    dfpc.rule(SNAKE, convention="bound", kind="pointwise")(lambda x: 2 * x)
    model = built(Chain, SNAKE)
    wanted = 2 * model[0].weight.abs().sum(1) * model[2].weight.abs().sum(0) * len(ROWS)
    torch.testing.assert_close(scores(model, ROWS, "published")["0"], wanted.detach())
    torch.testing.assert_close(scores(model, ROWS, "relative")["0"], (wanted / wanted.mean()).detach())
    assert_same_scores(built(Block, SNAKE), built(Block, snake), IMAGE)


@pytest.mark.parametrize("act", [CLIP, SNAKE], ids=["clip", "snake"])
def test_an_activation_registered_once_is_pruned_through(act: Callable[[Tensor], Tensor]) -> None:
    dfpc.rule(act, kind="pointwise")(lambda x: 2 * x)
    model = built(Block, act)
    assert free(model, IMAGE) == [(("stem", "inner"), ("inner", "narrow"), 8), (("narrow",), ("head",), 6)]
    assert_cut_is_exact(model, IMAGE, 2)
    pruned = dfpc.prune(built(Block, act), IMAGE, "macs=0.5").model
    assert pruned.inner.in_channels == pruned.inner.out_channels < 8
    assert pruned(IMAGE).shape == (2, 4)


def test_a_composed_layer_is_scored_like_the_one_that_is_written_out() -> None:
    dfpc.composed(SCALED)(scaled_linear)
    assert_same_scores(built(Perceptron, SCALED), built(Perceptron, scaled_linear), ROWS)
    assert list(scores(built(Perceptron, SCALED), ROWS, "published")) == ["first", "middle"]


def test_a_composed_layer_is_pruned() -> None:
    dfpc.composed(SCALED)(scaled_linear)
    model = built(Perceptron, SCALED)
    assert free(model, ROWS) == free(built(Perceptron, scaled_linear), ROWS)
    assert [channels for *_, channels in free(model, ROWS)] == [8, 6]
    pruned = dfpc.prune(model, ROWS, "ratio=0.5").model
    assert pruned.first.scale.shape == (4,) and pruned.middle.weight.shape == (3, 4)
    assert_cut_is_exact(model, ROWS, 2)


def test_a_composed_activation_needs_no_slope() -> None:
    dfpc.composed(SNAKE)(snake)
    assert_same_scores(built(Block, SNAKE), built(Block, snake), IMAGE)
    assert_cut_is_exact(built(Block, SNAKE), IMAGE, 2)


def test_composed_operators_may_be_made_of_registered_ones() -> None:
    dfpc.rule(CLIP, kind="pointwise")(lambda x: x)
    outer = kernel(lambda x: CLIP(x) * 2)
    dfpc.composed(outer)(lambda x: CLIP(x) * 2)
    assert_same_scores(built(Block, outer), built(Block, lambda x: F.hardtanh(x) * 2), IMAGE)
    assert_cut_is_exact(built(Block, outer), IMAGE, 2)


def test_operands_that_are_combined_are_one_coupling() -> None:
    dfpc.rule(BLEND, convention="exact", kind="combines", additive=True)(blend)
    model = built(Pair, BLEND)
    for ranking in ("published", "relative"):
        found, wanted = scores(model, ROWS, ranking), scores(built(Pair, blend), ROWS, ranking)
        torch.testing.assert_close(found, wanted)
    assert free(model, ROWS) == [(("one", "other"), ("last",), 6)]
    assert_cut_is_exact(model, ROWS, 1)


def test_entries_that_move_take_their_channels_along() -> None:
    dfpc.rule(TURNED, convention="exact", kind="moves")(turned)
    model = built(Chain, TURNED)
    assert_same_scores(model, built(Chain, turned), ROWS)
    (coupling,) = [c for c in dfpc.find_couplings(model, ROWS) if c.protected is None]
    columns = next(piece for piece in coupling.slices if piece.tensor == "2.weight")
    assert columns.indices.flatten().tolist() == [5, 4, 3, 2, 1, 0]
    assert_cut_is_exact(model, ROWS, 1)


def test_a_rule_without_a_kind_protects_channels_and_says_why() -> None:
    dfpc.rule(CLIP, convention="bound")(lambda x: x)
    model = built(Block, CLIP)
    assert set(scores(model, IMAGE, "published")) == {"stem", "inner", "narrow"}
    stem = next(c for c in dfpc.find_couplings(model, IMAGE) if c.feed_in == ("stem",))
    assert stem.protected is not None and "hard_clip" in stem.protected
    assert free(model, IMAGE) == [(("narrow",), ("head",), 6)]


def test_without_registration_the_operator_is_named() -> None:
    model = built(Block, CLIP)
    (missing,) = dfpc.missing_operators(model, IMAGE)
    assert missing.function.endswith("hard_clip")
    for ask in (dfpc.bgsc, dfpc.find_couplings):
        with pytest.raises(UnsupportedOperatorError, match="hard_clip, called by the model itself"):
            ask(model, IMAGE)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^rule\(\) knows the kinds pointwise, combines, moves, not 'elementwise'$"):
        dfpc.rule(CLIP, kind="elementwise")
    assert find_operator(CLIP) is None


def test_composed_takes_operators_not_names() -> None:
    with pytest.raises(TypeError, match="takes the operators themselves, not 'clip'"):
        dfpc.composed("clip")(hard_clip)  # type: ignore[arg-type]


def test_registrations_end_with_their_scope() -> None:
    relu = find_operator(F.relu)
    with dfpc.rule_scope():
        dfpc.rule(CLIP, kind="pointwise")(lambda x: x)
        dfpc.composed(SCALED)(scaled_linear)
        dfpc.composed(F.relu)(lambda input, inplace=False: input.clamp_min(0))
        record = dfpc.registered_rules()[SCALED]
        assert (record.kind, record.bound, record.channels) == ("composed", scaled_linear, None)
        assert dfpc.registered_rules()[CLIP].kind == "pointwise" and find_operator(F.relu) is not relu
        assert not dfpc.missing_operators(built(Block, CLIP), IMAGE)
    assert find_operator(CLIP) is None and find_operator(SCALED) is None and find_operator(F.relu) is relu
    assert [entry.function for entry in dfpc.missing_operators(built(Block, CLIP), IMAGE)]


def test_a_second_registration_for_the_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dfpc_plugin.tracing import operator

    monkeypatch.setattr(operator, "_PROCESS", dict(operator._PROCESS))
    token = operator._SCOPES.set(())
    try:
        dfpc.composed(CLIP)(hard_clip)
        with pytest.raises(DuplicateRuleError, match="hard_clip already has a data-flow rule"):
            dfpc.rule(CLIP, kind="pointwise")(lambda x: x)
        dfpc.rule(CLIP, kind="pointwise", override=True)(lambda x: x)
        assert dfpc.registered_rules()[CLIP].kind == "pointwise"
    finally:
        operator._SCOPES.reset(token)


def test_a_rule_without_a_kind_keeps_what_is_known_of_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    image = torch.rand(1, 3, 6, 6)
    with dfpc.rule_scope():
        dfpc.rule(torch.nn.functional.relu)(lambda input, inplace=False: input * 0.5)
        assert next(c for c in dfpc.find_couplings(model, image) if c.name == "0").protected is None


def test_a_composed_operator_that_calls_itself_is_refused_in_words() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    with dfpc.rule_scope():
        dfpc.composed(torch.nn.functional.relu)(lambda input, inplace=False: torch.nn.functional.relu(input) * 1)
        with pytest.raises(RuleError, match="that it is composed of calls the operator itself"):
            dfpc.bgsc(model, torch.rand(1, 3))
