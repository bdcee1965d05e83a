"""The demo from beginning to end, with little to do."""

import io
import json
import re

import pytest
import torch
from rich.console import Console
from torch.utils.data import TensorDataset

from budget_nets import counted
from dfpc_plugin import CompareResult, load_pruned, repair
from dfpc_plugin.cli import main
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.demo import DemoConfig, run_demo
from dfpc_plugin.demo import demo_run as run_module
from dfpc_plugin.demo.network import build_network, example_input, load_network
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.pruning import prune


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
    result = run_demo(config, Console(file=screen, width=120), progress=False)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == torch.get_num_threads()
    assert {path.name for path in directory.rglob("*")} >= {"new", "out"}
    return result, screen.getvalue(), config


def cell_of(result, repair):
    """The cell of dfpc at 0.6 after a repair."""
    wanted = ("dfpc", "macs=0.6", repair)
    return next(r for r in result.cells if (r.cell.criterion, r.cell.budget, r.cell.repair) == wanted)


def accuracy(model, digits):
    return evaluate_model(model, TensorDataset(digits.test_images, digits.test_labels)).top1 / 100


def stored(config):
    return load_pruned(config.output / "dfpc-0.6", factory=build_network)


def test_every_criterion_meets_every_budget(demo):
    result, _, _ = demo
    assert [(r.cell.criterion, r.cell.budget, r.cell.seed) for r in result.cells if r.cell.repair == "none"] == [
        (criterion, f"macs={budget}", seed)
        for criterion, seeds in (("dfpc", (0,)), ("random", (0, 1)))
        for budget in (0.9, 0.6)
        for seed in seeds
    ]
    assert {r.cell.repair for r in result.cells} == {"none", "merge", "calibrate"}
    for found in result.cells:
        budget = float(found.cell.budget.removeprefix("macs="))
        assert budget - 0.05 < found.macs <= budget
        assert 0 < found.params < 1
        assert found.speedup > 0


def test_the_files_it_names_are_the_files_there_are(demo):
    _, screen, config = demo
    names = {path.name for path in config.output.iterdir()}
    assert names == {"accuracy.svg", "accuracy.png", "results.jsonl", "results.csv", "dfpc-0.9", "dfpc-0.6"}
    assert all(name in screen for name in names)


def test_results_are_stored_as_they_were_returned(demo):
    result, _, config = demo
    assert CompareResult.read(config.output / "results.jsonl") == result
    assert result.source == "540 labelled images"
    assert (config.output / "results.csv").read_text() == result.to_csv()


def test_repairs_help_and_the_unpruned_network_is_as_it_was(demo):
    result, _, _ = demo
    assert result.unpruned.value == pytest.approx(0.996, abs=0.005)
    for after in ("merge", "calibrate"):
        assert cell_of(result, after).value > cell_of(result, "none").value


def test_the_repaired_accuracy_is_that_of_repair_on_the_stored_network(demo):
    result, _, config = demo
    repaired = repair(stored(config), load_network(), example_input(), "merge").model
    digits = run_module.load_digits()
    assert accuracy(repaired, digits) == pytest.approx(cell_of(result, "merge").value)


def test_a_stored_network_is_the_one_that_was_measured(demo):
    result, _, config = demo
    digits, model = run_module.load_digits(), stored(config)
    assert accuracy(model, digits) == pytest.approx(cell_of(result, "none").value)
    cost, full = (counted(network, example_input()) for network in (model, load_network()))
    assert (full.macs, full.parameters) == (result.unpruned.macs, result.unpruned.params)
    assert cost.macs / full.macs == cell_of(result, "none").macs
    assert cost.parameters / full.parameters == cell_of(result, "none").params


def test_a_stored_network_knows_how_images_become_its_inputs(demo, capsys):
    result, _, config = demo
    factory = f"{build_network.__module__}:{build_network.__name__}"
    assert main(["evaluate", str(config.output / "dfpc-0.6"), "--data", "digits", "--factory", factory, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] / 100 == pytest.approx(cell_of(result, "none").value, abs=0.02)


def test_the_report_of_a_stored_network(demo, tmp_path):
    _, _, config = demo
    assert main(["report", str(config.output / "dfpc-0.6"), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<h1>A small ResNet on scanned digits</h1>" in page and "Asked for <b>macs=0.6</b>" in page


def test_the_plots_are_pictures(demo):
    _, _, config = demo
    assert (config.output / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (config.output / "accuracy.svg").read_text().startswith("<?xml")


def test_the_leaders_are_marked(demo):
    _, screen, _ = demo
    assert len(re.findall(r"\d \*", screen)) >= 6


def test_what_to_do_next_is_said(demo):
    last = demo[1].rstrip().splitlines()[-4:]
    assert [line.split("   ")[0] for line in last] == ["Your own model", "Repair", "Documentation", "Other commands"]


def test_layers_lose_the_same_share_without_global_ranking():
    widths = {
        name: [module.out_channels for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        for name, network in {
            "full": build_network(),
            "cut": prune(
                load_network(),
                example_input(),
                "macs=0.6",
                importance=run_module._criterion("magnitude", False).build(),
            ).model,
        }.items()
    }
    shares = [left / full for left, full in zip(widths["cut"], widths["full"], strict=True)]
    assert max(shares) - min(shares) < 0.1 < 1 - max(shares)
    assert run_module._criterion("magnitude", True) is CRITERIA["magnitude"]


def test_matplotlib_is_missed_before_anything_is_done(monkeypatch, tmp_path):
    def missing(module, package, extra):
        raise MissingDependencyError(package, extra)

    monkeypatch.setattr(run_module, "require", missing)
    with pytest.raises(MissingDependencyError, match=r"'matplotlib'.*dfpc-plugin\[demo\]"):
        run_demo(DemoConfig(output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
