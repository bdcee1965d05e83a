"""A criterion's digest changes with what it does, and with nothing else."""

import functools
import textwrap
import types

import pytest
import torch
import torch_pruning as tp

from dfpc_plugin.comparing.digest import digest_of

SOURCE = """
import functools
POWER = 2

def sizes(weight):
    return weight.abs() ** POWER

def score(group, scale=1.0):
    return scale * sizes(group[0].weight)

class Scores:
    share = 0.5

    def __init__(self, p=2):
        self.p = p

    def __call__(self, group):
        return sizes(group) + self.p * self.share

    @property
    def label(self):
        return "scores"

def made(p):
    return lambda group: sizes(group) + p

partial = functools.partial(score, scale=2.0)
"""


def module(source):
    found = types.ModuleType("own_scores")
    exec(compile(source, "own_scores.py", "exec"), vars(found))
    return found


CRITERIA = {
    "function": lambda own: own.score,
    "object": lambda own: own.Scores(),
    "class": lambda own: own.Scores,
    "closure": lambda own: own.made(3),
    "partial": lambda own: own.partial,
    "method": lambda own: own.Scores().__call__,
}


@pytest.mark.parametrize("kind", CRITERIA)
def test_the_same_code_elsewhere_has_the_same_digest(kind):
    take = CRITERIA[kind]
    moved = "\n\n# A comment.\n" + SOURCE.replace("return scale", "# another\n    return scale")
    assert digest_of(take(module(SOURCE))) == digest_of(take(module(moved)))


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("function", "scale *", "scale +"),
        ("function", "scale=1.0", "scale=3.0"),
        ("function", "weight.abs() **", "weight.relu() **"),  # in a function that it calls
        ("function", "POWER = 2", "POWER = 1"),
        ("object", "p=2", "p=1"),
        ("object", "share = 0.5", "share = 0.25"),
        ("object", "+ self.p", "- self.p"),
        ("object", "weight.abs() **", "weight.relu() **"),
        ("class", "+ self.p", "- self.p"),
        ("closure", "+ p", "- p"),
        ("partial", "scale=2.0", "scale=4.0"),
        ("method", "+ self.p", "- self.p"),
    ],
)
def test_other_code_has_another_digest(kind, old, new):
    take = CRITERIA[kind]
    assert old in SOURCE
    assert digest_of(take(module(SOURCE))) != digest_of(take(module(SOURCE.replace(old, new))))


def test_settings_count():
    own = module(SOURCE)
    assert len({digest_of(own.made(p)) for p in (1, 2, 3)}) == 3
    magnitudes = [tp.importance.GroupMagnitudeImportance(p=p) for p in (1, 2, 2)]
    first, second, third = map(digest_of, magnitudes)
    assert first != second == third
    weights = [functools.partial(own.score, scale=torch.full((3,), value)) for value in (1.0, 2.0, 2.0)]
    first, second, third = map(digest_of, weights)
    assert first != second == third


def test_objects_that_hold_each_other_end():
    first, second = types.SimpleNamespace(), types.SimpleNamespace()
    first.other, second.other = second, first
    assert digest_of(first) == digest_of(first)


def test_a_digest_is_short_text():
    assert len(digest_of(module(textwrap.dedent(SOURCE)).score)) == 16
