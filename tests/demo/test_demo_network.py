"""The network that ships, and its data."""

import builtins

import pytest
import torch
from safetensors import safe_open
from torch.utils.data import TensorDataset

from dfpc_plugin.demo.network import WEIGHTS, build_network, example_input, load_digits, load_network
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.require import require


def test_the_file_that_ships_fits_the_network_and_is_small():
    expected = build_network().state_dict()
    with safe_open(WEIGHTS, "pt") as file:
        assert {name: file.get_slice(name).get_shape() for name in file.keys()} == {
            name: list(tensor.shape) for name, tensor in expected.items()
        }
        metadata = file.metadata()
    assert metadata["made_by"].startswith("python examples/benchmarks/train_on_digits.py")
    assert WEIGHTS.stat().st_size < 600_000


def test_the_network_that_ships_reads_digits_as_well_as_its_file_says():
    digits = load_digits()
    reached = evaluate_model(load_network(), TensorDataset(digits.test_images, digits.test_labels)).top1 / 100
    with safe_open(WEIGHTS, "pt") as file:
        assert reached == pytest.approx(float(file.metadata()["test_accuracy"]), abs=0.005)
    assert reached >= 0.97


def test_training_and_test_images_are_apart_and_complete():
    digits = load_digits()
    assert len(digits.train_labels) == 1257
    assert len(digits.test_labels) == 540
    assert digits.test_labels.bincount().min() >= 52
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_example_inputs_are_random_but_always_the_same():
    generator = torch.get_rng_state()
    assert torch.equal(example_input(3), example_input(3))
    assert torch.equal(generator, torch.get_rng_state())


def _without(monkeypatch, missing):
    """Make every import of the package `missing` fail as if it were not installed."""
    real = builtins.__import__

    def find(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", find)
    monkeypatch.setattr("importlib.import_module", lambda name: find(name, fromlist=["*"]))


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    _without(monkeypatch, "sklearn")
    with pytest.raises(MissingDependencyError, match=r"'scikit-learn'.*pip install \"dfpc-plugin\[demo\]\""):
        load_digits()


def test_a_package_that_is_there_but_broken_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "brokenpackage.py").write_text("import surely_not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed_anywhere"):
        require("brokenpackage", "broken-package", "demo")
