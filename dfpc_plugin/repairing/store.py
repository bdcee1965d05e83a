"""Save solved layers in a directory, so that an interrupted repair can resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dfpc_plugin.errors import RepairError, system_reason
from dfpc_plugin.files import raw_bytes, write_tensors
from dfpc_plugin.repairing.report import LayerRepair
from dfpc_plugin.tracing.tree import tensors


def fingerprint(
    models: Sequence[nn.Module], settings: Mapping[str, Any], inputs: Any = (), *, shapes_only: bool = False
) -> str:
    """Return a hash that identifies a repair by its starting weights, its settings, and its inputs.

    `settings` is anything that JSON can hold, `inputs` any nest of tensors; with `shapes_only`, only their shapes
    count.
    """
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {getattr(tensor, 'dtype', type(tensor))}".encode())
            if isinstance(tensor, Tensor):  # modules may keep anything in a state dict
                digest.update(_bytes(tensor))
    for tensor in tensors(inputs):
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(b"" if shapes_only else _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return repr(tuple(tensor.shape)).encode() + raw_bytes(tensor)


def _checksum(name: str, text: str, content: Mapping[str, Tensor]) -> str:
    """SHA-256 of a file's content and name."""
    digest = hashlib.sha256(json.dumps([name, text]).encode())
    for key, tensor in sorted(content.items()):
        digest.update(f"{key} {tensor.dtype}".encode() + _bytes(tensor))
    return digest.hexdigest()


class Store:
    """Solved layers by number; without a directory, nothing is saved."""

    def __init__(self, directory: Path | None, mark: str) -> None:
        """Use `directory` for the repair with the fingerprint `mark`.

        Raises RepairError if it holds another repair or a damaged file, or cannot be created.
        """
        self._directory, self._mark = directory, mark
        if directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RepairError(f"Cannot keep the repair in '{directory}': {system_reason(error)}.") from error
        for path in sorted(directory.glob("*.safetensors")):
            self._read(path)

    def has(self, step: int | str) -> bool:
        """Whether something is saved under that number or name."""
        return self._directory is not None and self._path(step).exists()

    def save(self, step: int, matrix: Tensor, bias: Tensor, report: LayerRepair) -> None:
        """Save a layer's weights and report."""
        self.save_tensors(step, {"matrix": matrix, "bias": bias} if report.changed else {}, asdict(report))

    def load(self, step: int, like: Tensor) -> tuple[Tensor, Tensor, LayerRepair]:
        """Load a layer's weights and report; `like` is returned for whatever did not change."""
        found, said = self.load_tensors(step)
        report = LayerRepair(**said)
        return found.get("matrix", like).to(like), found.get("bias", like).to(like), report

    def save_tensors(self, name: int | str, content: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
        """Save tensors with metadata."""
        if self._directory is not None:
            path, text = self._path(name), json.dumps(dict(said))
            saved = {key: tensor.detach().cpu() for key, tensor in content.items()}
            checksum = _checksum(path.name, text, saved)
            write_tensors(path, saved, {"repair": self._mark, "said": text, "sha256": checksum})

    def load_tensors(self, name: int | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Load tensors and their metadata."""
        content, text = self._read(self._path(name))
        return content, json.loads(text)

    def _read(self, path: Path) -> tuple[dict[str, Tensor], str]:
        """The tensors of a file, and its metadata as text; raises RepairError if it is damaged, renamed or another's."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                content = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise RepairError(
                f"'{path}' cannot be read ({error}); remove it, and the layer is solved again."
            ) from error
        if metadata.get("repair") != self._mark:
            raise RepairError(
                f"'{self._directory}' holds the beginnings of another repair (of another model, or with other settings or "
                f"images); name another directory, or remove it."
            )
        text = metadata.get("said", "")
        if metadata.get("sha256") != _checksum(path.name, text, content):
            raise RepairError(f"'{path}' is not what was written there; remove it, and the layer is solved again.")
        return content, text

    def _path(self, name: int | str) -> Path:
        assert self._directory is not None
        return self._directory / (f"layer-{name:05d}.safetensors" if isinstance(name, int) else f"{name}.safetensors")
