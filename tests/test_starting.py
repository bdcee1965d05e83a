"""Ctrl-C while torch is being imported, by a torch that presses it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dfpc_plugin

ROOT = Path(dfpc_plugin.__file__).parents[1]


@pytest.fixture
def run(tmp_path):
    """Run Python with a torch whose import is interrupted."""
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    (tmp_path / "dfpc").write_text("import sys\nfrom dfpc_plugin.cli import main\nsys.exit(main())\n")

    def run(*arguments):
        path = os.pathsep.join((str(tmp_path), str(ROOT)))
        return subprocess.run(
            [sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=25,
            cwd=tmp_path, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("command", [("-m", "dfpc_plugin", "score"), ("dfpc", "score")])
def test_a_command_ends_without_a_traceback(run, command):
    done = run(*command)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_program_that_uses_the_package_gets_an_error_as_ever(run):
    done = run("-c", "import dfpc_plugin; dfpc_plugin.bgsc")
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr
