import csv
import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from dfpc_plugin.couplings import map_couplings, prunable_share
from dfpc_plugin.models import build_model, example_inputs
from dfpc_plugin.report.couplings import ModelCouplings, UnknownCouplingError, couple_model
from dfpc_plugin.report.export import couplings_to_csv, couplings_to_json
from dfpc_plugin.report.tables import print_coupling, print_couplings


class Grouped(nn.Module):
    """A convolution in two groups between two layers; the classifier reads maps of nine positions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 6, 1, groups=2)
        self.last = nn.Linear(54, 5)

    def forward(self, x):
        return self.last(self.grouped(self.first(x)).flatten(1))


class Mixer(nn.Module):
    """A layer over the positions of its input, which must stay."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.tokens(x.transpose(1, 2)).transpose(1, 2)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, highlight=False)


def coupled(name, size=None):
    model = build_model(name)
    return couple_model(name, model, example_inputs(model, name, size=size))


@pytest.fixture(scope="module")
def vit():
    return coupled("test_vit")


def of(network, inputs, **changes):
    found = map_couplings(network, inputs)
    values = {"model": "mine", "input_shapes": (tuple(inputs.shape),), "seconds": 1.25}
    values |= {"coupling_map": found, "sizes": {path: tuple(p.shape) for path, p in network.named_parameters()}}
    macs, parameters = prunable_share(found)
    return ModelCouplings(**values | {"prunable_macs": macs, "prunable_parameters": parameters} | changes)


@pytest.fixture
def grouped():
    return of(Grouped(), torch.ones(1, 3, 3, 3))


def printed(console):
    return " ".join(console.file.getvalue().split())


def test_json_has_every_coupling_and_the_shapes_of_its_slices(vit):
    content = json.loads(couplings_to_json(vit), parse_constant=pytest.fail)
    assert content["input_shapes"] == [[1, 3, 160, 160]]
    assert content["prunable_macs"] == vit.prunable_macs
    assert content["prunable_parameters"] == vit.prunable_parameters
    for entry, coupling in zip(content["couplings"], vit.couplings, strict=True):
        assert (entry["units"], entry["blocks"]) == tuple(reversed(coupling.blocks.shape))
        assert entry["width"] == entry["units"] * entry["blocks"]
        assert entry["protected"] == coupling.protected
        assert (entry["feed_in"], entry["feed_out"]) == (list(coupling.feed_in), list(coupling.feed_out))
        for found, piece in zip(entry["slices"], coupling.slices, strict=True):
            assert found["shape"] == list(piece.indices.shape)
            assert (found["tensor"], found["dim"], found["role"]) == (piece.tensor, piece.dim, piece.role)
            assert piece.indices.max() < found["size"][found["dim"]] * found["groups"]


def test_csv_has_a_row_for_every_slice(vit):
    rows = list(csv.DictReader(io.StringIO(couplings_to_csv(vit))))
    assert len(rows) == sum(len(coupling.slices) for coupling in vit.couplings)
    assert rows[0] == {
        "coupling": "1", "name": "patch_embed.proj", "units": "64", "blocks": "1", "protected": "",
        "tensor": "cls_token", "dim": "2", "groups": "1", "per_unit": "1", "role": "transform",
    }  # fmt: skip


def test_names_find_couplings_and_layers_that_write_them(vit):
    (coupling,) = vit.named("blocks.3.attn.proj")
    assert coupling.name == "patch_embed.proj"
    assert [c.width for c in vit.named("patch_embed.proj")] == [64, 3]
    with pytest.raises(UnknownCouplingError, match="did you mean blocks"):
        vit.named("blocks.3.attn.prj")
    with pytest.raises(UnknownCouplingError, match="the table lists their names"):
        vit.named("§")


def test_every_coupling_is_of_one_kind(vit):
    kinds = [vit.prunable, vit.protected, vit.positions]
    assert sum(map(len, kinds)) == len(vit.couplings)
    assert [coupling.name for coupling in vit.protected] == ["head"]
    assert all(not coupling.feed_in for coupling in vit.positions)


def test_shares_are_counted_by_hand(grouped):
    """Of the parameters only the biases of the classifier stay, as its weights' rows go by their columns."""
    total = sum(torch.Size(size).numel() for size in grouped.sizes.values())
    assert grouped.prunable_macs == 1.0
    assert grouped.prunable_parameters == pytest.approx((total - 5) / total)


def test_a_layer_between_protected_couplings_counts_for_nothing():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.only = nn.Linear(4, 6)

        def forward(self, x):
            return self.only(x)

    found = of(Fixed(), torch.ones(1, 4))
    assert (found.prunable_macs, found.prunable_parameters) == (0.0, 0.0)


def test_a_shared_parameter_is_counted_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight
            self.first, self.last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.last(self.two(self.one(self.first(x))))

    model = Tied()
    found = map_couplings(model, torch.ones(1, 3))
    assert prunable_share(found) == (1.0, 1.0)


def test_detectors_are_looked_at_with_their_heads():
    found = coupled("torchvision/ssdlite320_mobilenet_v3_large", size=64)
    assert any(layer.startswith("head.") for coupling in found.prunable for layer in coupling.feed_out)
    assert found.prunable_parameters > 0.9


def test_couplings_that_differ_by_numbers_share_a_row(console):
    found = of(nn.Sequential(Mixer(), Mixer(), Mixer()), torch.ones(1, 4, 5))
    print_couplings(found, console)
    assert "0.tokens and 2 alike" in printed(console)
    assert "2.tokens" not in printed(console)
    print_couplings(found, console, everything=True)
    assert "2.tokens" in printed(console)


def test_blocks_are_shown_as_units_by_blocks(grouped, console):
    print_couplings(grouped, console)
    row = next(line for line in console.file.getvalue().splitlines() if line.strip().startswith("first"))
    assert row.split()[:5] == ["first", "4", "4", "x", "2"]


def test_groups_and_indices_per_unit_are_shown(grouped, console):
    print_coupling(grouped.named("grouped")[0], grouped, console)
    assert "last.weight 1 54 18 feed-out" in printed(console)
    print_coupling(grouped.named("first")[0], grouped, console)
    assert "grouped.weight 1 4 x 2 groups 2 feed-out" in printed(console)


def test_protected_couplings_say_so(vit, console):
    print_coupling(vit.named("head")[0], vit, console)
    assert "Protected: is the model's output" in printed(console)
    assert "1,000 units, 1,000 channels, 0.2% of the MACs" in printed(console)


def test_brackets_in_names_are_no_markup(console):
    model = nn.Sequential()
    model.add_module("[red]a", nn.Linear(3, 4))
    model.add_module("[bold]b", nn.Linear(4, 2))
    found = of(model, torch.ones(1, 3), model="[bold]x")
    print_couplings(found, console)
    print_coupling(found.prunable[0], found, console)
    assert "[bold]x, input 1x3" in printed(console)
    assert "[red]a 4 4 100.0% 1 [bold]b" in printed(console)
    assert "[red]a.weight" in printed(console)


def test_couplings_are_those_of_the_library(vit):
    model = build_model("test_vit", meta=True)
    names = [coupling.name for coupling in map_couplings(model, torch.ones(1, 3, 160, 160)).couplings]
    assert [coupling.name for coupling in vit.couplings] == names
