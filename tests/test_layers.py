"""Data flows one way through the package: modules import only from those before them in this list."""

import ast
from pathlib import Path

import pytest

import dfpc_plugin

ROOT = Path(dfpc_plugin.__file__).parent
ORDER = (
    "errors versions require files inputs containers hooks preserve wrappers eager tracing families analyses ops trace couplings "
    "cost surgery coupling saliency state traced_call importance selection host models latency progress repairing repaired_importance criteria pruning artifact data evaluation "
    "exporting finetuning record report workflow demo cli"
).split()
HOSTS = {
    "torch_pruning": {"traced_call", "importance", "host", "repaired_importance", "criteria", "demo"},
    "timm": {"models", "data", "finetuning", "demo"},
    "torchvision": {"models", "data"},
    "accelerate": {"finetuning"},
    "onnx": {"exporting"},
    "onnxruntime": {"exporting"},
    "jinja2": {"report"},
    "yaml": {"workflow", "cli"},
    "sklearn": {"data", "demo"},
    "matplotlib": {"report", "demo"},
    "jsonargparse": {"cli"},
}
"""Which parts may know which library."""


def part_of(path):
    """The file or folder directly below the package."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Modules that a file imports when it runs; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


FILES = [path for path in sorted(ROOT.rglob("*.py")) if part_of(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    rank = ORDER.index(part_of(path))
    for name in imports(path):
        if name.startswith("dfpc_plugin."):
            assert ORDER.index(name.split(".")[1]) <= rank, f"{path} imports {name}"
        assert part_of(path) in HOSTS.get(name.split(".")[0], {part_of(path)}), f"{path} imports {name}"


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} == set(ORDER)
