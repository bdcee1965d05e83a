"""Tables and pictures of comparisons whose cells are written down."""

import dataclasses
import itertools
import re

import pytest

from dfpc_plugin import CompareResult
from dfpc_plugin.comparing import Cell, CellResult, CompareError
from dfpc_plugin.comparing.cells import METRICS, Unpruned
from dfpc_plugin.files import OutputError

COSTS = {"macs": 0.7, "params": 0.6, "speedup": 1.25, "seconds": 2.0}


def written_down(repairs=("none", "merge"), seeds=(0,), metric="accuracy", **values):
    """A comparison in which `criterion=(value after the first repair, ...)`, the same at two budgets."""
    cells = tuple(
        CellResult(Cell(name, budget, repair, seed), value + 0.01 * seed, 0.01, **COSTS)
        for budget in ("macs=0.8", "macs=0.5")
        for name, own in values.items()
        for repair, value in zip(repairs, own, strict=True)
        for seed in seeds
    )
    return CompareResult(METRICS[metric], "100 labelled images", Unpruned(5_000_000, 20_000, 0.9, 0.03), cells)


def test_the_best_and_what_is_within_one_standard_error_lead():
    result = written_down(dfpc=(0.7, 0.8), magnitude=(0.695, 0.7), random=(0.5, 0.795))
    assert result.leaders("macs=0.5", "none") == ("dfpc", "magnitude")
    assert result.leaders("macs=0.5", "merge") == ("dfpc", "random")
    errors = written_down(metric="output_error", dfpc=(0.7, 0.8), magnitude=(0.5, 0.7))
    assert errors.leaders("macs=0.8", "none") == ("magnitude",)


def test_a_table_has_a_section_per_budget_and_says_what_is_measured():
    text = str(written_down(dfpc=(0.7, 0.8), magnitude=(0.5, 0.6)))
    assert re.findall(r"^ (macs=\S+)$", text, re.MULTILINE) == ["macs=0.8", "macs=0.5"]
    assert re.search(r"^   DFPC, expected +70\.0% +60\.0% +1\.25x +70\.0 \* +80\.0 \*$", text, re.MULTILINE)
    assert re.search(r"^   Magnitude \(TP\) +70\.0% +60\.0% +1\.25x +50\.0 +60\.0$", text, re.MULTILINE)
    assert "Accuracy (%) on 100 labelled images, by repair; unpruned: 90.0, standard error 3.0." in " ".join(
        text.split()
    )
    assert "share that remains of 5.00 M MACs and 20.0 k parameters." in " ".join(text.split())
    assert "Seconds for each cell: none 2, merge 2." in text
    assert "seeds" not in text


ALL = ("none", "mean", "merge", "synthetic", "calibrate")
FIRST_TO_GO = ("Speed-up", "±", "Params", "MACs")


def test_columns_go_one_at_a_time_and_nothing_is_clipped():
    values = dict.fromkeys(("dfpc-mean", "bnscale", "taylor", "random"), (0.71, 0.72, 0.73, 0.74, 0.75))
    result = written_down(ALL, (0, 1), **values)
    steps = []
    for width in range(140, 75, -4):
        text = result.text(width)
        assert "…" not in text and max(map(len, text.splitlines())) <= width
        table = text.partition("Accuracy (%)")[0]
        steps.append(tuple(name for name in FIRST_TO_GO if name not in table))
        assert ("too narrow" in text) == bool(steps[-1])
    assert list(dict.fromkeys(steps)) == [FIRST_TO_GO[:count] for count in range(len(FIRST_TO_GO) + 1)]


def test_seeds_are_averaged_with_their_deviation():
    text = str(written_down(seeds=(0, 2), random=(0.7, 0.8), lamp=(0.1, 0.1)))
    assert re.search(r"Random \(TP\) x2 .* 71\.0 ± 1\.4 \* +81\.0 ± 1\.4 \*$", text, re.MULTILINE)
    assert "± Standard deviation over seeds." in " ".join(text.split())


def test_one_criterion_alone_is_not_called_the_best():
    text = str(written_down(seeds=(0, 2), random=(0.7, 0.8)))
    assert "*" not in text and "± Standard deviation over seeds." in text


def test_costs_that_differ_between_repairs_are_a_range_and_drawn_each_in_its_place():
    result = written_down(auto=(0.7, 0.8))
    assert "a range where" not in " ".join(str(result).split())
    cells = tuple(dataclasses.replace(own, macs=0.794 if own.cell.repair == "merge" else 0.798) for own in result.cells)
    result = dataclasses.replace(result, cells=cells)
    assert "79.4-79.8%" in str(result) and "| 79.4-79.8% | 60.0% |" in result.to_markdown()
    drawn = [axes.containers[0].lines[0].get_xdata()[0] for axes in result.plot().axes]
    assert drawn == pytest.approx([79.8, 79.4])


def test_a_criterion_of_ones_own_goes_by_its_label():
    result = written_down(mine=(0.7, 0.8))
    labelled = tuple(dataclasses.replace(own, label="Mine, squared") for own in result.cells)
    result = dataclasses.replace(result, cells=labelled)
    assert "  Mine, squared " in str(result)
    assert CellResult.from_json(labelled[0].to_json("accuracy"), "accuracy") == labelled[0]
    assert "Mine, squared" in [text.get_text() for text in result.plot().legends[0].get_texts()]


def test_markdown_has_the_same_cells():
    text = written_down(dfpc=(0.7, 0.8), magnitude=(0.5, 0.6)).to_markdown()
    lines = text.splitlines()
    at = lines.index("**macs=0.5**")
    assert lines[at + 2 : at + 6] == [
        "| Criterion | MACs | Params | Speed-up | none | merge |",
        "|---|---|---|---|---|---|",
        "| DFPC, expected | 70.0% | 60.0% | 1.25x | 70.0 * | 80.0 * |",
        "| Magnitude (TP) | 70.0% | 60.0% | 1.25x | 50.0 | 60.0 |",
    ]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_pictures_by_their_ending_and_the_same_twice(tmp_path, suffix, start):
    result = written_down(seeds=(0, 1), dfpc=(0.7, 0.8), own=(0.5, 0.6))
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        figure = result.plot(path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start) and first == second
    assert [axes.get_title() for axes in figure.axes] == ["not repaired", "repaired by merge"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Unpruned (90.0)", "DFPC, expected", "own"]
    line = figure.axes[1].containers[0].lines[0]
    assert list(line.get_xdata()) == [70.0, 70.0]
    assert list(line.get_ydata()) == pytest.approx([80.5, 80.5])


def test_many_criteria_are_told_apart():
    result = written_down(("none",), **{f"own{number}": (0.1 * number,) for number in range(9)})
    lines = [container.lines[0] for container in result.plot().axes[0].containers]
    styles = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines]
    assert all(one != other for one, other in itertools.combinations(styles, 2))


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"end its name in \.png, \.svg or \.pdf"):
        written_down(dfpc=(0.7, 0.8)).plot(tmp_path / "plot.gif")


def test_its_repr_is_one_line_and_notebooks_show_the_table():
    result = written_down(dfpc=(0.7, 0.8), magnitude=(0.5, 0.6))
    assert repr(result) == "CompareResult of 8 cells: Accuracy (%) on 100 labelled images; print it for a table."
    assert "DFPC" in result._repr_html_()


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "cells.jsonl"
    text = written_down(dfpc=(0.7, 0.8), magnitude=(0.5, 0.6)).to_json_lines()
    path.write_text(text[:-20])
    assert len(CompareResult.read(path).cells) == 7
    path.write_text("")
    with pytest.raises(CompareError, match=r"line 1 cannot be read \(.*\); give a file that compare has written\."):
        CompareResult.read(path)


def test_few_images_are_called_few():
    result = dataclasses.replace(written_down(dfpc=(0.7, 0.8)), source="3 labelled images of test.zip")
    told = " ".join(str(result).split())
    assert "3 images are few: accuracies that differ by less than 58 points mean nothing." in told
    assert "are few" not in str(written_down(dfpc=(0.7, 0.8)))


def test_one_seed_beside_several_is_told():
    result = written_down(seeds=(0, 1), auto=(0.7, 0.8))
    once = dataclasses.replace(
        result, cells=tuple(c for c in result.cells if c.cell.repair == "merge" or not c.cell.seed)
    )
    told = "Where nothing is random, there is one seed."
    assert told in " ".join(str(once).split()) and told not in " ".join(str(result).split())
