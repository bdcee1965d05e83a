"""A record of what was removed, done again."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from budget_nets import SMALL, TIMM, make
from budget_tools import PIXELS, Fixed, everything, heads_first, network, same
from dfpc_plugin.errors import CutError
from dfpc_plugin.pruning import prune, replay
from dfpc_plugin.repairing import repair
from feature_widths import stated


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
def test_it_gives_the_same_model_bit_by_bit(name):
    model, inputs = make(name)
    result = prune(model, inputs, "ratio=0.3")
    removed = json.loads(json.dumps(result.to_json()))["removed"]
    assert removed
    again = replay(model, inputs, removed)
    assert again is model and torch.equal(again(inputs), result.model(inputs))
    assert same(again.state_dict(), result.model.state_dict())


@pytest.mark.parametrize("name", ["test_vit", "fused attention", "torch attention"])
def test_whole_heads_are_removed_again(name):
    model, inputs = make(name)
    result = prune(model, inputs, "macs=0.8", whole_heads=True, importance=heads_first)
    again = replay(model, inputs, result.removed)
    assert torch.equal(again(inputs), result.model(inputs))
    heads = [[m.num_heads for m in found.modules() if hasattr(m, "num_heads")] for found in (again, result.model)]
    assert heads[0] == heads[1] and 1 in heads[0]


@pytest.mark.parametrize("options", [{"rescore": 0.2}, {"round_to": 4}, {"per": "macs"}], ids=str)
def test_however_it_was_chosen(options):
    model, inputs = make("test_resnet")
    result = prune(model, inputs, "macs=0.6", **options)
    assert torch.equal(replay(model, inputs, result.removed)(inputs), result.model(inputs))


def test_weights_may_differ():
    result = prune(network(), PIXELS, "macs=0.5")
    other = network(seed=1)
    expected = copy.deepcopy(other)
    shapes = [p.shape for p in replay(other, PIXELS, result.removed).parameters()]
    assert shapes == [p.shape for p in result.model.parameters()]
    kept = [i for i in range(6) if i not in result.removed["stem"]]
    assert torch.equal(other.stem.weight, expected.stem.weight[kept])


def test_an_empty_record_changes_nothing():
    model = network()
    before = everything(model)
    assert replay(model, PIXELS, {}) is model and same(before, everything(model))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_what_a_model_states_of_its_features_is_cut_along(name):
    model, inputs = make(name)
    before = stated(model)
    result = prune(model, inputs, "macs=0.5", importance=Fixed())
    again = replay(model, inputs, result.removed)
    assert stated(again) == stated(result.model) and stated(again)[0] < before[0]
    again.reset_classifier(7)
    assert again(inputs).shape == (1, 7)


STREAM = ("stem", "blocks.0.conv2", "blocks.1.conv2")


@pytest.mark.parametrize(("removed", "message"), [
    ({"conv": [1]}, r"^The record cuts 'conv', which this model lacks or does not use; replay it on a copy\.$"),
    ({"blocks.0.bn1": [1]}, r"^The record cuts 'blocks\.0\.bn1', which this model lacks or does not use"),
    ({"stem": [0, 6]}, r"^The record cuts outputs of 'stem' that are not there; it has 6\.$"),
    ({"stem": [-1]}, r"^The record cuts outputs of 'stem' that are not there; it has 6\.$"),
    ({"stem": [1, 2]}, r"^The record does not name all that goes together: of 'blocks\.0\.conv2' 2 outputs would go, and "
                       r"it names 0; it is of another model\.$"),
    ({**{layer: [1, 2] for layer in STREAM}, "stem": [1]}, r"of 'stem' 2 outputs would go, and it names 1"),
    ({"blocks.0.conv1": [0, 1, 2, 3]}, "leave nothing of the coupling 'blocks.0.conv1'; keep a unit"),
    ({"head": [1]}, "cannot be pruned: it "),
    ("stem", "^The record is a str, not a dict of indices by layer; give what PruneResult.removed is.$"),
    (5, "^The record is a int, not a dict"),
    ({"stem": "12"}, "^The record has '12' for 'stem', which are no indices of outputs; give"),
    ({"stem": 1}, "^The record has '1' for 'stem', which are no indices"),
    ({"stem": [1.5]}, "^The record has '.1.5.' for 'stem', which are no indices"),
    ({"stem": [10**30]}, "^The record cuts outputs of 'stem' that are not there; it has 6"),
])  # fmt: skip
def test_a_record_of_another_model_is_refused_and_the_model_stays(removed, message):
    model = network()
    before = everything(model)
    with pytest.raises(CutError, match=message):
        replay(model, PIXELS, removed)
    assert same(before, everything(model))


def test_a_record_cannot_be_done_twice():
    model = network()
    removed = prune(model, PIXELS, "macs=0.3", importance=Fixed()).removed
    assert any(max(indices) >= 6 - len(indices) or len(indices) > 2 for indices in removed.values())
    replay(model, PIXELS, {layer: [5] for layer in STREAM})
    with pytest.raises(CutError, match=r"outputs of 'stem' that are not there; it has 5\."):
        replay(model, PIXELS, {layer: [5] for layer in STREAM})


class TiedAutoencoder(torch.nn.Module):
    """Weights that are used in both directions, so that both of their dimensions are outputs."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = torch.nn.Linear(6, 16), torch.nn.Linear(16, 4)
        self.encoder = torch.nn.Linear(16, 10)
        self.table = torch.nn.Parameter(torch.randn(12, 10))

    def forward(self, x):
        x = self.stem(x).relu()
        h = self.encoder(x).relu()
        h = F.linear(F.linear(h, self.table).relu(), self.table.t())
        return self.head(F.linear(h, self.encoder.weight.t()))


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_weights_used_in_both_directions(ratio):
    torch.manual_seed(0)
    model, x = TiedAutoencoder(), torch.rand(3, 6)
    result = prune(copy.deepcopy(model), x, f"ratio={ratio}", importance=Fixed())
    assert {"encoder", "encoder (dim 1)", "table"} <= set(result.removed)
    removed = json.loads(json.dumps(result.to_json()))["removed"]
    again = replay(copy.deepcopy(model), x, removed)
    assert torch.equal(again(x), result.model(x))
    repaired = repair(result.model, model, x, "merge", removed=removed).model
    assert torch.equal(repaired(x), repair(result.model, model, x, "merge").model(x))
    with pytest.raises(CutError, match=r"of 'encoder \(dim 1\)' \d+ outputs would go, and it names 0"):
        replay(model, x, {name: indices for name, indices in removed.items() if name != "encoder (dim 1)"})
