import sys

import pytest
import torch

from dfpc_plugin import LayerCoupling, Saliency
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.files import OutputError
from dfpc_plugin.report.plots import draw_saliency, write_plot


def made_up(couplings):
    generator = torch.Generator().manual_seed(0)
    scores = {f"layer{i}": torch.rand(8, generator=generator, dtype=torch.float64) for i in range(couplings + 2)}
    scores["layer1"] = torch.zeros(8, dtype=torch.float64)
    scores[f"layer{couplings}"] = torch.ones(3, dtype=torch.float64)
    groups = [LayerCoupling((f"layer{i}",), ("out",)) for i in range(couplings - 1)]
    last = LayerCoupling(tuple(f"layer{i}" for i in range(couplings - 1, couplings + 2)), ("out",))
    return Saliency(scores, (*groups, last))


def legend_texts(figure):
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_every_kind_of_coupling_is_drawn_and_named():
    figure = draw_saliency(made_up(5), "a title")
    (axes,) = figure.axes
    assert axes.get_title() == "a title"
    assert axes.get_yscale() == "log"
    assert axes.get_xticklabels()[0].get_text() == "layer0   1"
    assert axes.get_xticklabels()[-1].get_text() == "layer4 +2   5"
    assert legend_texts(figure) == {"one feed-in layer", "several, of different widths", "and channels at zero"}


def test_the_median_is_where_it_belongs():
    saliency = made_up(5)
    line = draw_saliency(saliency).axes[0].get_lines()[0]
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert drawn[3] == pytest.approx(float(saliency["layer2"].quantile(0.5)))
    assert 2 not in drawn  # nothing above zero there


def test_an_outlier_leaves_room_for_the_others_and_is_told():
    saliency = made_up(5)
    usual = draw_saliency(saliency).axes[0]
    saliency["layer0"][0] = 1e-30
    axes = draw_saliency(saliency).axes[0]
    assert usual.get_ylabel() == "Saliency of a channel"
    assert axes.get_ylabel() == "Saliency of a channel (1 outlier beyond the axis)"
    assert axes.get_ylim()[0] > 1e-6 and axes.get_ylim()[1] == 1


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_files_by_their_ending_and_the_same_twice(tmp_path, suffix, start):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        write_plot(made_up(4), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start)
    assert first == second


def test_many_couplings_are_numbered_only():
    axes = draw_saliency(made_up(120)).axes[0]
    assert not any("layer" in label.get_text() for label in axes.get_xticklabels())


def test_nothing_to_draw_is_no_error(tmp_path):
    write_plot(Saliency({}, ()), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"end its name in \.png, \.svg or \.pdf"):
        write_plot(made_up(4), tmp_path / "plot.gif")


def test_matplotlib_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"dfpc-plugin\[plots\]"):
        write_plot(made_up(4), tmp_path / "plot.png")
