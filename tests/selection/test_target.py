"""What a user may write as a target, and what they are told when it makes no sense."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfpc_plugin.cli.options import descriptions
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.selection import BUDGETS as BUDGETS_BY_NAME
from dfpc_plugin.selection import Target, TargetError, meets, stated
from dfpc_plugin.workflow import Recipe

SHARES = st.sampled_from([0.001, 0.1, 0.25, 1 / 3, 0.5, 0.999])
ABOVE_ONE = st.sampled_from([1.01, 1.5, 4, 123.25])
BUDGETS = {
    "ratio": SHARES, "macs": SHARES, "params": SHARES, "speedup": ABOVE_ONE, "latency_ms": SHARES | ABOVE_ONE,
    "max_drop": st.just(0) | SHARES | ABOVE_ONE,
}  # fmt: skip
NAMES = "ratio, macs, params, speedup, latency_ms, max_drop"


@st.composite
def budgets(draw):
    chosen = draw(st.lists(st.sampled_from(sorted(BUDGETS)), min_size=1, unique=True))
    return {name: float(f"{draw(BUDGETS[name]):g}") for name in chosen}


@settings(deadline=None, derandomize=True)
@given(budgets(), st.sampled_from([",", ", ", " , ", "  ,"]), st.sampled_from(["=", " = ", "= "]))
def test_what_is_written_is_what_is_read(values, comma, equals):
    target = Target.parse(comma.join(f"{name}{equals}{value:g}" for name, value in values.items()))
    assert {name: value for name, value in dataclasses.asdict(target).items() if value is not None} == values
    assert Target.parse(str(target)) == target == Target(**values)


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-9, 1, exclude_max=True))
def test_text_says_exactly_what_was_asked_for(share):
    assert Target.parse(str(Target(macs=share))) == Target(macs=share)


def test_shares_may_be_written_as_percentages():
    assert Target.parse("macs=70%, params=12.5 %, ratio = 30%") == Target(macs=0.7, params=0.125, ratio=0.3)


def test_a_target_is_returned_as_it_is():
    target = Target(macs=0.5, max_drop=0)
    assert Target.parse(target) is target
    assert str(target) == "macs=0.5, max_drop=0"


@pytest.mark.parametrize("name", BUDGETS)
def test_targets_know_what_they_are_about(name):
    target = Target(**{name: 0.5 if name in ("ratio", "macs", "params") else 2})
    assert target.measured is (name in ("speedup", "latency_ms"))
    assert target.counted is (name in ("ratio", "macs", "params"))


@pytest.mark.parametrize(("text", "message"), [
    ("mac=0.5", r"^Unknown target 'mac=0\.5'; did you mean macs\?$"),
    ("flops=0.5", r"^Unknown target 'flops=0\.5'; give \"macs=0\.5\": the share of the MACs to keep is that of the FLOPs\.$"),
    ("pruning_ratio=0.5", r"^Unknown target '.*' \(Torch-Pruning's pruners have it\); give a target: \"ratio=0\.3\", "),
    ("macs=0,5", r'^The target \'macs=0,5\' has a decimal comma; write "macs=0\.5"\.$'),
    ("macs=0,5,params=0.7, max_drop = 1,5", r'write "macs=0\.5,params=0\.7, max_drop = 1\.5"\.$'),
    ("param=0.5", r"^Unknown target 'param=0\.5'; did you mean params\?$"),
    ("macs=0.5, latency=3", r"^Unknown target 'latency=3'; did you mean latency_ms\?$"),
    ("0.5", rf"^Unknown target '0\.5'; write for example macs=0\.5; there are {NAMES}\.$"),
    ("", rf"^Unknown target ''; write for example macs=0\.5; there are {NAMES}\.$"),
    ("macs=0.5,", r"^Unknown target ''; write for example macs=0\.5; there are"),
    ("macs=0.5, macs=0.4", r"^The target 'macs=0\.5, macs=0\.4' names macs twice; give it once\.$"),
    ("macs", r"^'macs' gives no number; for example macs=0\.5\.$"),
    ("max_drop=two", r"^'max_drop=two' gives no number; for example max_drop=2\.$"),
    ("macs=%", r"^'macs=%' gives no number; for example macs=0\.5\.$"),
    ("macs=150%", r"^macs=1\.5 is no share"),
    ("max_drop=2%", r"^'max_drop=2%' gives no number; for example max_drop=2\.$"),
    ("speedup=1.5=2", r"^'speedup=1\.5=2' gives no number; for example speedup=1\.5\.$"),
    (torch.zeros(1), r'^The target is a Tensor, not text such as "macs=0\.5"; it comes after the model and the inputs\.$'),
    ("macs=nan", r"^macs=nan is no number; for example macs=0\.5\.$"),
    ("latency_ms=inf", r"^latency_ms=inf is no number; for example latency_ms=4\.2\.$"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(TargetError, match=message):
        Target.parse(text)


@pytest.mark.parametrize(("values", "message"), [
    ({}, rf"^A target needs at least one of {NAMES}; for example macs=0\.5\.$"),
    ({"ratio": "0.5"}, r"^ratio='0\.5' is no number; for example ratio=0\.3\.$"),
    ({"macs": True}, r"^macs=True is no number; for example macs=0\.5\.$"),
    ({"max_drop": float("inf")}, r"^max_drop=inf is no number"),
    ({"ratio": 0}, r"^ratio=0 is no share of the channels to remove, between 0 and 1; for example ratio=0\.3\.$"),
    ({"ratio": 30}, "^ratio=30 is no share of the channels to remove"),
    ({"macs": 1}, r"^macs=1 is no share of the MACs to keep, between 0 and 1; for example macs=0\.5\.$"),
    ({"params": -0.5}, r"^params=-0\.5 is no share of the parameters to keep, between 0 and 1; for example params=0\.5"),
    ({"speedup": 1}, r"^speedup=1 is no speed-up, above 1; for example speedup=1\.5\.$"),
    ({"latency_ms": 0}, r"^latency_ms=0 is no latency in ms, above 0; for example latency_ms=4\.2\.$"),
    ({"max_drop": -1}, r"^max_drop=-1 is no loss to allow, 0 or more; for example max_drop=2\.$"),
    ({"macs": 0.5, "params": 7}, "^params=7 is no share of the parameters"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(values, message):
    with pytest.raises(TargetError, match=message):
        Target(**values)


def test_its_errors_are_those_of_the_package_and_of_values():
    assert issubclass(TargetError, DFPCError) and issubclass(TargetError, ValueError)


def test_every_budget_is_on_the_page_and_in_the_help():
    page = (Path(__file__).parents[2] / "docs" / "budgets.md").read_text(encoding="utf-8")
    said = descriptions(Recipe)["target"]
    for name, budget in BUDGETS_BY_NAME.items():
        assert f"| `{name}={budget.example:g}` |" in page
        assert f"{name}: {budget.summary}." in said


@pytest.mark.parametrize(("name", "value", "share", "part"), [
    ("ratio", 0.3, 0.5, 0.15), ("macs", 0.5, 0.5, 0.75), ("params", 0.2, 0.25, 0.8), ("speedup", 2, 0.5, 2),
])  # fmt: skip
def test_a_part_of_the_way(name, value, share, part):
    assert getattr(Target(**{name: value}).part(share), name) == pytest.approx(part)


@pytest.mark.parametrize(
    ("budget", "figure", "asked", "text"),
    [
        ("speedup", 1.50004, 1.5, "1.5"),
        ("speedup", 1.49996, 1.5, "1.49996"),
        ("latency_ms", 4.20001, 4.2, "4.20001"),
        ("latency_ms", 0.12345, 0.123456, "0.12345"),
        ("macs", 0.4998301, 0.5, "0.4998"),
        ("ratio", 0.30001, 0.3, "0.3"),
        ("ratio", 0.3 - 2e-16, 0.3, "0.3"),
        ("ratio", 0.29999, 0.3, "0.29999"),
        ("max_drop", 2.00001, 2, "2.00001"),
    ],
)
def test_a_figure_is_written_in_enough_digits_to_see_whether_the_budget_is_kept(budget, figure, asked, text):
    assert stated(budget, figure, asked) == text
    assert meets(budget, float(text), asked) == meets(budget, figure, asked)
