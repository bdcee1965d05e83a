"""Small files that claim much are refused before they cost memory or time."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from artifact_nets import IMAGE, convolutional
from test_artifact_files import message_of, save_pruned
from test_artifact_structure import cut_some

from dfpc_plugin.artifact import load_pruned, read_manifest, save
from dfpc_plugin.artifact import save_pruned as save_any
from dfpc_plugin.artifact.plain import NotPlainError, decode
from dfpc_plugin.models import ModelSpec, build_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return cut_some(convolutional().eval(), IMAGE)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "{" + ", ".join(f'"k{number}": 1' for number in range(50_000)) + ', "k49999": 2}',
            "it has the key 'k49999' twice",
        ),
        ("[" + "[]," * 4_000_000 + "[]]", "it has more than 4000000 values"),
    ],
)
def test_a_small_manifest_is_refused_in_time(text, said, model, tmp_path):
    path = save_pruned(model, tmp_path / "a")
    (path / "manifest.json").write_text(text)
    start = time.process_time()
    assert said in message_of(lambda: read_manifest(path))
    assert time.process_time() - start < 5


def test_keys_of_one_hash_are_not_compared_without_end():
    form = {"dict": [[number * (2**61 - 1), 0] for number in range(20_000)]}
    with pytest.raises(NotPlainError, match="at most 10000 keys"):
        decode(form, lambda tensor: None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "options",
    [
        {"depth": 100_000},
        {"depth": 1_000_000, "drop_path_rate": 0.1},  # a tensor for every rate
        {"embed_dim": 6_400_000},
        {"num_classes": 10**9},
    ],
)
def test_a_model_far_larger_than_what_is_saved_is_not_built(options, tmp_path):
    network = build_model("test_vit")
    path = save_any(network, tmp_path / "a")
    found = read_manifest(path)
    hostile = dataclasses.replace(found, spec=ModelSpec("test_vit", options))
    weights = save.packed(save.tensors_of(network, found.structure), hostile.binding)
    (path / "model.safetensors").write_bytes(weights)
    hostile = dataclasses.replace(hostile, files={name: save.described(path / name) for name in found.files})
    (path / "manifest.json").write_text(hostile.to_text())
    start = time.process_time()
    text = message_of(lambda: load_pruned(path))
    assert "takes far more memory or time than one needs of which so little is saved" in text
    assert time.process_time() - start < 10


def test_inputs_that_would_take_all_memory_are_not_made(model, tmp_path):
    path = save_pruned(model, tmp_path / "a", example_inputs=torch.ones(1).expand(2**20, 2**10))
    assert "called with more than 134217728 numbers" in message_of(read_manifest(path).inputs.make)
