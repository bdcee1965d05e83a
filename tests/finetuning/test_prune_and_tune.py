"""Cutting and tuning in turns: budgets, records, optimisers, and runs that are taken up."""

import copy
import dataclasses
import itertools
import json

import pytest
import timm
import torch
from test_finetune import StopHere, same_weights, stop_after, without_seconds
from torch.utils.flop_counter import FlopCounterMode

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.errors import RepairError
from dfpc_plugin.finetuning import (
    CheckpointError,
    FinetuneError,
    FinetuneSettings,
    ScheduleSettings,
    course,
    prune_and_tune,
)
from dfpc_plugin.finetuning.cuts import Goal, original_indices
from dfpc_plugin.finetuning.optimiser import OptimiserState
from dfpc_plugin.pruning import Figures, PruneSettings
from dfpc_plugin.selection import Target, TargetError
from digit_runs import INPUTS, SCHEDULE, digit_net, scheduled, train_digits, val_digits
from feature_widths import stated, widths_of

BRIEF = ScheduleSettings(
    share=0.2, step_sizes=(0.02,), tuning=FinetuneSettings(steps=1, batch_size=16, schedule="constant"), final=None
)


def macs(model):
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(INPUTS)
    return counter.get_total_flops() // 2


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def whole():
    """A run that nothing interrupts."""
    return scheduled()


def test_the_target_holds_and_the_last_cut_takes_no_more_than_it_needs(whole):
    full = macs(digit_net())
    assert macs(whole.model) == whole.pruning.after.macs == whole.iterations[-1].macs <= 0.6 * full
    assert whole.pruning.reached == {"macs": whole.pruning.after.macs / full}
    before = whole.iterations[-2].macs
    assert before > 0.6 * full
    # The costliest unit of this network is a channel of the second convolution: 9 x 12 x 16 there and 9 x 24 x 4 behind it.
    assert whole.pruning.after.macs > 0.6 * full - (9 * 12 * 16 + 9 * 24 * 4)


@pytest.mark.parametrize("target", ["params=0.6", "ratio=0.3", "macs=0.9, params=0.5"])
def test_other_budgets(target):
    result = prune_and_tune(digit_net(), INPUTS, target, train_digits(), settings=BRIEF)
    wanted = Target.parse(target)
    for name, value in result.pruning.reached.items():
        assert value >= wanted.ratio if name == "ratio" else value <= getattr(wanted, name)
    assert len(result.iterations) > 1
    assert result.evaluation is None
    assert (
        "ratio" not in target or sum(len(c.layers) * (c.before - c.after) for c in result.pruning.couplings) == 16
    )  # of 52


def test_every_cut_takes_the_share_of_what_is_left(whole):
    channels = [52] + [iteration.channels for iteration in whole.iterations]
    for before, after in itertools.pairwise(channels[:-1]):
        assert before - after == -(-before // 10)


def test_the_record_replays_on_the_given_model(whole):
    again = dfpc.replay(digit_net(), INPUTS, whole.pruning.removed)
    assert shapes(again) == shapes(whole.model)
    for coupling in whole.pruning.couplings:
        assert coupling.before - coupling.after == len(whole.pruning.removed.get(coupling.layers[0], ()))


def test_the_kept_channels_are_those_that_the_record_keeps():
    """Without tuning, weights tell which channels are left."""
    model = digit_net()
    settings = dataclasses.replace(SCHEDULE, step_sizes=(), final=None)
    result = prune_and_tune(model, INPUTS, "macs=0.5", train_digits(), settings=settings)
    assert len(result.iterations) > 3
    assert result.steps == 0
    assert same_weights(result.model, dfpc.replay(copy.deepcopy(model), INPUTS, result.pruning.removed))


def test_indices_of_cuts_add_up():
    """Against a list from which entries are taken."""
    generator = torch.Generator().manual_seed(0)
    left, gone = list(range(40)), {}
    for _ in range(8):
        taken = torch.randperm(len(left), generator=generator)[:3].sort().values.tolist()
        gone = original_indices(gone, {"conv": tuple(taken)})
        left = [name for place, name in enumerate(left) if place not in taken]
    assert sorted(gone["conv"]) == sorted(set(range(40)) - set(left))
    assert original_indices({"a": (1,)}, {"b": (0,)}) == {"a": (1,), "b": (0,)}


def test_the_optimiser_holds_exactly_the_parameters_of_the_cut_model(monkeypatch):
    held, real = [], course.build_optimiser

    def noting(model, settings):
        optimiser = real(model, settings)
        mine = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        held.append(({id(p) for p in mine} == {id(p) for p in model.parameters()}, len(optimiser.state), shapes(model)))
        return optimiser

    monkeypatch.setattr(course, "build_optimiser", noting)
    result = prune_and_tune(digit_net(), INPUTS, "macs=0.7", train_digits(), settings=BRIEF)
    assert len(held) == len(result.iterations)
    assert all(same and state == 0 for same, state, _ in held)
    sizes = [sum(torch.Size(shape).numel() for shape in found.values()) for *_, found in held]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_the_optimiser_remembers_is_cut_with_the_channels(optimizer):
    """Against indexing by hand: in a chain, a layer loses the outputs that the record names and the inputs of the one before."""
    model, settings = digit_net(norms=False), FinetuneSettings(optimizer=optimizer)
    optimiser = course.build_optimiser(model, settings)
    for _ in range(2):
        model(torch.randn(8, 1, 8, 8)).square().sum().backward()
        optimiser.step()
    memory = OptimiserState.of(optimiser, model)
    result = dfpc.prune(model, INPUTS, "macs=0.6")
    small = memory.after(lambda copied: dfpc.replay(copied, INPUTS, result.removed), model)
    removed = {name: set(indices) for name, indices in result.removed.items()}
    before = None
    for name in ("0", "2", "4", "8"):
        weight = dict(model.named_parameters())[f"{name}.weight"]
        rows = [row for row in range(weight.shape[0]) if row not in removed.get(name, ())]
        spread = 4 if name == "8" else 1  # each channel has four pixels there
        columns = [c for c in range(weight.shape[1]) if c // spread not in removed.get(before, ())]
        for kind, remembered in optimiser.state[weight].items():
            key = f"state/{name}.weight/{kind}"
            if remembered.dim():
                assert torch.equal(small.tensors[key], remembered[rows][:, columns])
                assert torch.equal(
                    small.tensors[key.replace("weight", "bias")], optimiser.state[model[int(name)].bias][kind][rows]
                )
        before = name
    fresh = course.build_optimiser(result.model, settings)
    small.give_to(fresh, result.model, groups=False)
    result.model(torch.randn(8, 1, 8, 8)).sum().backward()
    fresh.step()


def test_an_optimiser_of_other_shapes_starts_anew():
    model = digit_net(norms=False)
    odd = OptimiserState({"state/0.weight/row": torch.zeros(3)}, {"state": {"0.weight": {}}, "groups": {}})
    assert odd.after(lambda copied: copied, model) is None


def test_history_and_iterations_belong_together(whole):
    rows = [row for row in whole.history if not row.get("final")]
    for number, iteration in enumerate(whole.iterations, 1):
        mine = [row for row in rows if row["cuts"] == number]
        assert {(row["macs"], row["parameters"]) for row in mine} == {(iteration.macs, iteration.parameters)}
        assert {row["lr"] for row in mine} == {0.02, 0.002}
        assert iteration.top1 == mine[-1]["top1"]
    assert whole.steps == whole.history[-1]["step"] == 8 * len(whole.iterations) + 12
    assert json.loads(json.dumps(whole.to_json()))["result"]["steps"] == whole.steps
    assert "cuts" in str(whole)


@pytest.mark.parametrize("count", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupted_schedule_ends_in_the_same_weights(whole, tmp_path, count):
    """Interrupted in tuning or evaluation, then at once after it was taken up, and then not any more."""
    for progress in (stop_after(count, "tuning"), stop_after(3, "evaluating")):
        with pytest.raises(StopHere):
            scheduled(tmp_path, progress=progress)
    result = scheduled(tmp_path)
    assert same_weights(result.model, whole.model)
    assert result.pruning.removed == whole.pruning.removed
    assert result.iterations == whole.iterations
    assert without_seconds(result.history) == without_seconds(whole.history)


def test_a_schedule_that_is_another_one_is_refused(tmp_path):
    arguments = {"checkpoint": tmp_path, "resume": True}
    with pytest.raises(StopHere):
        prune_and_tune(
            digit_net(),
            INPUTS,
            "macs=0.6",
            train_digits(),
            settings=BRIEF,
            progress=stop_after(5, "tuning"),
            **arguments,
        )
    with pytest.raises(
        CheckpointError, match=r"was started with target='macs=0.6' and is resumed with target='macs=0.7'"
    ):
        prune_and_tune(digit_net(), INPUTS, "macs=0.7", train_digits(), settings=BRIEF, **arguments)
    other = dataclasses.replace(BRIEF, share=0.3)
    with pytest.raises(
        CheckpointError, match=r"was started with settings.share=0.2 and is resumed with settings.share=0.3"
    ):
        prune_and_tune(digit_net(), INPUTS, "macs=0.6", train_digits(), settings=other, **arguments)
    with pytest.raises(
        CheckpointError, match=r"was started with pruning.per=None and is resumed with pruning.per='macs'"
    ):
        prune_and_tune(
            digit_net(),
            INPUTS,
            "macs=0.6",
            train_digits(),
            settings=BRIEF,
            pruning=PruneSettings(per="macs"),
            **arguments,
        )


def test_what_may_be_lost_is_about_all_cuts_together():
    pruning = PruneSettings(max_ratio=0.4)
    settings = dataclasses.replace(BRIEF, share=0.1)
    result = prune_and_tune(digit_net(), INPUTS, "ratio=0.35", train_digits(), settings=settings, pruning=pruning)
    for coupling in result.pruning.couplings:
        assert coupling.after >= 0.6 * coupling.before - 0.1 * 52  # what one cut takes may come on top
    with pytest.raises(TargetError, match=r"The target ratio=0.6 cannot be reached"):
        prune_and_tune(digit_net(), INPUTS, "ratio=0.6", train_digits(), settings=settings, pruning=pruning)


def test_what_a_model_states_of_its_features_is_true_after_all_cuts():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    before = stated(model)
    pruning = CRITERIA["random"].build()
    result = prune_and_tune(model, INPUTS, "params=0.5", train_digits(), importance=pruning, settings=BRIEF)
    tuned = result.model.eval()
    assert len(result.iterations) > 1 and stated(model) == before
    assert tuned.num_features == tuned.head_hidden_size == tuned.fc.in_features < before[0]
    assert widths_of(tuned.forward_intermediates(INPUTS, intermediates_only=True)) == stated(tuned)[3]
    tuned.reset_classifier(7)
    assert tuned(INPUTS).shape == (1, 7)


def test_repair_after_every_cut():
    images = torch.stack([val_digits(40)[i][0] for i in range(40)])
    settings = dataclasses.replace(BRIEF, step_sizes=())
    arguments = {"settings": settings}
    bare = prune_and_tune(digit_net(), INPUTS, "macs=0.6", train_digits(), **arguments)
    mended = prune_and_tune(
        digit_net(), INPUTS, "macs=0.6", train_digits(), repair="calibrate", images=images, **arguments
    )
    assert macs(mended.model) <= 0.6 * macs(digit_net())
    with torch.no_grad():
        wanted = digit_net().eval()(images)
        errors = [(model(images) - wanted).square().mean().item() for model in (bare.model, mended.model)]
    assert errors[1] < errors[0]


def test_refusals():
    with pytest.raises(
        FinetuneError, match=r"goes step by step towards a target that is counted, and 'speedup=1.5' is measured"
    ):
        prune_and_tune(digit_net(), INPUTS, "speedup=1.5", train_digits(), settings=BRIEF)
    with pytest.raises(TargetError, match="cannot be reached"):
        prune_and_tune(digit_net(), INPUTS, "macs=0.001", train_digits(), settings=BRIEF)
    with pytest.raises(RepairError, match="images are for repair='calibrate'"):
        prune_and_tune(digit_net(), INPUTS, "macs=0.5", train_digits(), settings=BRIEF, images=torch.zeros(4, 1, 8, 8))


def test_the_way_and_what_is_left_of_it():
    goal = Goal(Target.parse("macs=0.5, params=0.25"), Figures(10, 1000, 100))
    now = Figures(8, 750, 50)
    assert goal.way(now) == pytest.approx(0.5)
    assert goal.left(now) == Target(macs=500 / 750, params=25 / 50)
    assert goal.left(Figures(8, 500, 50)) == Target(params=0.5)
    assert goal.left(Figures(8, 500, 25)) is None
    assert goal.way(Figures(8, 400, 20)) == 1.0
    assert Goal(Target.parse("ratio=0.3"), Figures(10, 1, 1)).left(Figures(8, 1, 1)).ratio == pytest.approx(1 / 8)
