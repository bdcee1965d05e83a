"""Processes that are killed at any moment, and others that go on where they were."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import digit_runs

ENVIRONMENT = {"PYTHONPATH": str(Path(digit_runs.__file__).parent), "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, digit_runs.__file__]


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Start a run in a process of its own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def begin(kind, *arguments):
        with (tmp_path / "errors").open("w") as errors:
            return subprocess.Popen([*COMMAND, kind, *map(str, arguments)], stderr=errors)

    return begin


def listed(directory):
    """The names of what is in a directory."""
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def kill_and_resume(start, tmp_path, kind, kills, spread):
    """Kill a run `kills` times, each time up to `spread` seconds after it has got going; return what it ends in."""
    target, directory = tmp_path / "killed.safetensors", tmp_path / "run"
    chance, killed, points = random.Random(kills), 0, set()
    while killed < kills:
        before, process = listed(directory), start(kind, target, directory)
        while process.poll() is None and listed(directory) == before:  # until it has taken the run up
            time.sleep(0.01)
        time.sleep(chance.random() * spread)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0), (tmp_path / "errors").read_text()
        killed += 1
        points.add(tuple(listed(directory)))
        if target.exists():  # it was faster than the kill: begin with another one
            break
    process = start(kind, target, directory)
    assert process.wait() == 0, (tmp_path / "errors").read_text()
    return load_file(target), killed, points


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def undisturbed(start, tmp_path, kind):
    process = start(kind, tmp_path / "whole.safetensors")
    assert process.wait() == 0, (tmp_path / "errors").read_text()
    return load_file(tmp_path / "whole.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills", "spread"), [("tuned", 10, 0.05), ("scheduled", 5, 0.4)])
def test_a_run_that_is_killed_ends_bit_for_bit_in_the_same_weights(start, tmp_path, kind, kills, spread):
    found, killed, points = kill_and_resume(start, tmp_path, kind, kills, spread)
    assert killed == kills, "the run was over before it had been killed so often"
    assert len(points) > kills // 3, "it was killed at the same place again and again"
    assert same(found, undisturbed(start, tmp_path, kind))


def test_killed_twice(start, tmp_path):
    found, killed, _ = kill_and_resume(start, tmp_path, "tuned", 2, 0.1)
    assert killed == 2
    digit_runs.main("tuned", str(tmp_path / "whole.safetensors"))
    assert same(found, load_file(tmp_path / "whole.safetensors"))
