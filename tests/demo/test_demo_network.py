"""The network that ships, its data, and the command that made it."""

import builtins
import re

import pytest
import torch
from safetensors import safe_open

from dfpc_plugin.demo import train
from dfpc_plugin.demo.network import WEIGHTS, accuracy, build_network, example_input, load_digits, load_network
from dfpc_plugin.errors import MissingDependencyError
from dfpc_plugin.require import require


def test_the_file_that_ships_fits_the_network_and_is_small():
    expected = build_network().state_dict()
    with safe_open(WEIGHTS, "pt") as file:
        assert {name: file.get_slice(name).get_shape() for name in file.keys()} == {
            name: list(tensor.shape) for name, tensor in expected.items()
        }
        metadata = file.metadata()
    assert metadata["made_by"].startswith("python -m dfpc_plugin.demo.train")
    assert WEIGHTS.stat().st_size < 600_000


def test_the_network_that_ships_reads_digits_as_well_as_its_file_says():
    digits = load_digits()
    reached = accuracy(load_network(), digits.test_images, digits.test_labels)
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


def test_training_command_writes_a_file_the_demo_can_load(tmp_path, capsys):
    path, generator, threads = (tmp_path / "weights.safetensors", torch.get_rng_state(), torch.get_num_threads())
    train.main(["--output", str(path), "--epochs", "1", "--threads", "1"])
    model, digits = load_network(path), load_digits()
    reached = accuracy(model, digits.test_images, digits.test_labels)
    assert reached > 0.15  # one epoch out of thirty; chance is 0.1
    assert f"{reached:.2%}" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == [path]


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
