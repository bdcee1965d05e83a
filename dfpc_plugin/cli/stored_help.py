"""The help of commands from the folder `help`, so that asking for it imports neither PyTorch nor the command.

`python tests/cli/help_texts.py` writes the folder anew from the commands' options; a test compares the two.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from dfpc_plugin.registry import EXTENSIONS

FOLDER = Path(__file__).with_name("help")
WIDTH = 80
"""Columns of the stored text."""


def help_text(argv: Sequence[str]) -> str | None:
    """Return what `dfpc COMMAND --help` prints.

    None for any other command line, for narrower terminals, and where packages, or the program that calls the command and
    has imported PyTorch already, may add choices to options.
    """
    asked = len(argv) == 2 and argv[1] in ("-h", "--help") and "torch" not in sys.modules
    if not asked or shutil.get_terminal_size().columns < WIDTH:
        return None
    path = FOLDER / f"{argv[0]}.txt"
    return None if entry_points(group=EXTENSIONS) or not path.is_file() else path.read_text(encoding="utf-8")
