"""Recipes for a small network on scikit-learn's digits, for tests of the workflow and of its commands."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from dfpc_plugin.data import AugmentSettings, open_images, training_transform
from dfpc_plugin.finetuning import FinetuneSettings, finetune
from dfpc_plugin.models import Preprocessing
from workflow_nets import colour_net

NET = "workflow_nets:colour_net"
AUGMENT = {"padding": 1, "flip": 0.0}
DIGITS = {
    "model": {"name": NET, "size": 8},
    "target": "macs=0.6",
    "data": {"train": "digits", "val": "digits", "mean": [0.3], "std": [0.35], "augment": AUGMENT},
}
TUNED = {**DIGITS, "finetune": {"steps": 20, "batch_size": 32, "lr": 0.03, "checkpoint_every": 5, "distill": 0.3}}
ARTIFACT = {"config.json", "manifest.json", "model.safetensors", "recipe.yaml", "report.html", "layers.csv"}


def changed(recipe, **values):
    """A copy of a recipe with other values, those of sections by `section__name`."""
    recipe = copy.deepcopy(recipe)
    for path, value in values.items():
        *sections, last = path.split("__")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return recipe


def write_recipe(path: Path, recipe=DIGITS, **values) -> Path:
    path.write_text(yaml.safe_dump(changed(recipe, **values)))
    return path


def trained_weights(path: Path) -> Path:
    """Train the network for a second, and save its weights."""
    torch.manual_seed(0)
    net = colour_net()
    transform = training_transform(Preprocessing((3, 8, 8), (0.3,), (0.35,)), AugmentSettings(**AUGMENT))
    settings = FinetuneSettings(steps=80, batch_size=32, lr=0.05)
    tuned = finetune(net, open_images("digits", "train", transform), settings=settings).model
    save_file(tuned.state_dict(), path)
    return path


def weights_of(artifact: Path):
    return load_file(artifact / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def surroundings(directory: Path):
    """Everything that a call which fails must leave alone: generators, the working directory, the files there."""
    files = {str(path): path.is_file() and path.read_bytes() for path in sorted(directory.rglob("*"))}
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    arrays = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), arrays[1].tolist(), Path.cwd(), sorted(files), digest


def environment():
    """Of a process that finds the networks of these tests."""
    here = str(Path(__file__).parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)]), "OMP_NUM_THREADS": "1"}


def command(*arguments):
    return [sys.executable, "-m", "dfpc_plugin", *map(str, arguments)]


def run_process(*arguments, cwd=None, timeout=200):
    """Run the command line in a process of its own."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), cwd=cwd, timeout=timeout, check=False
    )
