import io

import pytest
import torch
from rich.console import Console

from dfpc_plugin import LayerCoupling, MissingOperator, Saliency
from dfpc_plugin.report.check import ModelCheck
from dfpc_plugin.report.summary import ModelScore
from dfpc_plugin.report.tables import print_check, print_score


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, highlight=False)


def of(saliency, **changes):
    values = {"model": "mine", "pretrained": True, "ranking": "relative", "seconds": 1.25}
    return ModelScore(**values | {"input_shapes": ((1, 3, 8, 8),), "saliency": saliency} | changes)


def printed(console):
    return " ".join(console.file.getvalue().split())


@pytest.fixture
def saliency():
    names = [f"stages.{i}.blocks.10.attention.projection" for i in range(4)]
    scores = {name: torch.tensor([2.0, 1.0, 8.0]) * 10**i for i, name in enumerate(names)}
    return Saliency(
        scores | {"narrow": torch.tensor([7.0])},
        (LayerCoupling(tuple(names[:3]), ("x", "y")), LayerCoupling((names[3], "narrow"), ("z",))),
    )


def test_says_what_was_scored(saliency, console):
    print_score(of(saliency), console)
    text = printed(console)
    assert (
        "mine, pretrained weights, input 1x3x8x8: 5 layers, 13 channels, 2 couplings; relative ranking, 1.2 s" in text
    )
    assert "random weights" not in text
    assert max(map(len, console.file.getvalue().splitlines())) <= 100


def test_a_row_has_layers_readers_width_and_range(saliency, console):
    print_score(of(saliency), console)
    row = console.file.getvalue().splitlines()[4]
    assert row.split()[-7:] == ["2", "3", "111", "1", "222", "888", "2"]
    assert "stages.0.blocks.10.attention.projection +2" in printed(console)


def test_different_widths_get_a_row_each(saliency, console):
    print_score(of(saliency), console)
    lines = console.file.getvalue().splitlines()
    assert any(line.split()[-2:] == ["1", "mixed"] for line in lines)
    assert any(line.split() == ["narrow", "1", "7", "0", "7", "7", "0"] for line in lines)
    assert "scores are those of single layers" in printed(console)


def test_top_keeps_the_lowest_in_forward_order(console):
    scores = {name: torch.tensor([value, 9.0]) for name, value in zip("abcd", [4.0, 1.0, 3.0, 2.0], strict=True)}
    saliency = Saliency(scores, tuple(LayerCoupling((name,), ("out",)) for name in scores))
    print_score(of(saliency), console, top=2)
    rows = [line.split()[:2] for line in console.file.getvalue().splitlines() if line.split()[2:4] == ["1", "2"]]
    assert rows == [["2", "b"], ["4", "d"]]
    assert "Only the 2 with the lowest scores; 2 more couplings are not shown." in printed(console)


def test_random_weights_are_said(saliency, console):
    print_score(of(saliency, pretrained=False), console)
    assert "These are the scores of random weights; --pretrained loads trained ones." in printed(console)


def test_brackets_in_names_are_no_markup(console):
    saliency = Saliency({"[red]a": torch.ones(2)}, (LayerCoupling(("[red]a",), ("[/b]",)),))
    print_score(of(saliency, model="[bold]x"), console)
    assert "[red]a" in printed(console)
    assert "[bold]x" in printed(console)


def checked(**changes):
    values = {"model": "m", "layers": 5, "couplings": 2, "missing": (), "error": ""}
    return ModelCheck(**values | {"seconds": 0.1} | changes)


def test_a_good_check_is_one_line(console):
    print_check(checked(), console)
    assert console.file.getvalue() == "m  ok  5 feed-in layers, 2 couplings\n"


def test_missing_operators_come_with_their_modules(console):
    modules = ("", *(f"layer{i}" for i in range(8)))
    print_check(checked(missing=(MissingOperator("torch.fft.fft2", modules),)), console)
    first, second = console.file.getvalue().splitlines()
    assert first == "m  1 operator(s) without a rule"
    assert second == ("  torch.fft.fft2  in the model itself, layer0, layer1, layer2, layer3, layer4 and 3 more")


def test_other_failures_are_said(console):
    print_check(checked(error="it broke"), console)
    assert console.file.getvalue() == "m  cannot be scored: it broke\n"
