import os
import subprocess
import sys

import pytest
from help_texts import live_help

import dfpc_plugin
from dfpc_plugin import cli
from dfpc_plugin.cli import demo, stored_help
from dfpc_plugin.cli.stored_help import FOLDER
from dfpc_plugin.errors import DFPCError


def test_help_names_the_commands(dfpc):
    code, out, err = dfpc("--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("demo", "score", "couplings", "check"))


@pytest.mark.parametrize("name", ["demo", "score", "couplings", "check"])
def test_every_option_is_described(dfpc, name):
    code, out, _ = dfpc(name, "--help")
    assert code == 0
    assert f"usage: dfpc {name}" in out
    assert "<class" not in out
    assert "null" not in out


def test_version(dfpc):
    assert dfpc("--version") == (0, f"dfpc {dfpc_plugin.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["scor"], ["prune", "--help"]])
def test_what_needs_no_model_does_not_import_pytorch(arguments):
    """PyTorch takes seconds to import, and these answers need a third of one."""
    program = f"""
import sys
from dfpc_plugin.cli import main
main({arguments})
print(sorted({{"torch", "timm", "numpy"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_described_by_the_docstring_of_its_function(dfpc, name):
    described = cli.COMMANDS[name][1].__doc__.partition("\n")[0]
    assert described in " ".join(dfpc("--help")[1].split())
    assert described in " ".join(dfpc(name, "--help")[1].split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_stored_help_is_that_of_the_options(dfpc, monkeypatch, name):
    """Compared word by word: versions of Python break lines in other places."""
    stored = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert stored.split() == live_help(name).split(), "store the help anew: python tests/cli/help_texts.py"
    assert dfpc(name, "--help") == dfpc(name, "-h") == (0, stored, "")
    monkeypatch.setenv("COLUMNS", "60")
    assert dfpc(name, "--help")[1] not in ("", stored)


def test_choices_of_other_packages_are_in_the_help(dfpc, monkeypatch):
    monkeypatch.setattr(stored_help, "entry_points", lambda group: ["an extension"])
    assert stored_help.help_text(["prune", "--help"]) is None


def test_nothing_asked_is_a_usage_error_with_help(dfpc):
    code, out, err = dfpc()
    assert (code, out) == (2, "")
    assert "score" in err


def test_a_misspelt_command_gets_the_nearest(dfpc):
    code, out, err = dfpc("scor", "test_vit")
    assert (code, out) == (2, "")
    assert "did you mean score?" in err


def test_without_jsonargparse_it_says_what_to_install(dfpc, monkeypatch):
    monkeypatch.delitem(sys.modules, "dfpc_plugin.cli.parser", raising=False)
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    code, out, err = dfpc("score", "test_vit")
    assert (code, out) == (2, "")
    assert err == (
        "This needs the package 'jsonargparse', which is not installed; run: pip install \"dfpc-plugin[cli]\", "
        'or in a clone of the repository: pip install -e ".[cli]"\n'
    )


def replace_run(monkeypatch, error):
    def run(config, consoles):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "check", (cli.COMMANDS["check"][0], run))


def test_errors_of_this_package_are_one_message(dfpc, monkeypatch):
    replace_run(monkeypatch, DFPCError("it [went] wrong"))
    assert dfpc("check", "m") == (1, "", "it [went] wrong\n")


def test_other_errors_keep_their_traceback(dfpc, monkeypatch):
    replace_run(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        dfpc("check", "m")


def test_an_interrupt_is_quiet(dfpc, monkeypatch):
    replace_run(monkeypatch, KeyboardInterrupt())
    assert dfpc("check", "m") == (130, "", "")


def test_the_demo_gets_its_configuration(dfpc, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(demo, "run_demo", lambda config, console, progress: seen.append(config))
    code, _, err = dfpc("demo", "--budgets", "0.8", "0.6", "--batch-size=4", "--output", tmp_path)
    assert (code, err) == (0, "")
    assert seen == [demo.DemoConfig(output=tmp_path, budgets=(0.8, 0.6), batch_size=4)]


def test_values_that_the_demo_refuses_are_usage_errors(dfpc):
    code, _, err = dfpc("demo", "--budgets", "2")
    assert code == 2
    assert "budgets[0] must be above 0 and below 1, not 2.0." in err


def test_a_reader_that_has_seen_enough_gets_no_more(dfpc, monkeypatch):
    replace_run(monkeypatch, BrokenPipeError())
    redirected = []
    monkeypatch.setattr("os.dup2", lambda source, target: redirected.append(target))
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)
    assert dfpc("check", "m") == (1, "", "")
    assert redirected == [1]


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_causes_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "dfpc_plugin", "score", "test_vit", "--csv", "-"]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
