"""Every public result shows itself in a screen of 24 lines of 80 columns, and its text is neither printed nor empty."""

import builtins
import dataclasses
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import map_couplings


class ZMQInteractiveShell:
    """What rich takes for a notebook."""


def _results():
    model, image = timm.create_model("resnet26").eval(), torch.randn(1, 3, 32, 32)
    pruned = dfpc.prune(
        model, image, "macs=0.5", repair="merge", latency=dfpc.LatencySettings(threads=1, min_run_time=1e-3)
    )
    couplings = map_couplings(model, image)
    tuned = dfpc.FinetuneResult(pruned.model, dfpc.FinetuneSettings(), ({"step": 1, "loss": 0.5},), 1, None, 2.0)
    schedule = dfpc.ScheduleResult(pruned.model, pruned, dfpc.ScheduleSettings(), (), (), 3, None, 1.0)
    saliency = dfpc.bgsc(model, image)
    many = [image] * 40
    return {
        "prune": pruned, "repair": pruned.repair, "layers": pruned.layers(), "cut": pruned.couplings[0],
        "protected": pruned.protected[0], "figures": pruned.after, "target": pruned.target, "latency": pruned.after.latency,
        "couplings": couplings.couplings, "coupling": couplings.couplings[0], "map": couplings,
        "slice": couplings.couplings[0].slices[0], "finetune": tuned, "schedule": schedule, "saliency": saliency,
        "layer coupling": saliency.couplings[0], "evaluation": dfpc.Evaluation(1.0, 2.0, 3.0, 4, 5.0),
        "settings": dfpc.RepairSettings("calibrate", images=many), "spec": dfpc.ModelSpec("resnet18"),
    }  # fmt: skip


RESULTS = _results()


def screens(text):
    """Lines of a terminal of 80 columns."""
    return sum(max(1, -(-len(line) // 80)) for line in text.splitlines())


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_screen_at_most(name):
    assert 1 <= screens(repr(RESULTS[name])) <= 24


@pytest.mark.parametrize("name", RESULTS)
def test_texts_are_the_same_in_a_notebook_and_print_nothing(name, monkeypatch, capsys):
    outside = str(RESULTS[name]), repr(RESULTS[name])
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert (f"{RESULTS[name]}", repr(RESULTS[name])) == outside
    assert all(text.strip() for text in outside)
    assert capsys.readouterr() == ("", "")


def test_the_figures_of_pruning_are_in_its_repr():
    result = RESULTS["prune"]
    text = repr(result)
    assert text.startswith("PruneResult of ResNet. Asked for macs=0.5; reached macs=0.")
    for before, after in ((result.before.macs, result.after.macs), (result.before.parameters, result.after.parameters)):
        assert f"{before:,} -> {after:,}" in text
    assert "Repaired by merge" in text


def test_the_text_of_pruning_has_layers_and_fits_a_terminal():
    lines = str(RESULTS["prune"]).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Channels of the layers that lost outputs") for line in lines)


class Odd(nn.Module):
    """Has a layer whose name is no good HTML."""

    def __init__(self):
        super().__init__()
        self.add_module("<script>alert(1)</script>", nn.Linear(4, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self._modules["<script>alert(1)</script>"](x).relu())


def test_html_is_escaped():
    html = dfpc.prune(Odd(), torch.randn(2, 4), "ratio=0.25", repair="mean")._repr_html_()
    assert "<script" not in html and "alert(1)" in html


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prune", ("Asked for", "MACs", "Speed-up", "Channels of the layers", "layer1.0.conv1", "Repaired by")),
        ("schedule", ("Asked for", "Channels of the layers")),
        ("repair", ("Repaired by", "merge")),
        ("layers", ("Channels of the layers", "layer4.1.conv2")),
    ],
)
def test_notebooks_get_the_parts_of_the_report(name, said):
    html = RESULTS[name]._repr_html_()
    assert all(text in html.replace("<wbr>", "") for text in said)
    assert "@scope (.dfpc-view)" in html and ":root" not in html and "http" not in html


def test_notebooks_get_them_from_a_fresh_process():
    """Where nothing but the package itself was imported."""
    code = (
        "import torch, dfpc_plugin as dfpc; from torch import nn; "
        "net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)); x = torch.randn(2, 4); "
        "result = dfpc.prune(net, x, 'ratio=0.25'); "
        "shown = (result, result.layers(), dfpc.find_couplings(net, x)); "
        "print(sum(str(each._repr_html_()).startswith('<') or '<svg' in str(each._repr_html_()) for each in shown))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


def test_without_a_view_or_its_packages_notebooks_show_the_text(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    assert RESULTS["prune"]._repr_html_() is None
    assert dfpc.read_manifest  # a manifest without a record has no view either
    assert dataclasses.replace(RESULTS["finetune"], history=())._repr_html_() is None
