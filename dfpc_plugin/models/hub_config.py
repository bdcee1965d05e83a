"""Write the `config.json` by which the Hugging Face hub shows and finds a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm.models._hub import save_config_for_hf
from torch import nn

from dfpc_plugin.models.catalogue import library_of
from dfpc_plugin.models.spec import ModelSpec
from dfpc_plugin.models.timm_library import TimmLibrary

_LIBRARY = "dfpc-plugin"


def write_hub_config(model: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the hub's configuration of a model, built by `spec` and pruned since, to `path`: timm's own for timm's."""
    path.write_text(json.dumps(_config_of(model, spec, path), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _config_of(model: nn.Module, spec: ModelSpec, path: Path) -> dict[str, Any]:
    marks = {"library_name": _LIBRARY, "pruned": True}
    whole = getattr(model, "pretrained_cfg", None) and hasattr(model, "num_classes")  # no feature extractor
    if whole and isinstance(library_of(spec.name), TimmLibrary):
        where: Any = path  # timm 1.0.9 needs a Path, and 1.0.31 says str
        save_config_for_hf(model, where)  # timm writes it, and has no function that returns it
        return {**json.loads(path.read_text(encoding="utf-8")), **marks}
    classes = spec.options.get("num_classes", getattr(model, "num_classes", None))
    known = {"num_classes": classes} if isinstance(classes, int) else {}
    return {"architecture": spec.name, **known, **marks}
