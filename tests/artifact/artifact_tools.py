"""Small networks to save, and a process of its own that loads what was saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfpc_plugin.artifact import Structure, restructure, structure_of, tensors_of
from dfpc_plugin.artifact.deep_equal import same_bits
from dfpc_plugin.artifact.records import registered
from dfpc_plugin.inputs import as_call

TESTS = Path(__file__).parents[1]


class Loader:
    """Loads artifacts in another process, in which unpickling and connecting are errors."""

    def __init__(self) -> None:
        command = [
            sys.executable,
            str(Path(__file__).with_name("artifact_child.py")),
            str(TESTS),
            str(torch.get_num_threads()),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent
        )

    def outputs(self, directory: Path, inputs: Any, scratch: Path) -> list[Tensor]:
        """What the model in `directory` computes of inputs."""
        args, _ = as_call(inputs)
        save_file({str(i): t.contiguous() for i, t in enumerate(args)}, scratch / "inputs.safetensors")
        request = {
            "directory": str(directory),
            "inputs": str(scratch / "inputs.safetensors"),
            "outputs": str(scratch / "out"),
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["error"] is None, answer["error"]
        found = load_file(scratch / "out")
        return [found[str(i)] for i in range(len(found))]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def round_trip(model: nn.Module, fresh: nn.Module, again: nn.Module) -> nn.Module:
    """Take the structure of `model`, through JSON, and give it and copies of the tensors to `again`."""
    structure = structure_of(model, fresh)
    tensors = {name: tensor.clone() for name, tensor in tensors_of(model, structure).items()}
    return restructure(again, Structure(structure.tensors, structure.absent, structure.attributes), tensors)


def assert_same_model(model: nn.Module, loaded: nn.Module) -> None:
    """Every tensor, flag and tie, and every attribute of numbers and text."""
    mine, other = registered(model), registered(loaded)
    assert list(dict(model.named_parameters())) == list(dict(loaded.named_parameters()))
    assert mine.keys() == other.keys()
    for name, (kind, tensor, persistent) in mine.items():
        found = other[name]
        assert (kind, persistent, tensor is None) == (found[0], found[2], found[1] is None), name
        if tensor is not None:
            assert found[1] is not None and same_bits(tensor, found[1]), name
            assert tensor.requires_grad == found[1].requires_grad, name
    assert ties(model) == ties(loaded)
    assert structure_of(model, loaded).attributes == ()


def ties(model: nn.Module) -> set[frozenset[str]]:
    names: dict[int, set[str]] = {}
    for name, (_, tensor, _) in registered(model).items():
        names.setdefault(id(tensor), set()).add(name)
    return {frozenset(group) for group in names.values()}
