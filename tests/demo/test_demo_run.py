"""The demo from beginning to end, with little to do."""

import io
import itertools
import json
import os
import re
from operator import attrgetter

import pytest
import torch
from rich.console import Console

from dfpc_plugin.demo import DemoConfig, DemoResult, run_demo
from dfpc_plugin.demo import demo_run as run_module
from dfpc_plugin.demo.measure import accuracy, count_macs
from dfpc_plugin.demo.network import channel_widths, example_input, load_network
from dfpc_plugin.demo.plot import draw
from dfpc_plugin.demo.table import print_table
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.repairing import repair


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run once: the result, what was printed, and PyTorch's state before and after."""
    directory = tmp_path_factory.mktemp("demo")
    config = DemoConfig(
        output=directory / "new" / "out",
        budgets=(0.6, 0.9),
        criteria=("dfpc", "random"),
        random_seeds=2,
        batch_size=1,
        latency_time=0.001,
    )
    screen = io.StringIO()
    state = torch.get_rng_state(), torch.get_num_threads()
    result = run_demo(config, Console(file=screen, width=120))
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == torch.get_num_threads()
    assert {path.name for path in directory.rglob("*")} >= {"new", "out"}
    return result, screen.getvalue(), config


def test_every_criterion_meets_every_budget(demo):
    result, _, _ = demo
    assert [(cut.criterion, cut.budget, cut.seed) for cut in result.cuts] == [
        (criterion, budget, seed)
        for budget in (0.9, 0.6)
        for criterion, seed in (("dfpc", None), ("random", 0), ("random", 1))
    ]
    for cut in result.cuts:
        assert cut.budget - 0.05 < cut.figures.macs / result.base.macs <= cut.budget
        assert cut.figures.channels == sum(cut.widths.values()) < result.base.channels
        assert cut.figures.latency_ms > 0


def test_the_files_it_names_are_the_files_there_are(demo):
    result, screen, config = demo
    names = {path.name for path in config.output.iterdir()}
    assert names == {os.path.basename(path) for path in result.files.values()}  # noqa: PTH119
    assert names == {
        "accuracy.svg",
        "accuracy.png",
        "results.json",
        *(f"dfpc-{budget}.{kind}" for budget in (0.9, 0.6) for kind in ("json", "safetensors")),
    }
    assert all(name in screen for name in names)


def test_results_are_stored_as_they_were_returned(demo):
    result, _, config = demo
    assert isinstance(result, DemoResult)
    stored = json.loads((config.output / "results.json").read_text())
    assert stored == json.loads(json.dumps(result.to_json()))
    assert stored["test_images"] == 540
    assert stored["cuts"][0]["figures"]["accuracy"] == result.cuts[0].figures.accuracy


def test_cuts_are_repaired_without_data_and_the_unpruned_network_is_as_it_was(demo):
    result, _, config = demo
    stored = json.loads((config.output / "results.json").read_text())
    assert result.base.accuracy_repaired == result.base.accuracy == stored["base"]["accuracy_repaired"]
    for cut, kept in zip(result.cuts, stored["cuts"], strict=True):
        assert 0 <= cut.figures.accuracy_repaired <= 1
        assert kept["figures"]["accuracy_repaired"] == cut.figures.accuracy_repaired
        if cut.budget == 0.6:
            assert cut.figures.accuracy_repaired > cut.figures.accuracy


def test_the_repaired_accuracy_is_that_of_repair_on_the_stored_network(demo):
    result, _, config = demo
    cut = next(cut for cut in result.cuts if (cut.criterion, cut.budget) == ("dfpc", 0.6))
    pruned = load_network(config.output / "dfpc-0.6.safetensors")
    repaired = repair(pruned, load_network(), example_input(), "merge").model
    digits = run_module.load_digits()
    assert accuracy(repaired, digits.test_images, digits.test_labels) == cut.figures.accuracy_repaired


def test_a_stored_network_is_the_one_that_was_measured(demo):
    result, _, config = demo
    cut = next(cut for cut in result.cuts if (cut.criterion, cut.budget) == ("dfpc", 0.6))
    model = load_network(config.output / "dfpc-0.6.safetensors")
    digits = run_module.load_digits()
    assert accuracy(model, digits.test_images, digits.test_labels) == cut.figures.accuracy
    assert count_macs(model, example_input()) == cut.figures.macs
    description = json.loads((config.output / "dfpc-0.6.json").read_text())
    assert {name: entry["kept"] for name, entry in description["channels"].items()} == channel_widths(model)
    assert description["shapes"] == {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_plots_are_pictures(demo):
    _, _, config = demo
    assert (config.output / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    svg = (config.output / "accuracy.svg").read_text()
    assert svg.startswith("<?xml")
    assert "<dc:date>" not in svg


def test_the_plot_shows_every_criterion_and_the_unpruned_network(demo):
    result, _, _ = demo
    labels = [text.get_text() for text in draw(result).legends[0].get_texts()]
    assert labels == [f"Unpruned ({100 * result.base.accuracy:.1f} %)", "DFPC", "Random (TP)"]


FIRST_TO_GO = ("Channels", "Parameters", "Speed-up", "Latency (ms)")


def _printed(result, width):
    """What a terminal of that width shows, and which of the columns that can go it lacks."""
    screen = io.StringIO()
    print_table(result, Console(file=screen, width=width))
    text = screen.getvalue()
    return text, tuple(heading for heading in FIRST_TO_GO if heading not in text)


@pytest.mark.parametrize(("width", "missing"), [(160, ()), (80, FIRST_TO_GO)])
def test_nothing_in_the_table_is_clipped(demo, width, missing):
    text, without = _printed(demo[0], width)
    assert without == missing
    assert "…" not in text
    assert re.search(r"Accuracy \(%\) +repaired +new BN stats", text)
    assert (f"Too narrow a terminal for: {', '.join(missing).lower()};" in text) == bool(missing)


def test_columns_go_one_at_a_time_as_the_terminal_narrows(demo):
    printed = [_printed(demo[0], width) for width in range(160, 79, -4)]
    assert not any("…" in text for text, _ in printed)
    steps = list(dict.fromkeys(without for _, without in printed))
    assert steps == [FIRST_TO_GO[:count] for count in range(len(FIRST_TO_GO) + 1)]


def test_the_leader_of_each_budget_is_marked_whoever_it_is(demo):
    result, screen, _ = demo
    for budget, figure in itertools.product(
        (0.9, 0.6), map(attrgetter, ("accuracy", "accuracy_repaired", "accuracy_reestimated"))
    ):
        means = {row.label: row.spread(figure).mean for row in result.rows() if row.budget == budget}
        assert max(means, key=means.get) in result.leaders(budget, figure)
    assert screen.count(" *") >= 6


def test_what_to_do_next_is_said(demo):
    last = demo[1].rstrip().splitlines()[-4:]
    assert [line.split("   ")[0] for line in last] == ["Your own model", "Repair", "Documentation", "Other commands"]


def test_matplotlib_is_missed_before_anything_is_done(monkeypatch, tmp_path):
    def missing(module, package, extra):
        raise MissingDependencyError(package, extra)

    monkeypatch.setattr(run_module, "require", missing)
    with pytest.raises(MissingDependencyError, match=r"'matplotlib'.*dfpc-plugin\[demo\]"):
        run_demo(DemoConfig(output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
