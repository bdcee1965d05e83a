"""What a run must have in common with the one that it takes up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from dfpc_plugin.finetuning.errors import CheckpointError
from dfpc_plugin.repairing.store import fingerprint

__all__ = ["differences", "require_same", "run_identity"]

_FREE = ("workers", "checkpoint_every")
"""Settings that change nothing of what comes out."""


def run_identity(
    model: nn.Module, teacher: nn.Module | None, images: int, processes: int, what: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what decides how a run goes, as JSON has it; `what` is its kind and its settings, `images` their number."""
    return {
        "model": fingerprint([model], {}),
        "teacher": None if teacher is None else fingerprint([teacher], {}),
        "images": images,
        "processes": processes,
        **what,
    }


def require_same(saved: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> None:
    """Raise a CheckpointError that names the first difference, unless a run is the one that was saved."""
    for name, then, now in differences(saved, mine):
        if name in ("model", "teacher"):
            raise CheckpointError(
                f"The run in '{where}' was started with another {name}: its structure or weights are not those of the one that was "
                f"given; resume with the {name} that it was started with, as it was then, or start anew in an empty directory."
            )
        raise CheckpointError(
            f"The run in '{where}' was started with {name}={then!r} and is resumed with {name}={now!r}; resume it with the same, "
            f"or start anew in an empty directory."
        )


def differences(saved: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what decides what comes out of a run and is not the same in two: its dotted path, and both values."""
    for name in dict.fromkeys((*saved, *mine)):
        then, now = saved.get(name), mine.get(name)
        if then == now or name in _FREE:
            continue
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            yield from differences(then, now, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", then, now
