"""`prune` reaches what it is asked for, as PyTorch counts it, and says what it did."""

import copy
import gc
import json
import weakref

import pytest
import torch
from torch import nn

from budget_nets import SMALL, TIMM, counted, make
from budget_tools import PIXELS, Fixed, everything, network, same, widths
from dfpc_plugin.errors import DFPCError, NothingToPruneError, PrunerSettingError
from dfpc_plugin.pruning import PruneResult, prune
from dfpc_plugin.pruning.summary import NOT_REPAIRED
from dfpc_plugin.selection import Target, TargetError
from steady_machine import SteadyMachine

BUDGETS = ("macs=0.5", "params=0.5", "ratio=0.3", "macs=0.7, params=0.8, ratio=0.1")


def shares(result, model, inputs):
    """What is left of a model, counted by PyTorch."""
    before, after = counted(model, inputs), counted(result.model, inputs)
    assert (before.macs, before.parameters) == (result.before.macs, result.before.parameters)
    assert (after.macs, after.parameters) == (result.after.macs, result.after.parameters)
    return {"macs": after.macs / before.macs, "params": after.parameters / before.parameters}


def budget(target, name):
    return getattr(Target.parse(target), name)


@pytest.mark.parametrize("target", BUDGETS)
@pytest.mark.parametrize("name", TIMM)
def test_budgets_are_reached_and_hardly_exceeded(name, target):
    model, inputs = make(name)
    result = prune(model, inputs, target)
    left = shares(result, model, inputs)
    for kind, share in left.items():
        assert budget(target, kind) is None or share <= budget(target, kind)
    lost = 1 - result.after.channels / result.before.channels
    assert budget(target, "ratio") is None or lost >= budget(target, "ratio") - 1e-9
    surplus = [budget(target, kind) - share for kind, share in left.items() if budget(target, kind) is not None]
    surplus += [] if budget(target, "ratio") is None else [lost - budget(target, "ratio")]
    assert min(surplus) <= (0.03 if name == "test_efficientnet" else 0.01), "a channel of a narrow stream is 3 %"
    assert torch.isfinite(result.model(inputs)).all()


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
def test_a_unit_less_would_not_be_enough(name):
    model, inputs = make(name)
    importance = Fixed()
    result = prune(model, inputs, "macs=0.8", importance=importance)
    assert shares(result, model, inputs)["macs"] <= 0.8
    units, gone = result.before.channels, result.before.channels - result.after.channels
    if gone > 1:
        shorter = prune(model, inputs, Target(ratio=(gone - 1) / units), importance=importance)
        assert shorter.after.channels == result.after.channels + 1
        assert shares(shorter, model, inputs)["macs"] > 0.8


@pytest.mark.parametrize("per", ["channel", "macs", "params"])
def test_a_stricter_budget_takes_all_that_a_looser_one_does(per):
    model, inputs = make("test_resnet")
    previous = {}
    for share in (0.9, 0.7, 0.4, 0.2):
        result = prune(model, inputs, Target(macs=share), per=per)
        assert all(set(indices) <= set(result.removed[layer]) for layer, indices in previous.items())
        previous = result.removed


def test_by_cost_less_saliency_is_lost_for_the_same_budget():
    model, inputs = make("test_resnet")
    lost = {}
    for per, target in (
        ("channel", "macs=0.6"),
        ("macs", "macs=0.6"),
        ("channel", "params=0.6"),
        ("params", "params=0.6"),
    ):
        importance = Fixed()
        result = prune(model, inputs, target, per=per, importance=importance)
        own = (importance.scores[c.name].sort().values[: c.before - c.after].sum() for c in result.couplings)
        lost[per, target] = float(sum(own))
    assert lost["macs", "macs=0.6"] < lost["channel", "macs=0.6"]
    assert lost["params", "params=0.6"] < lost["channel", "params=0.6"]


@pytest.mark.parametrize("training", [False, True])
def test_the_model_given_is_left_as_it_is(training):
    model = network().train(training)
    model.blocks[0].bn1.train(not training)
    model.stem.weight.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    before, random = everything(model), torch.get_rng_state()
    result = prune(model, PIXELS, "macs=0.5")
    assert same(before, everything(model)) and torch.equal(random, torch.get_rng_state())
    assert result.model is not model and not set(map(id, model.modules())) & set(map(id, result.model.modules()))
    assert [m.training for m in result.model.modules()] == [m.training for m in model.modules()]


@pytest.mark.parametrize("training", [False, True])
def test_in_place_the_same_object_is_pruned_to_the_same_model(training):
    model = network().train(training)
    model(PIXELS.expand(2, -1, -1, -1)).square().sum().backward()
    other = prune(copy.deepcopy(model), PIXELS, "macs=0.5").model
    parameters, random = {name: id(p) for name, p in model.named_parameters()}, torch.get_rng_state()
    result = prune(model, PIXELS, "macs=0.5", inplace=True)
    assert result.model is model and {name: id(p) for name, p in model.named_parameters()} == parameters
    assert same(model.state_dict(), other.state_dict()) and model.training is training
    assert all(p.grad.shape == p.shape for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("target", "options", "error"), [
    ("macs=0.001", {}, TargetError),
    ("macs=0.5", {"ignored_layers": ["nowhere"]}, PrunerSettingError),
    ("macs=0.5", {"importance": lambda group: torch.full((len(group[0].idxs),), torch.nan)}, PrunerSettingError),
    ("macs=0.5", {"importance": lambda group: None}, NothingToPruneError),
    ("macs=0.5, max_drop=1", {"evaluate": lambda model: sum(p.numel() for p in model.parameters())}, TargetError),
    ("max_drop=1", {"evaluate": lambda model: 1 / 0}, ZeroDivisionError),
])  # fmt: skip
def test_what_fails_leaves_the_model_as_it_was(target, options, error, inplace):
    model = network().train()
    before, random = everything(model), torch.get_rng_state()
    with pytest.raises(error):
        prune(model, PIXELS, target, inplace=inplace, **options)
    assert same(before, everything(model)) and torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("phase", ["couplings", "saliency", "selection", "evaluating", "cut", "counting"])
def test_who_stops_it_half_way_has_the_model_as_it_was(phase):
    model = network()
    before, told = everything(model), []

    def stop(name, share):
        told.append((name, share))
        if name == phase and share == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(model, PIXELS, "macs=0.5", evaluate=lambda model: 1.0, inplace=True, progress=stop)
    assert told[-1] == (phase, 1) and same(before, everything(model))


def test_a_target_out_of_reach_says_how_far_one_gets():
    model = network()
    with pytest.raises(TargetError) as caught:
        prune(model, PIXELS, "macs=0.1", max_ratio=0.5)
    least = prune(model, PIXELS, Target(ratio=0.5), max_ratio=0.5)
    left = least.after.macs / least.before.macs
    assert str(caught.value) == (
        f"The target macs=0.1 cannot be reached: after removing everything that can be removed, {left:.1%} of the MACs and "
        f"{least.after.parameters / least.before.parameters:.1%} of the parameters are left, and 50.0% of the channels are "
        f"removed. Ask for less, or allow more with max_ratio, min_channels and ignored_layers. The model is as it was."
    )


def test_the_result_says_what_was_done():
    model = network()
    result = prune(model, PIXELS, "macs=0.5, params=0.9")
    assert isinstance(result, PruneResult) and result.target == Target(macs=0.5, params=0.9)
    assert result.reached == {
        "macs": result.after.macs / result.before.macs, "params": result.after.parameters / result.before.parameters
    }  # fmt: skip
    assert result.speedup is None and result.before.score is None and result.after.latency is None
    assert [c.name for c in result.couplings] == ["stem", "blocks.0.conv1", "blocks.1.conv1"]
    assert result.couplings[0].layers == ("stem", "blocks.0.conv2", "blocks.1.conv2")
    before, after = widths(model), widths(result.model)
    for coupling in result.couplings:
        assert {before[layer] for layer in coupling.layers} == {coupling.before}
        assert {after[layer] for layer in coupling.layers} == {coupling.after}
    assert sum(c.before for c in result.couplings) == result.before.channels == 14
    assert sum(c.after for c in result.couplings) == result.after.channels
    assert {n: before[n] - after[n] for n in before if before[n] > after[n]} == {
        n: len(i) for n, i in result.removed.items()
    }
    kept = [i for i in range(before["stem"]) if i not in result.removed["stem"]]
    assert torch.equal(model.stem.bias[kept], result.model.stem.bias)
    assert list(result.seconds) == ["couplings", "saliency", "selection", "cut", "counting"]
    assert all(seconds >= 0 for seconds in result.seconds.values())
    protected = "Protected couplings: 1, with 5 channels; find_couplings shows the reasons."
    repaired = f"{NOT_REPAIRED}, which costs accuracy. repair='merge' takes seconds and needs no data."
    assert result.notes == (protected, repaired)


def test_widths_that_may_be_slow_are_noted_unless_they_are_rounded_or_measured():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3)).eval()
    x = torch.randn(1, 3, 8, 8)
    notes = prune(model, x, "params=0.7").notes
    assert any(note.startswith("The widths of 1 layer are no longer multiples of 8, such as 2") for note in notes), (
        notes
    )
    for given in ({"round_to": 8}, {"latency": SteadyMachine()}):
        assert not any("no longer multiples" in note for note in prune(model, x, "params=0.7", **given).notes)


def test_a_target_that_is_far_passed_is_explained():
    """A group norm that keeps its groups loses a channel of each at once."""
    layers = nn.Conv2d(3, 32, 3), nn.GroupNorm(8, 32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 4, 3)
    model, x = nn.Sequential(*layers).eval(), torch.randn(1, 3, 12, 12)
    said = "More was removed than asked for, because '0' loses 8 channels at a time. To prune others instead, give it to ignored_layers."
    assert said in prune(model, x, "macs=0.95", ignored_layers="3").notes
    assert said not in prune(model, x, "ratio=0.25", ignored_layers="3").notes
    rounded = prune(model, x, "macs=0.95", ignored_layers="0", round_to=16)
    assert said.replace("'0' loses 8", "'3' loses 16") in rounded.notes


def test_notes_on_attention_count_the_channels_of_layers():
    """A unit of a stream holds a channel of every head of every projection; a layer loses as many as there are heads."""
    model = nn.Sequential(
        nn.Linear(6, 32), nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 2)
    ).eval()
    (note,) = (own for own in prune(model, torch.randn(2, 5, 6), "macs=0.97", ignored_layers=["1.linear1"]).notes
               if own.startswith("More was removed"))  # fmt: skip
    assert note.startswith("More was removed than asked for, because '0' loses 4 channels at a time.")
    slow = [own for own in prune(model, torch.randn(2, 5, 6), "macs=0.6").notes if "no longer multiples" in own]
    widths = {own.outputs_after for own in prune(model, torch.randn(2, 5, 6), "macs=0.6").layers()}
    assert not slow or any(f"such as {width} channels" in slow[0] for width in widths)


def test_the_result_is_a_table_and_plain_data():
    result = prune(network(), PIXELS, "ratio=0.3", evaluate=lambda model: len(model.stem.weight))
    data = json.loads(json.dumps(result.to_json()))
    assert data == result.to_json() and "model" not in data
    assert data["target"] == {"ratio": 0.3} and data["reached"] == dict(result.reached)
    assert (data["before"]["macs"], data["after"]["score"]) == (result.before.macs, result.after.score)
    assert data["removed"] == {layer: list(indices) for layer, indices in result.removed.items()}
    assert data["couplings"][0] == {
        "name": "stem", "layers": ["stem", "blocks.0.conv2", "blocks.1.conv2"], "before": 6,
        "after": result.couplings[0].after, "scores": list(result.couplings[0].scores),
        "gone": list(result.couplings[0].gone),
    }  # fmt: skip
    text = str(result)
    for shown in ("ratio=0.3", f"{result.before.macs:,}", f"{result.after.parameters:,}", "score", "blocks.1.conv1",
                  "of 3 couplings lost channels", "Took ", "Protected couplings: 1"):  # fmt: skip
        assert shown in text
    assert "latency" not in text and "speed-up" not in text


def test_progress_is_told_of_every_phase_to_its_end():
    told = []
    result = prune(network(), PIXELS, "macs=0.5", progress=lambda name, share: told.append((name, share)), rescore=0.2)
    assert list(dict.fromkeys(name for name, _ in told)) == list(result.seconds)
    for phase in result.seconds:
        own = [share for name, share in told if name == phase]
        assert own == sorted(own) and own[0] == 0 and own[-1] == 1
    assert len([1 for name, _ in told if name == "selection"]) > 3


def test_a_forward_of_ones_own_is_followed():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, *, image, scale):
            return self.net(image) * scale

    def run(model, x):
        return model(image=x, scale=2)

    result = prune(Named(), PIXELS, "macs=0.5", forward_fn=run)
    assert result.reached["macs"] <= 0.5 and run(result.model, PIXELS).shape == (1, 5)


def test_nothing_is_kept_of_a_model_that_was_pruned():
    model = network()
    result = prune(model, PIXELS, "macs=0.5")
    gone = [weakref.ref(model), weakref.ref(result.model)]
    del model, result
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@pytest.mark.parametrize(("options", "message"), [
    ({"per": "flops"}, r"^per must be one of 'channel', 'macs', 'params', 'latency', 'target', not 'flops'\.$"),
    ({"rescore": 0}, r"^rescore must be above 0 and at most 1, not 0; give 0\.01, say\.$"),
    ({"rescore": 1.5}, r"^rescore must be above 0 and at most 1, not 1\.5"),
    ({"max_ratio": 1.1}, r"^max_ratio must be 0 to 1, not 1\.1\.$"),
    ({"max_ratio": -0.1}, r"^max_ratio must be 0 to 1, not -0\.1"),
    ({"min_channels": 0}, r"^min_channels must be 1 or more, not 0\.$"),
    ({"round_to": 0}, r"^round_to must be 1 or more, not 0\.$"),
])  # fmt: skip
def test_settings_that_cannot_be_followed_are_refused(options, message):
    with pytest.raises(PrunerSettingError, match=message):
        prune(network(), PIXELS, "macs=0.5", **options)


def test_a_target_that_counts_nothing_divides_nothing():
    said = r"^per='target' needs a target that counts something, not max_drop=2; give per='macs'\.$"
    with pytest.raises(PrunerSettingError, match=said):
        prune(network(), PIXELS, "max_drop=2", per="target", evaluate=lambda model: 1.0)


def test_a_target_that_makes_no_sense_is_refused_first():
    with pytest.raises(TargetError, match="did you mean macs"):
        prune(None, None, "mcas=0.5")


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.ReLU())])
def test_a_model_without_anything_to_prune_says_so(model):
    with pytest.raises(NothingToPruneError, match="No coupling of this model can be pruned: all are protected"):
        prune(model, torch.rand(1, 4), "macs=0.5")
    assert issubclass(NothingToPruneError, DFPCError)


def test_the_result_tells_scores_and_what_stays():
    model, inputs = make("test_resnet")
    result = prune(model, inputs, "ratio=0.3")
    for coupling in result.couplings:
        assert len(coupling.scores) == coupling.before and len(coupling.gone) == coupling.before - coupling.after
        kept = [score for unit, score in enumerate(coupling.scores) if unit not in coupling.gone]
        assert not coupling.gone or max(coupling.scores[unit] for unit in coupling.gone) <= min(kept)
    assert [entry.reason for entry in result.protected] and all(entry.layers for entry in result.protected)
    assert all(not coupling.scores for coupling in prune(model, inputs, "ratio=0.3", rescore=0.1).couplings)
