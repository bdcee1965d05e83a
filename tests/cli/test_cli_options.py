from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from dfpc_plugin.cli import COMMANDS
from dfpc_plugin.cli.options import misplaced, nearest, option_types, section_type


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    steps: int = 3


@dataclass(frozen=True)
class Section:
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    size: int | None = None


@dataclass(frozen=True)
class Config:
    section: Section = field(default_factory=Section)
    target: str = ""


NAMES = ["section", "section.inner", "section.inner.lr", "section.inner.steps", "section.maybe", "section.maybe.lr"]
NAMES += ["section.maybe.steps", "section.size", "target"]


def test_sections_are_dataclasses_or_none():
    assert section_type(Inner) is Inner
    assert section_type(Inner | None) is Inner
    assert section_type(int | None) is None
    assert section_type(Inner | Section) is None
    assert section_type(Inner()) is None


def test_names_are_dotted_paths():
    assert list(option_types(Config)) == NAMES


def test_unknown_keys_are_found_at_any_depth():
    content = {
        "tarjet": 1,
        "section": {"inner": {"lr": 1, "LR": 2}, "maybe": None, "x": {"y": 1}},
        "target": {"free": 1},
    }
    assert list(misplaced(content, Config)) == [(key, "unknown") for key in ("tarjet", "section.inner.LR", "section.x")]


def test_sections_that_hold_something_else_are_found():
    no = "no section"
    assert list(misplaced({"section": {"inner": None, "maybe": None}}, Config)) == [("section.inner", no)]
    assert list(misplaced({"section": [1]}, Config)) == [("section", no)]
    found = misplaced({"section": {"inner": 3, "maybe": "x", "size": "no section"}}, Config)
    assert list(found) == [("section.inner", no), ("section.maybe", no)]
    assert list(misplaced({}, Config)) == []


def test_lists_that_are_none_are_found():
    config = COMMANDS["prune"][0]
    assert list(misplaced({"curve": 0.5, "target": "x"}, config)) == [("curve", "no list")]
    assert list(misplaced({"curve": [0.5]}, config)) == list(misplaced({"curve": None}, config)) == []


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("tarjet", "target"),
        ("section.siez", "section.size"),
        ("section.inner.lrr", "section.inner.lr"),
        ("lr", "section.inner.lr"),
        ("secton.size", "section.size"),
        ("secton.siez", "section.size"),
        ("section.zzzz", None),  # that the section is right makes none of its options likely
        ("qqqqqqqq", None),
        ("", None),
    ],
)
def test_the_nearest_name(typed, found):
    assert nearest(typed, NAMES) == found


def test_the_same_name_in_a_section_is_nearer_than_a_like_one():
    names = list(option_types(COMMANDS["prune"][0]))
    assert nearest("runtime", names) == "latency.runtime" and nearest("runtme", names) == "prune"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_name_is_its_own_nearest(command):
    names = list(option_types(COMMANDS[command][0]))
    assert len(names) == len(set(names))
    assert [nearest(name, names) for name in names] == names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_complete(dfpc, command):
    """Every option is there, and every one of our own is described in words."""
    code, out, err = dfpc(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: dfpc {command}")
    for word in ("null", "<class", "NoneType", "dataclass", "Namespace"):
        assert word not in out
    for name in option_types(COMMANDS[command][0]):
        assert name.partition(".")[0] in out


@pytest.mark.parametrize("section", ["finetune", "schedule", "latency"])
def test_sections_that_may_be_left_out_have_their_own_help(dfpc, section):
    code, out, err = dfpc("prune", f"--{section}.help")
    assert (code, err) == (0, "")
    for name in option_types(COMMANDS["prune"][0]):
        if name.startswith(f"{section}."):
            assert name.rpartition(".")[2] in out
