"""The table of models of other libraries, and how results are kept."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SUPPORT = Path(__file__).parents[2] / "examples" / "support"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, imported for one test."""
    monkeypatch.syspath_prepend(SUPPORT)
    own = {path.stem for path in SUPPORT.glob("*.py")}
    for name in own & sys.modules.keys():
        monkeypatch.delitem(sys.modules, name)
    yield importlib.import_module("third_party")
    for name in own & sys.modules.keys():
        del sys.modules[name]


def record(name: str, **facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"name": name, "library": "monai", "version": "1.6.1", "status": "ok"}
    known |= {"couplings": 7, "prunable_macs": 0.97, "reached": 0.594, "difference": 2.4e-7}
    return known | {"checks": {"saved": "ok"}, "date": "2001-02-03"} | facts


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in line[1:-1].split(" | ")]


def test_a_row_has_the_figures_of_its_record(script: ModuleType) -> None:
    text = script.markdown([record("a", note="calls | itself")], "2001-02-03")
    assert cells(text, "a") == ["`a`", "monai 1.6.1", "7", "97 %", "59 %", "2.4e-07", "yes", r"calls \| itself"]
    assert text.startswith("1 of 1 models of other libraries pass every check. Measured on 2001-02-03.\n\n| Model")


def test_a_row_of_a_failure_says_which_check_and_has_dashes(script: ModuleType) -> None:
    failed = script.failure("a", "not done\nafter 3 s") | {"date": "2001-02-03"}
    text = script.markdown([failed, record("b")], "2001-02-03")
    assert cells(text, "a") == ["`a`", "-", "-", "-", "-", "-", "-", "process fails: not done after 3 s"]
    assert text.startswith("1 of 2 models")


def test_a_model_that_cannot_be_saved_is_told_of_in_short(script: ModuleType) -> None:
    told = cells(script.markdown([record("a", checks={"saved": "Error: " + "long " * 99})], ""), "a")
    assert told[6] == "no" and told[7].startswith("saved fails: Error: long") and told[7].endswith(" …")
    assert len(told[7]) <= script.LONGEST


def test_the_last_record_of_a_model_counts(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert script.known(path) == {}
    for entry in (record("a", status="failed"), record("b"), record("a")):
        script.append(path, entry)
    assert {name: found["status"] for name, found in script.known(path).items()} == {"a": "ok", "b": "ok"}


def test_known_models_are_not_looked_at_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(script, "names", lambda: ["a", "b", "c"])
    monkeypatch.setattr(script, "measure", lambda name, *_: (asked.append(name), record(name))[1])
    path = tmp_path / "results.jsonl"
    script.main(only="a", results=path)
    script.main(results=path)
    assert asked == ["a", "b", "c"]
    script.main(only="b", results=path, retry=True)
    script.main(results=path, table=True)
    assert asked == ["a", "b", "c", "b"]
    assert capsys.readouterr().out.count("3 of 3 models") == 2
    with pytest.raises(SystemExit, match="has no results of 'z'"):
        script.main(only="z", results=path)
