"""Text of results: never printed, never empty, never with colour codes, whatever the program runs in."""

import builtins
import re

import pytest
from rich.table import Table

from dfpc_plugin.display import Name, as_text, distinct_names, first_and_more


class ZMQInteractiveShell:
    """What rich takes for a notebook."""


@pytest.fixture(params=["notebook", "forced colours", "narrow"])
def surroundings(request, monkeypatch):
    if request.param == "notebook":
        monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    elif request.param == "forced colours":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    else:
        monkeypatch.setenv("COLUMNS", "20")


def test_text_is_the_same_everywhere_and_nothing_is_printed(surroundings, capsys):
    table = Table("layer", "channels")
    table.add_row(Name("layer1.0.conv1"), "[bold]64[/bold] → 32")
    text = as_text("A [red]heading[/red].", table)
    assert text.splitlines()[0] == "A [red]heading[/red]."
    assert "layer1.0.conv1" in text and "\x1b" not in text
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "stages.3.blocks.12.mixer.dwconv"),
        (30, "…3.blocks.12.mixer.dwconv"),
        (16, "…12.mixer.dwconv"),
        (14, "…mixer.dwconv"),
        (5, "…conv"),
    ],
)
def test_a_name_is_one_line_and_loses_its_beginning(width, shown):
    table = Table(box=None, padding=0, show_header=False)
    table.add_row(Name("stages.3.blocks.12.mixer.dwconv"))
    assert as_text(table, width=width) == shown


def test_what_stands_behind_a_name_stays():
    table = Table(box=None, padding=0, show_header=False)
    table.add_row(first_and_more(["features.denseblock1.conv", "b", "c"]))
    assert as_text(table, width=60) == "features.denseblock1.conv +2"
    assert as_text(table, width=18) == "…conv +2"
    assert as_text(table, width=80).splitlines() == ["features.denseblock1.conv +2"]


DENSE = [f"features.denseblock{block}.denselayer{layer}.conv1" for block in (1, 2) for layer in range(1, 13)]


@pytest.mark.parametrize("room", [60, 26, 18, 15, 12])
def test_rows_of_a_table_can_be_told_apart_at_any_width(room):
    table = Table(box=None, padding=0, show_header=False)
    for name in DENSE:
        table.add_row(Name(name, " +2", among=DENSE))
    rows = re.findall(r"(.*?) \+2", as_text(table, width=room + 3).replace("\n", ""))
    assert len(set(rows)) == len(DENSE)
    assert max(map(len, as_text(table, width=room + 3).splitlines())) <= room + 3


def test_names_of_a_table_have_one_form():
    paths = ["stem.conv.weight", *DENSE]
    assert distinct_names(paths, 20)[:3] == ["s.c.weight", "f.d1.d1.conv1", "f.d1.d2.conv1"]


def test_parts_are_abbreviated_before_a_name_is_broken():
    assert distinct_names(DENSE, 15)[:2] == ["f.d1.d1.conv1", "f.d1.d2.conv1"]
    assert distinct_names(["a.conv1", "features.denseblock1.norm"], 15) == ["a.conv1", "…norm"]
    assert distinct_names(DENSE, 8) == DENSE, "a label of a figure has one line"
