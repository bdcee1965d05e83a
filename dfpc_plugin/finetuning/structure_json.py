"""A model's structure as JSON has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dfpc_plugin.artifact.structure import AbsentTensor, Attribute, SavedTensor, Structure

__all__ = ["structure_from_json", "structure_to_json"]


def structure_to_json(structure: Structure) -> dict[str, Any]:
    """Return the same as dicts, lists, numbers and strings."""
    return asdict(structure)


def structure_from_json(content: Mapping[str, Any]) -> Structure:
    """Read what `structure_to_json` has written."""
    return Structure(
        tuple(SavedTensor(**_with_shapes(entry)) for entry in content["tensors"]),
        tuple(AbsentTensor(**_with_shapes(entry)) for entry in content["absent"]),
        tuple(Attribute(**entry) for entry in content["attributes"]),
    )


def _with_shapes(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
