"""Widths of a model's layers before and after pruning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn

from dfpc_plugin.display import Name, Shown, as_text, counted, csv_text, number_columns, plain_table
from dfpc_plugin.display.figures import draw_layers

_SHORT = 14
"""Layers in the short table, which fits a screen of 24 lines."""


@dataclass(frozen=True)
class LayerShape:
    """A layer's kind (class of the module, such as Conv2d) and its numbers of input and output channels."""

    kind: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class LayerWidths:
    """One layer before and after pruning.

    Attributes:
        layer: Its path in the model.
        kind: Class of the module, such as Conv2d.
        inputs_before: Input channels before pruning.
        inputs_after: Input channels after pruning.
        outputs_before: Output channels before pruning.
        outputs_after: Output channels after pruning.
    """

    layer: str
    kind: str
    inputs_before: int
    inputs_after: int
    outputs_before: int
    outputs_after: int

    @property
    def remaining(self) -> float:
        """Remaining share of its outputs, 0 to 1."""
        return self.outputs_after / self.outputs_before if self.outputs_before else 1.0


class LayerTable(tuple[LayerWidths, ...], Shown):
    """Layers with their widths before and after pruning, in the order in which the forward first uses them.

    A tuple of `LayerWidths`. `print` it for a table, or convert it with `to_dicts`, `to_csv` and `plot`.
    """

    def __getitem__(self, index: Any) -> Any:
        """Return one layer, or a table for a slice."""
        found = super().__getitem__(index)
        return LayerTable(found) if isinstance(index, slice) else found

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dict per layer, with the attributes of `LayerWidths` as keys."""
        return [asdict(layer) for layer in self]

    def to_csv(self) -> str:
        """Return one row per layer, with a header of the same keys."""
        return csv_text([*LayerWidths.__annotations__], (asdict(layer).values() for layer in self))

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the outputs of every layer before and after, and return the matplotlib figure.

        Args:
            path: Also write it to this file: .png, .svg or .pdf.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            OutputError: The file cannot be written.
        """
        rows = [(layer.layer, layer.outputs_before, layer.outputs_after) for layer in self]
        return draw_layers(rows, path)

    def short(self, upto: int = _SHORT, rest: str = "print(result.layers())") -> tuple[str, Table]:
        """Return a heading and a table of the layers that lost the largest shares of their outputs, in order.

        Args:
            upto: Show all layers of models that have at most as many.
            rest: What shows the other ones.
        """
        if len(self) <= upto:
            return f"Channels of {counted(len(self), 'layer')}", _table(self)
        lost = [number for number, layer in enumerate(self) if layer.outputs_after < layer.outputs_before]
        most = sorted(lost, key=lambda number: self[number].remaining)[:_SHORT]
        shown = [self[number] for number in sorted(most)]
        which = "most" if len(shown) < len(lost) else "outputs"
        return f"Channels of the layers that lost {which}; {rest} shows {len(self) - len(shown)} more", _table(shown)

    def __str__(self) -> str:
        """Return the table of all layers."""
        return as_text(f"Channels of {counted(len(self), 'layer')}", _table(self))

    def __repr__(self) -> str:
        """Return the short table."""
        return as_text(*self.short())

    def to_json(self) -> list[dict[str, Any]]:
        """Return the table for a record: widths are pairs of inputs and outputs."""
        return [
            {
                "path": layer.layer,
                "kind": layer.kind,
                "before": [layer.inputs_before, layer.outputs_before],
                "after": [layer.inputs_after, layer.outputs_after],
            }
            for layer in self
        ]

    @classmethod
    def from_json(cls, content: Iterable[Mapping[str, Any]]) -> LayerTable:
        """Read the result of `to_json`."""
        rows = ((row["path"], row["kind"], *row["before"], *row["after"]) for row in content)
        return cls(LayerWidths(path, kind, i, k, o, m) for path, kind, i, o, k, m in rows)


def layer_shapes(model: nn.Module) -> dict[str, LayerShape]:
    """Return the layers of a model by path: modules whose weight has two or more dimensions.

    Only sizes are read. The input projection of a `MultiheadAttention` has the path of its parameter.
    """
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            found[path] = _shape_of_recurrent(module)
        for name in ("weight", "in_proj_weight"):
            weight = _held(module, name)
            if weight is not None and weight.dim() > 1:
                parts = [path, name] if name != "weight" else [path]
                found[".".join(filter(None, parts)) or name] = _shape(module, weight)
    return found


def layer_table(
    before: Mapping[str, LayerShape], after: Mapping[str, LayerShape], order: Sequence[str] = ()
) -> LayerTable:
    """Combine the layers of a model before and after pruning, in the `order` of the forward; others come last."""
    position = {path: index for index, path in enumerate(order)}
    paths = [path for path in before if path in after]
    paths.sort(key=lambda path: position.get(path.removesuffix(".in_proj_weight"), len(position)))
    pairs = ((path, before[path], after[path]) for path in paths)
    return LayerTable(
        LayerWidths(p, old.kind, old.inputs, new.inputs, old.outputs, new.outputs) for p, old, new in pairs
    )


def weight_bytes(model: nn.Module) -> int:
    """Return the size of a model's parameters and buffers in bytes, about the size of its weight file."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _held(module: nn.Module, name: str) -> Tensor | None:
    """A weight of a module, or its original; nothing is computed, since that can change buffers."""
    if module._parameters.get(name) is not None:
        return module._parameters[name]
    parametrizations = module._modules.get("parametrizations")
    if isinstance(parametrizations, nn.ModuleDict) and name in parametrizations:
        return [*parametrizations[name].parameters(recurse=False)][-1]  # the one with the full shape comes last
    plain = vars(module).get(name)
    return plain if isinstance(plain, Tensor) else None


def _shape(module: nn.Module, weight: Tensor) -> LayerShape:
    groups = getattr(module, "groups", 1)
    first, second = weight.size(0), weight.size(1)
    if getattr(module, "transposed", False) is True or isinstance(module, nn.Embedding):
        return LayerShape(type(module).__name__, first, second * (1 if isinstance(module, nn.Embedding) else groups))
    return LayerShape(type(module).__name__, second * groups, first)


def _shape_of_recurrent(module: nn.Module) -> LayerShape:
    """Inputs of its first layer, and outputs of one direction."""
    suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
    into, back = (getattr(module, f"weight_{kind}{suffix}") for kind in ("ih", "hh"))
    return LayerShape(type(module).__name__, into.size(1), back.size(1))


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _table(layers: Sequence[LayerWidths]) -> Table:
    table = plain_table(Column("layer", min_width=14), "kind", *number_columns("inputs", "outputs", "remaining"))
    names = [layer.layer for layer in layers]
    for layer in layers:
        inputs = _change(layer.inputs_before, layer.inputs_after)
        outputs = _change(layer.outputs_before, layer.outputs_after)
        kind = Text(layer.kind, no_wrap=True, overflow="ellipsis")
        table.add_row(Name(layer.layer, among=names), kind, inputs, outputs, f"{layer.remaining:.0%}")
    return table
