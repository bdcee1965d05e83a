"""Widths of layers before and after, in the order of the forward."""

import csv
import io
import json
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dfpc_plugin as dfpc
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.files import OutputError
from dfpc_plugin.layers import LayerTable, LayerWidths, layer_shapes, layer_table, weight_bytes

IMAGE = torch.randn(1, 3, 8, 8)


class Backwards(nn.Module):
    """Declares its layers in another order than it uses them, and one that it never uses."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(16, 5)
        self.second = nn.Conv2d(12, 16, 3)
        self.first = parametrizations.weight_norm(nn.Conv2d(3, 12, 3))

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def result():
    return dfpc.prune(Backwards().eval(), IMAGE, "ratio=0.3", max_ratio=0.35)  # both convolutions lose some


def test_layers_come_in_the_order_of_the_forward_with_the_widths_that_the_models_have(result):
    layers = result.layers()
    assert [layer.layer for layer in layers] == ["first", "second", "head", "unused"]
    first, second, head, unused = layers
    model = result.model
    assert (first.inputs_before, first.outputs_before, first.outputs_after) == (3, 12, model.first.weight.shape[0])
    assert (second.inputs_after, second.outputs_after) == (model.second.weight.shape[1], model.second.weight.shape[0])
    assert (head.inputs_before, head.inputs_after, head.outputs_after) == (16, model.head.in_features, 5)
    assert first.outputs_after < 12 and unused.remaining == 1.0
    assert first.remaining == first.outputs_after / 12


def test_as_dicts_csv_and_json(result):
    layers = result.layers()
    rows = list(csv.DictReader(io.StringIO(layers.to_csv())))
    assert [{key: str(value) for key, value in row.items()} for row in layers.to_dicts()] == rows
    assert rows[0]["layer"] == "first" and rows[0]["kind"] == "ParametrizedConv2d"
    assert LayerTable.from_json(json.loads(json.dumps(layers.to_json()))) == layers
    assert result.to_json()["layers"] == layers.to_json()


def test_reading_sizes_computes_nothing():
    """Spectral norm changes its buffers when its weight is asked for in training."""
    layer = parametrizations.spectral_norm(nn.Linear(4, 6)).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert [(s.inputs, s.outputs) for s in layer_shapes(nn.Sequential(layer)).values()] == [(4, 6)]
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv2d(6, 9, 1, groups=3), (6, 9)),
        (nn.ConvTranspose2d(6, 9, 1, groups=3), (6, 9)),
        (nn.Embedding(50, 7), (50, 7)),
        (nn.LSTM(6, 9, 2, bidirectional=True), (6, 9)),
        (nn.LSTM(6, 9, proj_size=5), (6, 5)),
        (nn.GRUCell(6, 9), (6, 9)),
        (nn.BatchNorm2d(4), None),
    ],
)
def test_sizes_of_kinds_of_layers(layer, sizes):
    found = [(shape.inputs, shape.outputs) for shape in layer_shapes(nn.Sequential(layer)).values()]
    assert found == ([] if sizes is None else [sizes])


def test_attention_has_the_layer_of_its_inputs_too():
    assert [*layer_shapes(nn.MultiheadAttention(8, 2))] == ["in_proj_weight", "out_proj"]


def long_table(count=60):
    name = "stages.{}.blocks.{}.token_mixer.convolution.depthwise.projection"
    rows = [LayerWidths(name.format(i % 4, i), "Conv2d", 64, 64, 100, 100 - i) for i in range(count)]
    return LayerTable(rows)


def test_tables_fit_and_break_no_name():
    table = long_table()
    assert len(str(table).splitlines()) > 60
    for text in (str(table), repr(table)):
        assert max(map(len, text.splitlines())) <= 80
        rows = [line for line in text.splitlines() if "Conv2d" in line]
        assert all(row.split()[0].endswith("projection") for row in rows)
    short = repr(table).splitlines()
    assert len(short) <= 20
    assert "shows 46 more" in short[0]
    shown = [int(line.split()[-2]) for line in short if "Conv2d" in line]  # 100 → what remains
    assert shown == sorted((100 - i for i in range(60)), reverse=True)[-14:]  # the most is lost by the last ones


def test_an_order_that_does_not_know_a_layer_puts_it_last():
    shapes = layer_shapes(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
    assert [layer.layer for layer in layer_table(shapes, shapes, ["1"])] == ["1", "0"]


def test_bytes_of_weights():
    assert weight_bytes(nn.Linear(3, 4).half()) == 2 * (12 + 4)


def test_the_plot_has_a_bar_before_and_after_for_every_layer(result, tmp_path):
    pytest.importorskip("matplotlib")
    figure = result.plot(tmp_path / "layers.svg")
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]
    assert widths == [[x.outputs_before for x in result.layers()], [x.outputs_after for x in result.layers()]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["first", "second", "head", "unused"]
    assert (tmp_path / "layers.svg").read_bytes().startswith(b"<?xml")
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match=r"end its name in \.png, \.svg or \.pdf"):
        result.plot(tmp_path / "layers.txt")
    again = tmp_path / "again.svg"
    result.plot(again)
    assert again.read_bytes() == (tmp_path / "layers.svg").read_bytes()


def test_without_matplotlib_the_plot_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="plots"):
        result.plot()
