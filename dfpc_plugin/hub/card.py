"""The model card of a saved model: what it is, its results, and how to load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dfpc_plugin.artifact import Manifest
from dfpc_plugin.models.catalogue import library_of
from dfpc_plugin.models.timm_library import TimmLibrary
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.figures import exports, figures
from dfpc_plugin.require import require

_TAGS = ("pruning", "structured-pruning", "model-compression", "dfpc")


def model_card(manifest: Manifest, repo_id: str, *, license: str | None = None, base_model: str | None = None) -> str:
    """Return the README.md of a repository for a saved model.

    Args:
        manifest: The saved model's manifest; its record has the results. Without a record, the card has none.
        repo_id: The repository, for the card's example.
        license: The hub's name of the license; left out by default.
        base_model: The repository of the unpruned model; left out by default.

    Raises:
        ReportError: The record was not written by this library.
        MissingDependencyError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "huggingface_hub", "hub")
    record = manifest.record or {}
    field = Field(record if "prune" in record else {"prune": record})  # `save_pruned` stores only the result of `prune`
    timms = not manifest.spec.own_code and isinstance(library_of(manifest.spec.name), TimmLibrary)
    tags = [*_TAGS, *(["timm"] if timms else [])]
    data = hub.ModelCardData(library_name="dfpc-plugin", tags=tags, license=license, base_model=base_model)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    parts = [
        f"# {_plain(repo_id.rpartition('/')[2])}",
        _headline(manifest, field),
        *_tables(field),
        *_usage(manifest, repo_id),
        f"Saved on {_plain(manifest.created)} with {_plain(versions)}.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _headline(manifest: Manifest, record: Field) -> str:
    """A paragraph: what was pruned, how far, and whether it was repaired."""
    method = record["prune"]["repair"]["method"].text()
    asked = record["asked"].text()
    target = f" to the target `{_code(asked)}`" if asked else ""
    repaired = f" and repaired by `{_code(method)}`" if method and method != "none" else ""
    return (
        f"`{_code(manifest.spec.name)}`, pruned{target}{repaired} with "
        f"[DFPC](https://openreview.net/forum?id=mhnHqRqcjYU) in dfpc_plugin."
    )


def _tables(record: Field) -> Iterator[str]:
    """A section for each kind of result in the record."""
    costs = figures(record)
    if costs is not None:
        yield "## Before and after"
        yield _table(("", "Before", "After", "Remaining"), costs["rows"])
        if costs["threads"] is not None:
            threads = "1 thread" if costs["threads"] == 1 else f"{costs['threads']} threads"
            yield f"Latency was measured{costs['runtime']} with {threads}, both models in turns. {costs['speedup']}".rstrip()
    accuracy = [_accuracy(entry) for entry in record["evaluations"].items()]
    if accuracy:
        yield "## Accuracy"
        yield _table(("Stage", "Data", "Images", "Top-1", "Top-5"), accuracy)
    files = exports(record)
    if files is not None:
        yield "## Exported files"
        rows = [
            (row["path"], row["kind"], row["size"], row["difference"], row["same"], ", ".join(row["latency"]))
            for row in files["rows"]
        ]
        yield _table(("File", "Kind", "Size", "Difference", "Same prediction", "Latency"), rows)
    pruning = record["prune"]
    notes = list(dict.fromkeys((*pruning["notes"].texts(), *pruning["repair"]["notes"].texts())))
    if notes:
        yield "## Notes"
        yield "\n".join(f"- {_plain(note)}" for note in notes)


def _accuracy(entry: Field) -> tuple[str, ...]:
    top1, top5, count = (entry[key].number() for key in ("top1", "top5", "count"))
    return (
        entry["stage"].text(),
        entry["data"].text(),
        "" if count is None else f"{count:.0f}",
        "" if top1 is None else f"{top1:.2f}%",
        "" if top5 is None else f"{top5:.2f}%",
    )


def _usage(manifest: Manifest, repo_id: str) -> Iterator[str]:
    own = ", factory=build)  # a function of your own that builds the unpruned model"
    yield "## Use it"
    call = f'model = from_pretrained("{repo_id}"' + (own if manifest.spec.own_code else ")")
    yield f"```python\nfrom dfpc_plugin import from_pretrained\n\n{call}\n```"
    yield (
        "The files are safetensors and JSON; loading them runs no code of this repository. The unpruned model is built by the "
        "library that has it and is given the saved shapes and weights."
    )


def _table(names: tuple[str, ...], rows: Any) -> str:
    """A Markdown table without its empty columns."""
    cells = [[_plain(str(cell)) for cell in row] for row in rows]
    used = [column for column in range(len(names)) if column == 0 or any(row[column] for row in cells)]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(line[column] for column in used) + " |" for line in lines)


_SPECIAL: Mapping[int, str] = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#"})


def _plain(text: str) -> str:
    """Text in one line, escaped for Markdown."""
    return " ".join(text.split()).translate(_SPECIAL)


def _code(text: str) -> str:
    """Text for use between backticks."""
    return " ".join(text.replace("`", "'").split())
