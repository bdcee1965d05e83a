"""The pages tell of what there is, all of it and nothing else."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

import dfpc_plugin as dfpc
from dfpc_plugin import errors
from dfpc_plugin.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_reference_has_every_public_name_and_all_of_them_exist():
    listed = re.findall(r"^::: ([\w.]+)$", read("docs/reference.md"), re.MULTILINE)
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert name == "dfpc_plugin.errors" or hasattr(importlib.import_module(module), attribute), name
    for name in dfpc.__all__:  # by the path that is imported, or, where a module shares its name, the one behind it
        paths = [path.rpartition(".")[0] for path in listed if path.rpartition(".")[2] == name]
        assert any(getattr(importlib.import_module(path), name) is getattr(dfpc, name) for path in paths), name


def test_errors_are_documented():
    for name in errors.__all__:
        assert getattr(errors, name).__doc__, name


def test_the_rules_page_shows_every_operator_and_promise(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    hooks = importlib.import_module("hooks")
    page = hooks.on_page_markdown(read("docs/rules.md"))
    assert "<!--" not in page
    for function in dfpc.registered_rules():
        assert f"`{hooks._operator(function)}`" in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {row[1] for row in rows} == {convention.value for convention in dfpc.Convention}
    assert all(len(row) == 3 and len(row[2]) > 4 for row in rows), "a formula for each, escaped for the table"


@pytest.mark.parametrize("extra", ["demo", "test"])
def test_the_readme_has_one_line_per_kind_of_user(extra):
    lines = [line for line in read("README.md").splitlines() if f'".[{extra}]"' in line]
    assert len(lines) == 1
    assert lines[0].startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md", "docs/index.md"])
def test_commands_and_options_exist(page):
    command = None
    for line in read(page).splitlines():
        named = re.search(r"(?:^## |^\$ |/bin/)dfpc (\w+)", line)
        if named:
            command = named[1]
            assert command in COMMANDS
        elif line.startswith("## "):
            command = None
        elif not line.startswith("| `--"):
            continue
        if command:
            known = {field.name for field in dataclasses.fields(COMMANDS[command][0])} | {"config", "print_config", "help"}
            assert {name.removeprefix("no_") for name in re.findall(r"--(\w+)", line)} <= known


def test_every_option_of_score_is_in_its_table():
    section = read("docs/cli.md").partition("## dfpc score")[2].partition("## dfpc check")[0]
    options = {field.name for field in dataclasses.fields(COMMANDS["score"][0])} - {"model"}
    assert options <= set(re.findall(r"--(\w+)", section))
