"""Two processes that train one model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import digit_runs


def launch(kind, target, monkeypatch):
    """Run in two processes on the CPU, and return what each ends in."""
    monkeypatch.setenv("PYTHONPATH", str(Path(digit_runs.__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    # What accelerate launch starts for GPUs; on CPUs it would want MPI.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, digit_runs.__file__, kind, str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [load_file(str(target).format(rank=rank)) for rank in (0, 1)]


def weights(result):
    return {name: tensor for name, tensor in result.items() if name not in ("steps", "losses", "top1")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "sharded_schedule"])
def test_two_processes_do_what_one_does_with_twice_the_batch(kind, tmp_path, monkeypatch):
    first, second = launch(kind, tmp_path / "{rank}.safetensors", monkeypatch)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items() if name != "losses"), (
        "the ranks agree"
    )
    digit_runs.main(kind, str(tmp_path / "alone.safetensors"))
    alone = load_file(tmp_path / "alone.safetensors")
    for name, tensor in weights(alone).items():
        assert first[name].shape == tensor.shape
        assert torch.allclose(first[name], tensor, atol=1e-5), name
    assert torch.allclose(first["losses"], alone["losses"], atol=1e-5)
    assert first["top1"] == alone["top1"]
