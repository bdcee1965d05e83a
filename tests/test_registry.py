"""What users choose by name: registered once, known everywhere, also where another package registers it."""

import subprocess
import sys

import pytest
import torch

import dfpc_plugin as dfpc
from budget_nets import IMAGE, convolutions
from dfpc_plugin.cli import main
from dfpc_plugin.criteria import CRITERIA, Criterion
from dfpc_plugin.errors import PrunerSettingError, RegistryError
from dfpc_plugin.registry import Registry
from dfpc_plugin.repairing import METHODS, RepairMethod
from dfpc_plugin.workflow.sections import PruneSection, RepairSection


def first_channels(group):
    """The lowest scores come first."""
    return torch.arange(len(group[0].idxs), dtype=torch.float64)


@pytest.fixture
def criterion():
    yield CRITERIA.register(Criterion("first", "First", lambda: first_channels, "the number of a channel"))
    del CRITERIA._entries["first"]


@pytest.fixture
def method():
    calls = []

    def halve_last_bias(job):
        calls.append(job.settings.method)
        list(job.model.parameters())[-1].mul_(0.5)
        return []

    METHODS.register(RepairMethod("halve", halve_last_bias, "halves the last bias"))
    yield calls
    del METHODS._entries["halve"]


def help_of(command, capsys):
    """A command's help, without the breaks of its lines."""
    assert main([command, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_criterion_is_known_to_python_recipes_and_help(criterion, capsys):
    by_name = dfpc.prune(convolutions(), IMAGE, "ratio=0.5", importance="first")
    assert by_name.removed == dfpc.prune(convolutions(), IMAGE, "ratio=0.5", importance=first_channels).removed
    assert PruneSection("first").importance == "first"
    assert "first: the number of a channel." in help_of("prune", capsys)


def test_a_repair_method_is_known_to_python_recipes_and_help(method, capsys):
    model = convolutions()
    bare, repaired = (dfpc.prune(model, IMAGE, "ratio=0.5", repair=how) for how in (None, "halve"))
    assert method == ["halve"] and repaired.repair.method == "halve"
    pairs = zip(bare.model.parameters(), repaired.model.parameters(), strict=True)
    assert sum(not torch.equal(one, other) for one, other in pairs) == 1
    assert RepairSection("halve").how.summary == "halves the last bias"
    assert "halve: halves the last bias." in help_of("repair", capsys)


def test_auto_is_the_default():
    model = convolutions()
    auto, unsaid = (dfpc.prune(model, IMAGE, "ratio=0.5", importance=given) for given in ("auto", None))
    assert auto.removed == unsaid.removed


def test_names_are_registered_once():
    with pytest.raises(RegistryError, match=r"^importance 'fpgm' is registered already; choose another name\.$"):
        CRITERIA.register(Criterion("fpgm", "Mine", lambda: first_channels, "mine"))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(
        PrunerSettingError, match=r"^importance='fpmg' is none of auto, taylor, dfpc, .*; did you mean fpgm\?$"
    ):
        dfpc.prune(convolutions(), IMAGE, "ratio=0.5", importance="fpmg")


PLUGIN = """
from dfpc_plugin.criteria import CRITERIA, Criterion
CRITERIA.register(Criterion("of-a-package", "Package", lambda: None, "what a package says"))
"""
USER = """
from dfpc_plugin.workflow.sections import PruneSection
print(PruneSection("of-a-package").importance)
"""


@pytest.mark.parametrize(("plugin", "said"), [
    (PLUGIN, ""),
    ("raise OSError('no disk')", "The extension 'mine' (plug) cannot be imported (OSError: no disk); repair or uninstall the "
     "package that names it."),
])  # fmt: skip
def test_an_installed_package_registers_its_own(tmp_path, monkeypatch, plugin, said):
    (tmp_path / "plug.py").write_text(plugin)
    (tmp_path / "plug-1.0.dist-info").mkdir()
    (tmp_path / "plug-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (tmp_path / "plug-1.0.dist-info" / "entry_points.txt").write_text("[dfpc_plugin]\nmine = plug\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    done = subprocess.run([sys.executable, "-c", USER], capture_output=True, text=True)
    if said:
        assert said in done.stderr
    else:
        assert (done.stdout.strip(), done.stderr) == ("of-a-package", "")


def test_entries_are_in_the_order_of_registration():
    registry = Registry("x", *(Criterion(name, name, lambda: None, "") for name in "ba"))
    assert list(registry)[:2] == ["b", "a"] and len(registry) == 2 and "c" not in registry
