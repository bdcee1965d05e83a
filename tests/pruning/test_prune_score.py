"""Budgets of accuracy, with scores that are known functions of a model's widths."""

import math

import pytest
import torch

from budget_nets import make
from budget_tools import PIXELS, network, widths
from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.pruning import prune
from dfpc_plugin.pruning.find_length import length_for_score
from dfpc_plugin.selection import Target, TargetError


def channels(model):
    """Outputs of all layers, the head's included."""
    return sum(widths(model).values())


def units(result):
    return result.before.channels - result.after.channels


@pytest.mark.parametrize("drop", [0, 1, 3, 7.5, 20, 30])
def test_the_drop_is_never_exceeded_and_used_up(drop):
    model = network()
    result = prune(model, PIXELS, Target(max_drop=drop), evaluate=channels)
    assert (result.before.score, result.after.score) == (channels(model), channels(result.model))
    assert result.reached == {"max_drop": channels(model) - channels(result.model)}
    assert result.reached["max_drop"] <= drop
    longer = units(result) + 1
    most = 14 - 3 * 2
    if longer <= most:
        further = prune(model, PIXELS, Target(ratio=longer / 14))
        assert units(further) == longer and channels(model) - channels(further.model) > drop
    assert units(result) < 14 if drop < 30 else units(result) == most


def test_a_larger_drop_takes_no_less():
    model, inputs = make("test_resnet")
    taken = []
    for drop in (0, 5, 20, 100, 400, 1000):
        result = prune(model, inputs, Target(max_drop=drop), evaluate=channels)
        assert result.reached["max_drop"] <= drop
        taken.append(units(result))
    assert taken == sorted(taken) and taken[0] == 0 and taken[-1] > taken[2]


@pytest.mark.parametrize("most", [1, 2, 3, 50, 99, 100, 101, 999])
def test_the_longest_cut_is_found_to_a_hundredth_with_few_evaluations(most):
    for threshold in {0, 1, most // 3, most - 1, most}:
        asked = []

        def score_of(length, threshold=threshold, asked=asked):
            asked.append(length)
            return 50.0 - 10 * (length > threshold) - length / 1e6

        length, score = length_for_score(score_of, 50.0, 1.0, most)
        assert threshold - max(1, most // 100) < length <= threshold
        assert score == 50.0 - length / 1e6 and all(0 < length <= most for length in asked)
        assert len(asked) <= math.ceil(math.log2(most + 1)) + 1


def test_evaluate_sees_models_in_evaluation_mode_that_stay_as_they_are():
    model = network().train()
    seen = []

    def evaluate(candidate):
        assert not any(module.training for module in candidate.modules())
        with torch.no_grad():
            seen.append(candidate(PIXELS))
        return torch.tensor(1.0 - len(seen) / 64)  # what has a value is a number

    result = prune(model, PIXELS, "macs=0.5, max_drop=0.1", evaluate=evaluate)
    assert len(seen) == 2 and (result.before.score, result.after.score) == (1 - 1 / 64, 1 - 2 / 64)
    assert all(module.training for module in result.model.modules())
    assert torch.equal(seen[0], model.eval()(PIXELS)) and torch.equal(seen[1], result.model.eval()(PIXELS))


def test_a_score_is_reported_where_no_budget_is_about_it():
    result = prune(network(), PIXELS, "macs=0.5", evaluate=channels)
    assert (result.before.score, result.after.score) == (channels(network()), channels(result.model))
    assert "max_drop" not in result.reached


@pytest.mark.parametrize(
    "target", ["macs=0.8, max_drop=8", "params=0.8, ratio=0.1, max_drop=30", "ratio=0.3, max_drop=12"]
)
def test_other_budgets_are_reached_where_the_drop_allows_them(target):
    wanted = Target.parse(target)
    result = prune(network(), PIXELS, target, evaluate=channels)
    alone = prune(network(), PIXELS, Target(wanted.ratio, wanted.macs, wanted.params))
    assert result.removed == alone.removed, "what accuracy would allow beyond them is not taken"
    assert result.reached["max_drop"] == channels(network()) - channels(result.model) <= wanted.max_drop


def test_where_the_drop_does_not_allow_them_the_message_says_so():
    model = network()
    score = channels(prune(model, PIXELS, "macs=0.4").model)
    with pytest.raises(TargetError) as caught:
        prune(model, PIXELS, "macs=0.4, max_drop=1.5", evaluate=channels)
    assert str(caught.value) == (
        f"The target macs=0.4, max_drop=1.5 cannot be reached: the other budgets take evaluate from {channels(model)} to "
        f"{score}, a drop of {channels(model) - score}. Ask for less, allow a larger drop, or repair and fine-tune. The "
        f"model is as it was."
    )


@pytest.mark.parametrize("target", ["max_drop=1", "macs=0.5, max_drop=1"])
def test_a_score_that_does_not_depend_on_the_model_is_noticed(target):
    """Such as one that always measures the original: the same for the unpruned, the pruned and an empty model."""
    original = network()
    with pytest.warns(
        UserWarning, match=r"evaluate returned 10 for the unpruned .* score the model that it is called"
    ) as told:
        result = prune(original, PIXELS, target, evaluate=lambda model: 10 * len([original]))
    assert told[0].filename == __file__
    assert (result.before.score, result.after.score) == (10, 10)
    least = channels(original) - (14 - 3 * 2)

    def narrow_fails(model):
        if channels(model) <= least:
            raise ZeroDivisionError
        return 10.0

    assert prune(original, PIXELS, "max_drop=1, macs=0.9", evaluate=narrow_fails).after.score == 10
    prune(original, PIXELS, target, evaluate=lambda model: 10.0 * (channels(model) > least))  # a warning is an error


@pytest.mark.parametrize("target", ["max_drop=1", "macs=0.5, max_drop=1"])
def test_a_drop_of_nothing_that_is_measured_is_refused(target):
    message = r"^max_drop needs to know the accuracy; pass evaluate, a function from a model to a number\.$"
    with pytest.raises(TargetError, match=message):
        prune(network(), PIXELS, target)


@pytest.mark.parametrize("target", ["max_drop=1", "macs=0.5, max_drop=1", "macs=0.5"])
@pytest.mark.parametrize(("score", "message"), [
    (None, r"^evaluate returned None, which is no number; return a score, more is better\.$"),
    ("good", r"^evaluate returned 'good', which is no number"),
    ([1.0], r"^evaluate returned \[1\.0\], which is no number"),
    (math.nan, r"^evaluate returned NaN; return a score, more is better\.$"),
    (torch.tensor(math.nan), r"^evaluate returned NaN"),
])  # fmt: skip
def test_a_score_that_is_no_number_is_refused(target, score, message):
    with pytest.raises(TargetError, match=message):
        prune(network(), PIXELS, target, evaluate=lambda model: score)


def test_a_score_that_becomes_no_number_is_refused():
    with pytest.raises(TargetError, match="evaluate returned NaN"):
        prune(network(), PIXELS, "max_drop=1", evaluate=lambda m: 2.0 if len(m.stem.weight) == 6 else math.nan)


def test_with_scores_anew_the_drop_holds_too():
    result = prune(network(), PIXELS, "max_drop=8", evaluate=channels, rescore=0.2)
    assert 0 < channels(network()) - channels(result.model) <= 8


@pytest.mark.parametrize("drop", [1.0, 2.0])
def test_a_drop_that_allows_any_loss_is_refused(drop):
    """As with an accuracy between 0 and 1, and a drop in per cent."""
    with pytest.raises(
        TargetError, match=r"allows any loss, because evaluate returned 1 for .* in the unit of evaluate"
    ):
        prune(network(), PIXELS, Target(max_drop=drop), evaluate=lambda model: channels(model) / channels(network()))


def test_an_evaluation_counts_as_its_accuracy():
    result = prune(network(), PIXELS, "max_drop=5", evaluate=lambda model: Evaluation(channels(model), 100, 0, 10, 0))
    assert result.before.score == channels(network())
