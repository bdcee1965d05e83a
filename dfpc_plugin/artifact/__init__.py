"""Artifacts: pruned models as directories of plain data, saved and loaded without pickle."""

from __future__ import annotations

from dfpc_plugin.artifact.directory import require_place
from dfpc_plugin.artifact.load import load_pruned
from dfpc_plugin.artifact.manifest import Manifest, read_manifest
from dfpc_plugin.artifact.reading import ArtifactError, UnsavableModelError
from dfpc_plugin.artifact.records import Structure
from dfpc_plugin.artifact.restructure import restructure
from dfpc_plugin.artifact.save import save_pruned
from dfpc_plugin.artifact.structure import structure_of, tensors_of

__all__ = [
    "ArtifactError",
    "Manifest",
    "Structure",
    "UnsavableModelError",
    "load_pruned",
    "read_manifest",
    "require_place",
    "restructure",
    "save_pruned",
    "structure_of",
    "tensors_of",
]
