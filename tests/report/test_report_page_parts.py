"""Scales, charts, groups and wording of the page, each against what is plain to see."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfpc_plugin.report.page import render_report
from dfpc_plugin.report.page.chart import Linear, Logarithmic, Point, chart_of
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.saliency import saliency
from dfpc_plugin.report.page.wording import (
    count,
    grouped,
    percent,
    power_of_ten,
    seconds,
    short,
    short_tick,
    signed,
    significant,
)

REAL = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(REAL, min_size=1, max_size=20))
def test_a_scale_holds_all_values_between_few_ticks(values):
    scale = Linear.over(values)
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= 8
    assert math.isclose(scale.ticks[0], scale.low, abs_tol=1e-9) and math.isclose(
        scale.ticks[-1], scale.high, abs_tol=1e-9
    )
    inner = Linear.within(values, 0.05)
    assert all(0 <= inner.at(value) <= 1 for value in values)
    assert all(-1e-6 <= inner.at(tick) <= 1 + 1e-6 for tick in inner.ticks)


@pytest.mark.parametrize(
    "values, ticks, digits",
    [((0, 1), (0, 0.25, 0.5, 0.75, 1), 2), ((61, 93.4), (60, 70, 80, 90, 100), 0), ((0, 8), (0, 2, 4, 6, 8), 0)],
)
def test_ticks_are_round(values, ticks, digits):
    scale = Linear.over(values)
    assert scale.ticks == pytest.approx(ticks) and scale.digits == digits


def test_logarithmic_scales():
    scale = Logarithmic.over([0.0, -1.0, 0.02, 30.0])
    assert (scale.low, scale.high) == (-2, 2)
    assert scale.at(0.01) == 0 and scale.at(1.0) == pytest.approx(0.5) and scale.at(1e9) == 1
    assert Logarithmic.over([0.0]) is None and Logarithmic.over([1.0]) == Logarithmic(0, 1)
    assert Logarithmic(-10, 0).exponents(5) == [-10, -7, -4, -1]


def test_an_outlier_does_not_take_the_room_of_all_others():
    common = [10.0 ** (-3 + i / 100) for i in range(200)]
    assert Logarithmic.over(common, trimmed=True) == Logarithmic(-3, -1)
    assert Logarithmic.over([*common, 1e-30, 1e7]) == Logarithmic(-30, 7), "not unless it is asked for"
    scale = Logarithmic.over([*common, 1e-30, 1e7], trimmed=True)
    assert scale == Logarithmic(-4, 0) and scale.beyond([*common, 1e-30, 1e7, 0.0]) == (1, 1)
    assert (scale.at(1e-30), scale.at(1e7)) == (0, 1)
    assert Logarithmic.over([*common, *[1e-30] * 10], trimmed=True) == Logarithmic(-30, -1), "many are no outliers"
    assert Logarithmic.over([1e-9, 0.1, 0.2], trimmed=True) == Logarithmic(-9, 0), "nor are few among few"


@given(st.lists(st.tuples(REAL, REAL), min_size=2, max_size=25))
def test_charts_stay_within_their_frame_and_labels_apart(pairs):
    chart = chart_of("t", [Point(x, y, "label") for x, y in sorted(pairs)], x_label="x", y_label="y")
    boxes = []
    for mark in chart.marks:
        assert chart.left - 0.2 <= mark.x <= chart.right + 0.2 and chart.top - 0.2 <= mark.y <= chart.bottom + 0.2
        if mark.label:
            boxes.append((mark.label_x - 15, mark.label_y - 9, mark.label_x + 15, mark.label_y + 2))
    for index, box in enumerate(boxes):
        assert box[0] >= 0 and box[2] <= chart.width
        for other in boxes[:index]:
            assert box[2] <= other[0] + 1 or other[2] <= box[0] + 1 or box[3] <= other[1] + 1 or other[3] <= box[1] + 1


def test_one_point_is_no_chart_and_many_are_thinned():
    assert chart_of("t", [Point(0, 0)], x_label="", y_label="") is None
    chart = chart_of("t", [Point(i, i % 2) for i in range(10_000)], x_label="step", y_label="loss", whole=True)
    assert chart.path.count("L") == 299 and chart.marks == ()
    assert "10000 points" in chart.description and "lowest 0, highest 1" in chart.description


@given(st.lists(st.text("ab.", min_size=1, max_size=5), max_size=150))
def test_grouping_keeps_every_row_once(paths):
    groups = grouped((path, index) for index, path in enumerate(paths))
    assert sorted(row for group in groups for row in group.rows) == list(range(len(paths)))


def test_groups_follow_the_model():
    assert grouped([]) == ()
    assert [group.name for group in grouped((f"a.{i}", i) for i in range(24))] == [""]
    paths = ["stem", "conv1"] + [f"layer1.{i}.conv" for i in range(30)] + [f"blocks.{i // 10}.x{i}" for i in range(120)]
    groups = grouped((path, path) for path in paths)
    assert [group.name for group in groups[:3]] == ["stem to conv1", "layer1", "blocks.0"]
    assert len(groups) == 14 and all(len(group.rows) == 10 for group in groups[2:])


def test_bars_of_saliency_count_units():
    record = {"saliency": {"couplings": [{"name": "a", "scores": [0.1, 0.1, 10.0, 0.0], "gone": [3, 0]}]}}
    view = saliency(Field(record))
    (strip,) = view["groups"][0].rows
    assert (strip.kept, strip.gone, strip.zeros) == (2, 2, "1 removed at zero")
    assert strip.path_kept.count("M") == 2 and strip.path_gone.count("M") == 1
    assert "v-" in strip.path_kept and "v-" not in strip.path_gone  # kept rise, gone hang


def test_an_outlier_of_saliency_leaves_the_others_apart_and_is_told():
    scores = [10.0 ** (-3 + i / 20) for i in range(40)]
    record = {"saliency": {"couplings": [{"name": "a", "scores": [*scores, 1e-30], "gone": [40]}]}}
    view = saliency(Field(record))
    (strip,) = view["groups"][0].rows
    assert strip.path_kept.count("M") > 20, "in one bin each, or two"
    assert strip.path_gone.startswith("M0 ") and view["beyond"] == 1
    assert view["ends"] == ["≤10⁻⁴", "10⁻¹"]
    page = render_report(record | {"model": {"name": "x"}})
    assert "The scale leaves out outliers: 1 channel lies beyond it, and is drawn at its ends." in page


def test_wording():
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert [short(value).replace(thin, " ") for value in (0, 7, 999, 1000, 125_485_706, 999_999)] == [
        "0",
        "7",
        "999",
        "1.00 k",
        "125 M",
        "1.00 M",
    ]
    assert [short_tick(value).replace(thin, " ") for value in (0, 50_000_000, 2500, 999)] == [
        "0",
        "50 M",
        "2.5 k",
        "999",
    ]
    assert count(1_234_567).replace(thin, " ") == "1 234 567"
    assert [significant(value).replace(thin, " ") for value in (1.416, 0.59812, 12345, 1e-9)] == [
        "1.42",
        "0.598",
        "12 300",
        "1.00e\N{MINUS SIGN}09",
    ]
    assert (percent(0.5981), signed(-0.449), signed(1.2), signed(-0.001)) == (
        "59.8%",
        "\N{MINUS SIGN}0.45",
        "+1.20",
        "0.00",
    )
    assert [seconds(value).replace(thin, " ") for value in (0.04, 59.99, 356, 7300)] == [
        "0.0 s",
        "1 min 0 s",
        "5 min 56 s",
        "2 h 1 min",
    ]
    assert power_of_ten(-12) == "10⁻¹²"
