"""Data flows one way through the package: modules import only from those before them in this list, and never in a circle."""

import ast
from pathlib import Path

import pytest

import dfpc_plugin

ROOT = Path(dfpc_plugin.__file__).parent
ORDER = (
    "errors advice plain_data arguments starting registry require interrupts generators files display progress layers hooks preserve wrappers exchange eager tracing inputs families analyses ops trace computed_weights couplings "
    "cost surgery saliency state traced_call importance criteria selection host models runtimes latency repairing repaired_importance pruning artifact data evaluation "
    "exporting finetuning record report hub workflow comparing demo cli"
).split()
HOSTS = {
    "torch_pruning": {"traced_call", "importance", "host", "repaired_importance", "criteria", "demo"},
    "timm": {"models", "data", "finetuning", "demo"},
    "torchvision": {"models", "data"},
    "accelerate": {"finetuning"},
    "onnx": {"exporting", "runtimes"},
    "onnxruntime": {"exporting", "runtimes"},
    "huggingface_hub": {"hub"},
    "jinja2": {"report"},
    "yaml": {"workflow", "cli"},
    "sklearn": {"data", "demo"},
    "matplotlib": {"display", "report", "demo"},
    "jsonargparse": {"cli"},
}
"""Which parts may know which library."""


def part_of(path):
    """The file or folder directly below the package."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, in functions and for type checkers alone as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


FILES = [path for path in sorted(ROOT.rglob("*.py")) if part_of(path) not in ("__init__", "__main__")]


def name_of(path):
    """A file's module, without the name of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_files(path, modules):
    """Modules of the package that a file names in its imports; `from package import module` names the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("dfpc_plugin.") in modules else node.module for name in inner]
        yield from (name.removeprefix("dfpc_plugin.") for name in names if name.startswith("dfpc_plugin."))


def circles(graph):
    """Sets of nodes that can reach each other."""
    reached = {}
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph[node]
        reached[start] = seen
    return {
        frozenset(other for other in reached[node] if node in reached[other]) for node in graph if node in reached[node]
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    rank = ORDER.index(part_of(path))
    for name in imports(path):
        if name.startswith("dfpc_plugin."):
            assert ORDER.index(name.split(".")[1]) <= rank, f"{path} imports {name}"
        assert part_of(path) in HOSTS.get(name.split(".")[0], {part_of(path)}), f"{path} imports {name}"


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} == set(ORDER)


def test_circles_are_found():
    """What the next test relies on."""
    graph = {"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": [], "e": ["e"]}
    assert circles(graph) == {frozenset("bc"), frozenset("e")}


def test_files_do_not_import_each_other_in_circles():
    modules = {name_of(path) for path in FILES}
    graph = {name_of(path): sorted(set(imported_files(path, modules))) for path in FILES}
    assert set().union(*graph.values()) <= modules
    assert sum(map(len, graph.values())) > 1000, "the graph is that of the whole package"
    assert circles(graph) == set()
