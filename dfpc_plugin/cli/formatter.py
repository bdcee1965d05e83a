"""Help texts without Python's type names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import jsonargparse

__all__ = ["PlainHelpFormatter"]

_NOTHING: tuple[object, ...] = (argparse.SUPPRESS, "", (), [], {})


class PlainHelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Adds the default to an option's description, if it says something, and nothing else."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default is None or default is False or default in _NOTHING or not action.option_strings:
            return text
        if isinstance(default, Sequence) and not isinstance(default, str):
            default = " ".join(map(str, default))
        return f"{text} (default: {default})"
