"""Plain data is checked against type hints, and errors say where, what must be there, what is, and which key is near."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import (
    Checked,
    Count,
    Limit,
    PlainDataError,
    Positive,
    at_most,
    checked,
    matching,
    one_of,
    parse_json,
    to_plain,
    within,
)


@dataclass(frozen=True)
class Layer:
    name: Annotated[str, at_most(5)]
    shape: Annotated[tuple[Count, ...], at_most(2)] = ()
    parent: Layer | None = None


class File(TypedDict):
    kind: Literal["conv", "linear"]
    layers: Mapping[str, Layer]


LAYER = {"name": "a", "shape": [3, 4], "parent": {"name": "b", "shape": [], "parent": None}}


def test_objects_become_dataclasses_and_lists_become_tuples():
    found = checked(File, {"kind": "conv", "layers": {"x": LAYER}}, "file")
    assert found == {"kind": "conv", "layers": {"x": Layer("a", (3, 4), Layer("b"))}}
    assert json.loads(json.dumps(to_plain(found))) == {"kind": "conv", "layers": {"x": LAYER}}
    layer = Layer("longer than five")  # instances are taken as they are
    assert checked(Layer, layer, "") is layer


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (int, 1.0, "x must be a whole number, not 1.0"),
        (int, True, "x must be a whole number, not True"),
        (float, "1", "x must be a number, not '1'"),
        (float, True, "x must be a number, not True"),
        (bool, 1, "x must be true or false, not 1"),
        (str, None, "x must be text, not None"),
        (str, b"a", "x must be text, not b'a'"),
        (Path, 3, "x must be a path, not 3"),
        (None.__class__, 0, "x must be null, not 0"),
        (int | None, "a", "x must be a whole number, not 'a'"),
        (int | str | None, [], "x must be text, not []"),
        (Literal[1], True, "x must be 1, not True"),
        (Literal["conv", "linear"], "cnv", "x must be one of 'conv', 'linear', not 'cnv'; did you mean conv?"),
        (tuple[int, ...], "12", "x must be a list, not '12'"),
        (tuple[int, ...], [1, "b"], "x[1] must be a whole number, not 'b'"),
        (tuple[int, str], [1], "x must be a list of 2 entries, not [1]"),
        (tuple[int, str], [1, 2], "x[1] must be text, not 2"),
        (list[str], {}, "x must be a list, not {}"),
        (dict[str, int], [], "x must be an object, not []"),
        (dict[str, int], {"a": 1, "b": None}, "x.b must be a whole number, not None"),
        (dict[str, int], {3: 1}, "x has the key 3, which is no text"),
        (Layer, [], "x must be an object, not []"),
        (Layer, {"name": "a", "shape": []}, "x has no 'parent'"),
        (Layer, LAYER | {"shap": 1}, "x has 'shap', which is not known; did you mean shape?"),
        (Layer, LAYER | {"q" * 200: 1}, f"x has '{'q' * 100}', which is not known"),
        (Layer, LAYER | {"parent": LAYER | {"shape": [3, 0]}}, "x.parent.shape[1] must be 1 or more, not 0"),
        (Layer, LAYER | {"shape": [1, 2, 3]}, "x.shape must be at most 2 long, not [1, 2, 3]"),
        (File, {"kind": "conv"}, "x has no 'layers'"),
        (Annotated[str, matching("[a-f]+", "hexadecimal", 3)], "abca", "x must be hexadecimal, not 'abca'"),
        (Annotated[str, matching("[a-f]+", "hexadecimal", 3)], "ab\n", "x must be hexadecimal, not 'ab\\n'"),
        (Annotated[str, one_of(("a", "b"))], "c", "x must be one of 'a', 'b', not 'c'"),
        (Annotated[int, Limit("even", lambda n: n % 2 == 0, "add 1")], 3, "x must be even, not 3; add 1"),
        (str, ["long" * 90], f"x must be text, not {repr(['long' * 90])[:37]}..."),
    ],
)
def test_what_is_wrong_is_said_with_its_place(kind, value, text):
    with pytest.raises(PlainDataError) as caught:
        checked(kind, value, "x")
    assert str(caught.value) == text
    with pytest.raises(SizeError) as caught:
        checked(kind, value, "x", SizeError)
    assert str(caught.value) == text + "." * (not text.endswith("?"))


@pytest.mark.parametrize(
    ("limit", "text", "inside", "outside"),
    [
        (within(1), "1 or more", [1, 9], [0, math.inf, math.nan]),
        (within(0, 1), "0 to 1", [0, 0.5, 1], [-0.1, 1.1, math.nan]),
        (within(above=0), "above 0", [1e-9], [0, -1, math.inf, math.nan]),
        (within(above=0, most=1), "above 0 and at most 1", [1], [0, 1.1, math.nan]),
        (within(0, below=1), "0 or more and below 1", [0, 0.9], [1, -1, math.nan]),
    ],
)
def test_ranges_say_what_they_hold(limit, text, inside, outside):
    assert limit.wanted == text
    assert all(map(limit.holds, inside)) and not any(map(limit.holds, outside))


def test_numbers_of_other_libraries_become_pythons():
    found = checked(tuple[int, float, float], [np.int64(3), np.float32(0.5), 2], "x")
    assert found == (3, 0.5, 2) and [type(number) for number in found] == [int, float, int]


def test_a_hint_that_is_not_plain_is_a_mistake_of_the_program():
    with pytest.raises(TypeError, match="no plain data is checked against"):
        checked(set, {1}, "x")


class SizeError(DFPCError):
    pass


@dataclass(frozen=True)
class Size(Checked, error=SizeError):
    width: Positive = 1.0
    unit: Literal["metre", "inch"] = "metre"
    steps: tuple[int, ...] = ()
    path: Path | None = None
    other: Any = None
    inner: Size | None = None


@dataclass(frozen=True)
class Larger(Size):
    depth: Count = field(default=1)


def test_settings_are_checked_when_they_are_made():
    found = Larger(2, steps=[1, 2], path="a", inner=Size())
    assert (found.steps, found.path, found.inner) == ((1, 2), Path("a"), Size())
    assert found.to_json() == {
        "width": 2, "unit": "metre", "steps": [1, 2], "path": "a", "other": None, "inner": Size().to_json(), "depth": 1
    }  # fmt: skip
    for kind, values, text in (
        (Size, {"width": 0}, "width must be above 0, not 0."),
        (Larger, {"depth": 0}, "depth must be 1 or more, not 0."),
        (Larger, {"inner": {"width": 1}}, "inner has no 'unit'."),
        (Size, {"unit": "meter"}, "unit must be one of 'metre', 'inch', not 'meter'; did you mean metre?"),
    ):
        with pytest.raises(SizeError) as caught:
            kind(**values)
        assert str(caught.value) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xff", "it is not UTF-8 text (byte 0)"),
        (b"{", "it is not JSON: Expecting property name enclosed in double quotes"),
        (b'{"a": 1, "a": 2}', "it has the key 'a' twice"),
        (b"[NaN]", "it has NaN, which is no JSON"),
        (b"[1e999]", "it has a number that is too large: 1e999"),
        (b"9" * 5000, "it has a number that is too large"),
        (b"[" * 101 + b"]" * 101, "it is nested deeper than 100 levels"),
        (b"[" * 100_000, "it is n"),
        (b'["\\ud800"]', "it has half a character (a lone surrogate)"),
        (b"," * 4_000_001, "it has more than 4000000 values"),
    ],
)
def test_json_is_read_strictly(text, told):
    with pytest.raises(PlainDataError) as caught:
        parse_json(text)
    assert str(caught.value).startswith(told)
    assert parse_json(b'{"a": [1, 2.5, null, "b"]}') == {"a": [1, 2.5, None, "b"]}
