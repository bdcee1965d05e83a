"""Where Torch-Pruning surprises: each trap is shown to be there, and that nobody falls into it here."""

import copy
import gc
import itertools
import json
import weakref
from collections import OrderedDict

import pytest
import torch
import torch_pruning as tp
from torch import nn

from budget_tools import Table, widths
from dfpc_plugin import DataFlowGraph, DFPCPruner
from dfpc_plugin.pruning import prune, replay

IMAGE = torch.rand(1, 3, 6, 6)
LOW = [0.01 * n for n in range(1, 9)]
HIGH = [1.0 + n for n in range(8)]
MIDDLE = [1.5 + n for n in range(8)]
SCORES = {"a": LOW, "b": HIGH, "c": MIDDLE}
"""Every score of one layer is below every score of the others."""


def chain(*wide, **options):
    """Convolutions a, b, c, ... and a head that reads the last."""
    torch.manual_seed(0)
    layers, into = OrderedDict(), 3
    for name, width in zip("abcdef", wide, strict=False):
        layers[name] = nn.Conv2d(into, width, 1, **(options if into != 3 else {}))
        into = width
    layers["head"] = nn.Conv2d(into, 2, 1)
    return nn.Sequential(layers).eval()


def fresh():
    """Dictionaries of one's own in place of those that all of Torch-Pruning's pruners share."""
    return {name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")}


def theirs(model, importance, **options):
    """What plain Torch-Pruning leaves of a model, pruned globally: its widths."""
    options = {"global_pruning": True, **options}
    tp.pruner.BasePruner(model, IMAGE, importance, ignored_layers=[model.head], **fresh(), **options).step()
    return widths(model)


def ours(model, importance, pruning_ratio, **options):
    """What both of our doors leave of it; they agree."""
    renamed = {"max_ratio": 1.0, **options}
    result = prune(model, IMAGE, f"ratio={pruning_ratio}", importance=importance, **renamed)
    pruner = DFPCPruner(model, IMAGE, importance, True, pruning_ratio, **options)
    pruner.step()
    assert widths(model) == widths(result.model)
    return widths(model)


def parameters(left):
    """How many parameters a chain of these widths has."""
    sizes = [3, *left.values()]
    return sum(into * out + out for into, out in itertools.pairwise(sizes))


RATIOS = (0.1, 0.25, 0.34, 0.5, 0.65)


def test_a_higher_ratio_never_gives_a_larger_model():
    there = [parameters(theirs(chain(8, 8, 8), Table(SCORES), pruning_ratio=ratio)) for ratio in RATIOS]
    here = [parameters(ours(chain(8, 8, 8), Table(SCORES), ratio)) for ratio in RATIOS]
    assert there[2] > there[1], "a layer that falls under the threshold as a whole is skipped"
    assert here == sorted(here, reverse=True) and len(set(here)) == len(RATIOS)


def test_a_budget_never_gives_a_larger_model_than_a_looser_one():
    shares = (0.9, 0.7, 0.5, 0.3, 0.15)
    sizes = [
        prune(chain(8, 8, 8), IMAGE, f"params={share}", importance=Table(SCORES)).after.parameters for share in shares
    ]
    full = sum(p.numel() for p in chain(8, 8, 8).parameters())
    assert sizes == sorted(sizes, reverse=True) and all(n <= s * full for n, s in zip(sizes, shares, strict=True))


def test_no_layer_is_left_out_because_all_of_it_is_below_the_threshold():
    there, here = theirs(chain(8, 8, 8), Table(SCORES), pruning_ratio=0.5), ours(chain(8, 8, 8), Table(SCORES), 0.5)
    assert there["a"] == 8, "the layer with the lowest scores of all has lost nothing"
    assert here == {"a": 2, "b": 5, "c": 5, "head": 2}, "it keeps its best, and others lose instead"


def test_the_ratio_is_reached_whatever_the_scores():
    assert sum(theirs(chain(8, 8, 8), Table(SCORES), pruning_ratio=0.5).values()) > 2 + 12
    assert sum(ours(chain(8, 8, 8), Table(SCORES), 0.5).values()) == 2 + 12


def test_no_layer_collapses_to_one_channel_unless_that_is_asked_for():
    scores = {**SCORES, "a": [*LOW[:7], 99.0]}
    assert theirs(chain(8, 8, 8), Table(scores), pruning_ratio=0.5)["a"] == 1
    assert ours(chain(8, 8, 8), Table(scores), 0.5)["a"] == 2
    asked = prune(chain(8, 8, 8), IMAGE, "ratio=0.5", importance=Table(scores), max_ratio=1.0, min_channels=1)
    assert widths(asked.model)["a"] == 1
    by_default = prune(chain(8, 8, 8), IMAGE, "ratio=0.5", importance=Table(scores), max_ratio=0.5)
    assert widths(by_default.model)["a"] == 4


@pytest.fixture
def shared_defaults():
    """The dictionaries that are defaults of Torch-Pruning's pruner; what a test leaves in them is taken out again."""
    found = [value for value in tp.pruner.BasePruner.__init__.__defaults__ if isinstance(value, dict)]
    before = [dict(value) for value in found]
    yield found
    for value, content in zip(found, before, strict=True):
        value.clear()
        value.update(content)


def test_a_second_pruner_knows_nothing_of_the_first(shared_defaults):
    scores = Table({"a": LOW, "b": HIGH})

    def leftovers(pruner_class):
        pruners = [pruner_class(chain(8, 8, groups=groups), IMAGE, scores) for groups in (4, 1)]
        own = set(pruners[1].model.modules())
        return (set(pruners[1].out_channel_groups) | set(pruners[1].in_channel_groups)) - own

    assert leftovers(tp.pruner.BasePruner), "layers of the first model"
    before = [dict(value) for value in shared_defaults]
    assert not leftovers(DFPCPruner) and [dict(value) for value in shared_defaults] == before


def test_a_model_can_be_forgotten_when_its_pruner_is(shared_defaults):
    def kept_alive(prune_it):
        model = chain(8, 8, groups=4)
        reference = weakref.ref(model.b)
        prune_it(model)
        del model
        gc.collect()
        return reference() is not None

    scores = Table({"a": LOW, "b": HIGH})
    assert kept_alive(lambda model: tp.pruner.BasePruner(model, IMAGE, scores))
    assert not kept_alive(lambda model: DFPCPruner(model, IMAGE, scores, pruning_ratio=0.5).step())
    assert not kept_alive(lambda model: prune(model, IMAGE, "ratio=0.5", importance=scores))


def pruned_by_index(graph_class):
    """A chain of which a group has lost two of its channels by index, with the history of that."""
    model = chain(8, 8)
    graph = graph_class().build_dependency(model, IMAGE)
    group = graph.get_pruning_group(model.a, tp.prune_conv_out_channels, list(range(8)))
    group.prune([0, 3])
    return model, json.loads(json.dumps(graph.pruning_history()))


@pytest.mark.parametrize("graph_class", [tp.DependencyGraph, DataFlowGraph])
def test_history_says_once_what_was_done_once(graph_class):
    model, history = pruned_by_index(graph_class)
    again = chain(8, 8)
    graph_class().build_dependency(again, IMAGE).load_pruning_history(history)
    assert widths(model)["a"] == 6
    if graph_class is tp.DependencyGraph:
        assert len(history) == 2 and widths(again)["a"] == 0, "the whole group is noted too, so all of it goes"
    else:
        assert len(history) == 1 and torch.equal(again(IMAGE), model(IMAGE))


def test_a_record_is_replayed_to_the_same_model():
    model = chain(8, 8, 8)
    again = copy.deepcopy(model)
    result = prune(model, IMAGE, "ratio=0.5", importance=Table(SCORES))
    assert result.removed["a"] == tuple(range(6)), "indices are those of the model as it was"
    assert torch.equal(replay(again, IMAGE, result.removed)(IMAGE), result.model(IMAGE))


@pytest.mark.parametrize("multiple", [3, 4, 5])
def test_rounding_never_leaves_zero_or_gives_up(multiple):
    """Of six channels, two would stay: rounded down to a multiple, that is none."""
    scores = {"a": [0.1, 0.2, 0.3, 0.4, 50, 60], "b": [float(n) for n in range(10, 26)]}
    options = {"pruning_ratio": 0.2, "round_to": multiple}
    pruner = tp.pruner.BasePruner(chain(6, 16), IMAGE, Table(scores), **fresh(), **options)
    assert pruner._round_to(4, 6, multiple) == 6, "all six were to go"
    assert theirs(chain(6, 16), Table(scores), **options)["a"] == 6, "so nothing does"
    model = chain(6, 16)
    DFPCPruner(model, IMAGE, Table(scores), True, **options).step()
    assert widths(model)["a"] == multiple
    result = prune(chain(6, 16), IMAGE, "ratio=0.2", importance=Table(scores), round_to=multiple)
    assert widths(result.model)["a"] == multiple


@pytest.mark.parametrize("multiple", range(1, 20))
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_rounded_widths_are_multiples_or_as_before(multiple, ratio):
    model = chain(6, 9, 16)
    DFPCPruner(model, IMAGE, Table({"a": LOW[:6], "b": [*HIGH, 9.0], "c": [*MIDDLE, *MIDDLE]}), True, ratio,
               round_to=multiple).step()  # fmt: skip
    for name, before in {"a": 6, "b": 9, "c": 16}.items():
        left = widths(model)[name]
        assert left == before or (left % multiple == 0 and 0 < left < before)
