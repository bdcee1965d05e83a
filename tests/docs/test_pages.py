"""The pages tell of what there is, all of it and nothing else."""

import dataclasses
import html
import importlib
import re
import typing
from pathlib import Path

import pytest

import dfpc_plugin as dfpc
from dfpc_plugin import errors
from dfpc_plugin.cli import COMMANDS, MAIN_OPTIONS, main
from dfpc_plugin.cli.options import option_types, respelt, section_type

ROOT = Path(__file__).parents[2]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def rows_of(text):
    """The cells of every row of the tables of a page."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and set(line) - set("| -")]
    return [[html.unescape(cell) for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")] for line in lines]


@pytest.fixture
def built(monkeypatch):
    """What becomes of a page when the documentation is built."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")

    def build(name):
        page = read(name)
        for hook in ("rule_tables", "option_tables"):
            page = importlib.import_module(hook).on_page_markdown(page)
        assert "<!--" not in page
        return page

    return build


def test_the_reference_has_every_public_name_and_all_of_them_exist():
    pages = [ROOT / "docs" / "reference.md", *(ROOT / "docs" / "reference").glob("*.md")]
    texts = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    listed = re.findall(r"^::: ([\w.]+)$", texts, re.MULTILINE)
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert name == "dfpc_plugin.errors" or hasattr(importlib.import_module(module), attribute), name
    for name in dfpc.__all__:  # by the path that is imported, or, where a module shares its name, the one behind it
        paths = [path.rpartition(".")[0] for path in listed if path.rpartition(".")[2] == name]
        assert any(getattr(importlib.import_module(path), name) is getattr(dfpc, name) for path in paths), name


def test_errors_are_documented():
    found = {name: value for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert len(found) > 20 and all(value.__doc__ for value in found.values())


def test_the_rules_page_shows_every_operator_and_promise(built):
    page = built("docs/rules.md")
    for function in dfpc.registered_rules():
        assert f"`{importlib.import_module('rule_tables')._name(function)}`" in page
    rows = [row for row in rows_of(page) if row[0].startswith("`")]
    assert {row[1] for row in rows} == {convention.value for convention in dfpc.Convention} | {"by its parts"}
    assert {row[2] for row in rows} == {"followed", "by its parts"}
    assert all(len(row) == 4 and len(row[3]) > 2 for row in rows), "a formula for each, escaped for the table"


def test_the_recipes_page_shows_every_key_with_its_meaning(built):
    keys = {row[0].strip("`"): row for row in rows_of(built("docs/recipes.md")) if len(row) == 4}
    assert list(keys.pop("Key")) == ["Key", "Kind", "Default", "Meaning"]
    assert set(keys) == set(option_types(dfpc.Recipe))
    assert all(kind and meaning for _, kind, _, meaning in keys.values())
    assert keys["prune.max_ratio"][1:3] == ["number", "`0.9`"]
    assert keys["schedule"][1:3] == ["section", "`null`"]
    assert keys["data.mean"][1:3] == ["list of numbers", "`null`"]


def typed(field, hint):
    """How somebody types an option, by what it holds."""
    if section_type(hint) is not None:
        return f"`--{field.name}.*`"
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "`MODEL ...`" if typing.get_origin(hint) is tuple else "`MODEL`"
    return f"`--{field.name}`" + (f" `--no_{field.name}`" if field.default is True else "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_table_which_says_what_its_help_says(built, command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # so that no line of the help is broken
    assert main([command, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    section = built("docs/cli.md").partition(f"## dfpc {command}\n")[2].partition("\n## ")[0]
    header, *rows = rows_of(section)
    assert header == ["Option", "Kind", "Default", "Meaning"]
    if command in MAIN_OPTIONS:
        assert rows.pop(0)[0] == "`MODEL` `RECIPE.yaml`"
    config = COMMANDS[command][0]
    hints = typing.get_type_hints(config)
    assert [row[0] for row in rows] == [typed(field, hints[field.name]) for field in dataclasses.fields(config)]
    for field, (option, kind, default, meaning) in zip(dataclasses.fields(config), rows, strict=True):
        if section_type(hints[field.name]) is not None:
            assert kind == f"[section](recipes.md#{field.name})"
            assert len(meaning) > 3
            continue
        assert kind
        shown = {"required": "", "": "", f"`--{field.name}`": " (default: True)"}.get(
            default, f" (default: {default.strip('`')})"
        )
        name = re.escape(option.split()[0].strip("`"))
        assert re.search(rf"{name}.{{,40}}? {re.escape(meaning + shown)}(?! \()", told), option


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
            known = {field.name for field in dataclasses.fields(COMMANDS[command][0])} | {
                "config",
                "print_config",
                "help",
            }
            given = respelt(
                [option.replace("--no_", "--") for option in re.findall(r"--\w+", line)], COMMANDS[command][0]
            )
            assert {re.match(r"--(\w+)", option)[1] for option in given} <= known


def test_a_command_says_how_it_repairs_without_being_told(built):
    """`dfpc repair` without a method depends on the images."""
    rows = [row for row in rows_of(built("docs/cli.md")) if row[0] == "`--repair.*`"]
    assert any("auto is calibrate if data.train has images, else merge" in row[-1] for row in rows), rows


def test_the_reference_says_how_to_import_what_the_package_does_not_list(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    hook = importlib.import_module("import_paths").on_page_markdown
    assert hook("::: dfpc_plugin.pruning.prune.prune\n") == "::: dfpc_plugin.pruning.prune.prune\n"
    named = "::: dfpc_plugin.layers.LayerTable"
    assert hook(named) == named + "\n\n`from dfpc_plugin.layers import LayerTable`"
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for line in re.findall(r"`(from dfpc_plugin\S* import \w+)`", hook(page.read_text(encoding="utf-8"))):
            exec(line, {})
