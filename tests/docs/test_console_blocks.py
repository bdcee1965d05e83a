"""Commands on the pages exist, with their options and files; those that are marked run, and print what the page shows."""

import subprocess
import sys

import pytest
from doc_pages import PAGES, ROOT, commands, missing, write_titled

from dfpc_plugin.cli import COMMANDS, MAIN_OPTIONS, main
from dfpc_plugin.cli.parser import Command, parse

OTHERS = {"pip", "pytest", "ruff", "mypy", "mkdocs", "ls", "source", "python3"}
"""What else a page may call; their options are not looked at."""


def arguments_of_dfpc(words):
    """What is passed to this package's command, however it is started; None if something else is."""
    if words[0].rpartition("/")[2] == "dfpc":
        return list(words[1:])
    if "dfpc_plugin" in words and words[words.index("dfpc_plugin") - 1] == "-m":
        return list(words[words.index("dfpc_plugin") + 1 :])
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.name)
def test_commands_exist(page, tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    write_titled(page, tmp_path)
    known = {name: Command(config, "", MAIN_OPTIONS.get(name)) for name, (config, _) in COMMANDS.items()}
    for command in commands(page):
        arguments = arguments_of_dfpc(command.words)
        program = command.words[0].rpartition("/")[2]
        where = f"{page}, line {command.line}: {' '.join(command.words)}"
        if arguments is not None:
            try:
                parse(arguments, known)
            except SystemExit as stop:  # --print_config, --help
                assert not stop.code, where
            if command.target:
                (tmp_path / command.target).write_text(capsys.readouterr().out, encoding="utf-8")
        elif program == "python":
            assert (tmp_path / command.words[1]).is_file() or (ROOT / command.words[1]).is_file(), where
        else:
            assert program in OTHERS or (ROOT / command.words[0]).is_file(), where


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(commands(page, marked="run"))], ids=lambda page: page.name
)
def test_marked_commands_print_what_is_shown(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    write_titled(page, tmp_path)
    for command in commands(page, marked="run"):
        where = f"{page}, line {command.line}: {' '.join(command.words)}"
        arguments = arguments_of_dfpc(command.words)
        if arguments is not None:
            assert main(arguments) == 0, f"{where}\n{capsys.readouterr().err}"
            printed = capsys.readouterr().out
        else:
            words = [sys.executable if word == "python" else word for word in command.words]
            printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert missing(command.shown, printed) == [], f"{where}\nprints\n{printed}"
