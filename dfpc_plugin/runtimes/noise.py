"""Warnings of exporters: known ones are dropped, the tracer's are collected, others are passed on."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator

_KNOWN = re.compile(
    # The older exporter is called on purpose if the current one is missing or has failed; a note says so.
    r"You are using the legacy TorchScript-based ONNX export|The feature will be removed"
)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Yield a list that afterwards holds the tracer's warnings; drop known ones, and pass on all others."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    for warning in caught:
        text = str(warning.message)
        if warning.category.__name__ == "TracerWarning":
            place = f"{warning.filename}, line {warning.lineno}"
            said = text.splitlines()[0].rstrip(".!")
            told.append(f"Tracing has fixed what may depend on the input: {said} ({place}).")
        elif not _KNOWN.search(text):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
