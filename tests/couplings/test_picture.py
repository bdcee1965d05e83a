"""The coupling graph as a picture, and couplings as text."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import timm
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import Couplings, map_couplings
from dfpc_plugin.files import OutputError

IMAGE = torch.randn(1, 3, 32, 32)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def couplings():
    return dfpc.find_couplings(timm.create_model("resnet18"), IMAGE)


def rows_of(picture):
    """Layers with the y of their rows; lanes with x and first and last y; dots as (x, y, whether solid)."""
    root = ElementTree.fromstring(picture)
    names = {
        text.text.strip(): float(text.get("y")) - 4 for text in root.iter(f"{SVG}text") if text.get("class") == "name"
    }
    lanes = []
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == "lane" and path.find(f"{SVG}title") is not None:
            x, top, bottom = map(float, re.fullmatch(r"M([\d.]+) ([\d.]+)V([\d.]+)", path.get("d")).groups())
            lanes.append((path.find(f"{SVG}title").text, x, top, bottom))
    dots = [
        (float(dot.get("cx")), float(dot.get("cy")), dot.get("fill") != "#fff")
        for dot in root.iter(f"{SVG}circle")
        if dot.get("stroke-width")
    ]
    return names, lanes, dots


def test_every_layer_has_a_row_with_its_dots_and_couplings_do_not_overlap(couplings):
    names, lanes, dots = rows_of(couplings.plot())
    assert list(names) == sorted(names, key=names.get)
    assert list(names)[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"] and list(names)[-1] == "fc"
    x_of = {title: x for title, x, _, _ in lanes}
    wanted = set()
    for coupling in couplings:
        x = x_of[str(coupling)]
        wanted |= {(x, names[layer], True) for layer in coupling.feed_in}
        wanted |= {(x, names[layer], False) for layer in coupling.feed_out if layer not in coupling.feed_in}
    assert set(dots) == wanted
    for i, (_, x, top, bottom) in enumerate(lanes):
        for _, other, start, end in lanes[i + 1 :]:
            assert x != other or bottom < start or end < top


def test_rows_are_in_the_order_of_the_forward_not_of_the_declaration():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(8, 2), nn.Linear(3, 8)

        def forward(self, x):
            return self.last(self.first(x))

    found = map_couplings(Backwards(), torch.randn(2, 3))
    assert found.order == ("first", "last")
    assert list(rows_of(found.couplings.plot())[0]) == ["first", "last"]


def test_the_picture_is_written_and_shown(couplings, tmp_path):
    picture = couplings.plot(tmp_path / "couplings.svg")
    assert (tmp_path / "couplings.svg").read_text() == picture == picture._repr_svg_()
    assert re.fullmatch(r"<SVG picture, \d+ x \d+, [\d,]+ characters>", repr(picture))
    assert f"<p>{couplings.summary}</p><svg" in couplings._repr_html_()
    with pytest.raises(OutputError):
        couplings.plot(tmp_path / "no" / "such" / "place.svg")


def test_names_are_escaped():
    model = nn.ModuleDict({"<b>&": nn.Linear(3, 4), "end": nn.Linear(4, 2)})
    found = dfpc.find_couplings(model, torch.randn(1, 3), lambda m, x: m["end"](m["<b>&"](x)))
    assert "<b>&" in rows_of(found.plot())[0]
    assert "<b>" not in found._repr_html_()


def test_a_list_as_before_that_shows_itself_in_a_screen(couplings):
    assert isinstance(couplings, list) and couplings[0] in couplings and len(couplings[:2]) == 2
    lines = repr(couplings).splitlines()
    assert lines[0] == couplings.summary == "14 couplings, 12 can be pruned"
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert "layer2.0.conv2 +2" in repr(couplings)
    many = Couplings(list(couplings) * 10)
    assert len(repr(many).splitlines()) <= 24 and repr(many).endswith("and 124 more; print it for all of them")
    assert str(many).count("layer1.0.conv1 ") >= 10 and max(map(len, str(many).splitlines())) <= 80


def test_names_of_a_transformer_are_whole_beside_its_reasons():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=11, embed_dim=12)
    found = dfpc.find_couplings(model, IMAGE)
    for text in (repr(found), str(found)):
        assert re.search(r" patch_embed\.proj \+22 +blocks\.0\.attn\.qkv \+22 ", text)
        assert "…" not in text.replace("…\n", "\n"), "only reasons are cut off"
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "mobilevit_xxs"])
def test_long_names_have_one_form_in_one_line_each(name):
    model = timm.create_model(name)
    found = dfpc.find_couplings(
        model, torch.randn(1, 3, 224, 224, device="meta") if "swin" in name else torch.randn(2, 3, 64, 64)
    )
    lines = repr(found).splitlines()[4:-2]
    assert len(lines) == 16
    assert all(re.match(r" [a-z](_[a-z])?\.\S+( \+\d+)? ", line) for line in lines), (
        "initials of all parts but the last"
    )
