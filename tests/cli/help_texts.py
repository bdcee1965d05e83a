"""What `dfpc COMMAND --help` prints; as a program, store it in the package: `python tests/cli/help_texts.py`."""

import contextlib
import io
import os
from unittest import mock

from dfpc_plugin.cli import COMMANDS, _run
from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.stored_help import FOLDER, WIDTH


def live_help(name):
    """The help of a command, made from its options."""
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=str(WIDTH)),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        _run([name, "--help"], Consoles())
    return out.getvalue()


if __name__ == "__main__":
    for name in COMMANDS:
        (FOLDER / f"{name}.txt").write_text(live_help(name), encoding="utf-8")
