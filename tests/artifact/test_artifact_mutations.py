"""Whatever is done to the files of an artifact: one clear error, or the same model; and nothing else happens."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifact_nets import IMAGE, Odd
from artifact_tools import assert_same_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from test_artifact_structure import odd

from dfpc_plugin.artifact import ArtifactError, Manifest, load_pruned, save_pruned
from dfpc_plugin.artifact.records import registered
from dfpc_plugin.artifact.weights_file import packed
from dfpc_plugin.plain_data import checksum

SETTINGS = settings(max_examples=250, deadline=None, database=None, derandomize=True)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.just(2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just("../../etc"), st.just("__class__"), st.just("float64"), st.just([]), st.just({}),
    st.just({"float": "nan"}), st.just({"tensor": "head.weight"}), st.just({"tuple": [1, {"list": []}]}), st.just([2**62, 2**62]),
)  # fmt: skip
TYPES = {type(None), torch.Tensor}


class Saved:
    """An artifact to spoil, and what it was."""

    def __init__(self, path: Path) -> None:
        self.model = odd()
        inputs = {"x": IMAGE, "size": (6, 6)}
        self.path = save_pruned(
            self.model, path, model="artifact_nets:Odd", example_inputs=inputs, record={"a": [1, {"b": None}]}
        )
        self.manifest, self.weights = self.path / "manifest.json", self.path / "model.safetensors"
        self.content, self.bytes = json.loads(self.manifest.read_text()), self.weights.read_bytes()

    def write(self, text: str, weights: bytes | None = None) -> None:
        self.manifest.write_text(text, encoding="utf-8")
        self.weights.write_bytes(self.bytes if weights is None else weights)

    def loaded(self) -> Any:
        """The model; or None after an error that names a file, says more than that, and changed nothing."""
        before, found = (self._files(), _states()), None
        try:
            found = load_pruned(self.path, factory=Odd)
        except ArtifactError as error:
            text = str(error)
            assert (
                str(self.path) in text
                and len(text) > len(str(self.path)) + 40
                and text.endswith((".", "?"))
                and "\n" not in text
            )
        assert (self._files(), _states()) == before
        return found

    def _files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.path.iterdir()}


def _states() -> tuple[Any, ...]:
    keys = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), keys[1].tolist(), keys[2], torch.get_default_dtype()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("artifact") / "a")


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in some JSON."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [*([path] if path else []), *(place for key, value in inner for place in places(value, (*path, key)))]


def mutated(content: Any, data: st.DataObject) -> Any:
    """Some JSON with one value deleted, replaced, retyped, inserted, moved or said twice."""
    content = copy.deepcopy(content)
    # Half of the time at the top or in what is small, since most of the places are in the list of tensors.
    top = [place for place in places(content) if place[0] != "tensors"]
    path = data.draw(st.sampled_from(places(content)) | st.sampled_from(top), label="place")
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    key, value = path[-1], parent[path[-1]]
    how = data.draw(st.sampled_from(["delete", "replace", "retype", "insert", "swap", "double"]), label="how")
    if how == "delete":
        del parent[key]
    elif how == "replace":
        parent[key] = data.draw(VALUES, label="value")
    elif how == "retype":
        parent[key] = data.draw(st.sampled_from([str(value), [value], {"a": value}, not value, 1.0]), label="value")
    elif isinstance(parent, list):
        parent.insert(key, value if how == "double" else data.draw(VALUES, label="value"))
    else:
        other = data.draw(st.sampled_from(sorted(parent)) | st.text(max_size=5), label="key")
        parent[other], parent[key] = value, parent[key] if how == "double" else parent.get(other, value)
    return content


@given(data=st.data(), resigned=st.booleans())
@SETTINGS
def test_manifests(saved, data, resigned):
    content = mutated(saved.content, data)
    if resigned and "checksum" in content:
        content["checksum"] = checksum({key: value for key, value in content.items() if key != "checksum"})
    saved.write(json.dumps(content))
    found = saved.loaded()
    if found is not None:
        assert_same_model(saved.model, found)
        assert resigned or content == saved.content


def rebound(saved, content):
    """Make the checksums and the file of tensors fit a manifest, as somebody could who writes all of it."""
    content["checksum"] = checksum({key: value for key, value in content.items() if key != "checksum"})
    binding = Manifest.from_json(content).binding
    weights = packed(load(saved.bytes), binding)
    content["files"]["model.safetensors"] = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    content["checksum"] = checksum({key: value for key, value in content.items() if key != "checksum"})
    saved.write(json.dumps(content), weights)


@given(data=st.data())
@SETTINGS
def test_manifests_of_somebody_who_makes_everything_fit(saved, data):
    """There may be another model in it, which is one that the manifest describes."""
    content = mutated(saved.content, data)
    try:
        rebound(saved, content)
    except (ArtifactError, KeyError, TypeError):  # no manifest at all: see above
        return
    found = saved.loaded()
    if found is not None:
        now = registered(found)
        for entry in content["tensors"]:
            if entry["kind"] != "plain":
                kind, tensor, persistent = now[entry["name"]]
                assert [kind, list(tensor.shape), persistent] == [entry["kind"], entry["shape"], entry["persistent"]]
        assert {type(value) for value in vars(found).values()} <= {
            type(value) for value in vars(saved.model).values()
        } | TYPES


@pytest.mark.parametrize(
    ("key", "change", "text"),
    [
        ("attributes", lambda e: e[0].update(name="__class__"), "it sets '__class__', which is no attribute"),
        ("attributes", lambda e: e[0].update(name="forward"), "it sets 'forward', which is no attribute"),
        ("attributes", lambda e: e[0].update(name="training"), "it sets 'training', which is no attribute"),
        ("attributes", lambda e: e[0].update(name="_parameters"), "it sets '_parameters', which is no attribute"),
        ("attributes", lambda e: e[0].update(name="activation"), "it sets 'activation' to a value of type int"),
        ("attributes", lambda e: e[0].update(module="body"), "a freshly built model has no module 'body'"),
        ("attributes", lambda e: e[0].update(value="8"), "it sets 'width' to a value of type str, where a freshly built"),
        ("attributes", lambda e: e.append(e[0]), "it sets 'width' twice"),
        ("attributes", lambda e: e.append({**e[0], "name": "width.real"}), "it sets 'width.real' twice"),
        ("attributes", lambda e: e.insert(0, {**e[0], "name": "width.real"}), "it sets 'width' twice"),
        ("attributes", lambda e: e[0].update(name="width.real"), "it sets 'width.real', which is no attribute"),
        ("attributes", lambda e: e[0].update(name="width.real.real"), "must be the name of an attribute"),
        ("attributes", lambda e: e[0].update(value={"tensor": "none"}), "'width' holds the tensor 'none', which is not listed"),
        ("attributes", lambda e: e[0].update(value={"call": []}), "its value of 'width' is not plain: 'call' is none of the types"),
        ("tensors", lambda e: e.pop(0), "not there by the manifest"),
        ("tensors", lambda e: e[0].update(shape=[2**40, 2**40]), "(1099511627776, 1099511627776) of float32 by the manifest"),
        ("tensors", lambda e: e[0].update(dtype="float16"), "of float16 by the manifest"),
        ("tensors", lambda e: e[0].update(alias_of="head.weight"), "cannot be another name for 'head.weight'"),
        ("tensors", lambda e: next(t for t in e if t["dtype"] == "int64").update(requires_grad=True), "which has no gradient"),
        ("absent", lambda e: e.pop(), "it does not list 'head.bias', which a freshly built model has"),
        ("absent", lambda e: e[0].update(name="new"), "it lists 'new', which a freshly built model has no place for"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_freshly_built_model(saved, key, change, text):
    content = copy.deepcopy(saved.content)
    change(content[key])
    with pytest.raises(ArtifactError) as caught:
        rebound(saved, content)
        load_pruned(saved.path, factory=Odd)
    assert text in str(caught.value)


@given(data=st.data())
@SETTINGS
def test_text_of_manifests(saved, data):
    text = json.dumps(saved.content)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)) | st.just(len(text)))
    saved.write(
        text[:start] + data.draw(st.text(max_size=3) | st.sampled_from(["[" * 5000, "9" * 5000, "NaN,"])) + text[end:]
    )
    found = saved.loaded()
    assert found is None or json.loads(saved.manifest.read_text()) == saved.content


@given(data=st.data(), resigned=st.booleans())
@SETTINGS
def test_tensors(saved, data, resigned):
    """Somebody who makes all checksums fit can change values, as whoever saves can, but no name, shape or dtype."""
    header = 8 + int.from_bytes(saved.bytes[:8], "little")
    size = len(saved.bytes)
    start = data.draw(st.integers(0, header + 20) | st.integers(0, size), label="start")
    length = data.draw(st.integers(0, 8) | st.just(size), label="length")
    weights = saved.bytes[:start] + data.draw(st.binary(max_size=8), label="bytes") + saved.bytes[start + length :]
    content = copy.deepcopy(saved.content)
    if resigned:
        content["files"]["model.safetensors"] = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
        content["checksum"] = checksum({key: value for key, value in content.items() if key != "checksum"})
    saved.write(json.dumps(content), weights)
    found = saved.loaded()
    if not resigned:
        assert (found is not None) == (weights == saved.bytes)
    elif found is not None:
        kinds = [
            {
                name: (kind, None if t is None else (t.shape, t.dtype))
                for name, (kind, t, _) in registered(model).items()
            }
            for model in (saved.model, found)
        ]
        assert kinds[0] == kinds[1] and found.width == saved.model.width


@pytest.mark.parametrize("place", [-1, -40, 200, 8, 0])
def test_a_single_bit_is_noticed(saved, place):
    weights = bytearray(saved.bytes)
    weights[place] ^= 1
    saved.write(json.dumps(saved.content), bytes(weights))
    with pytest.raises(ArtifactError, match="its content does not fit the checksum in the manifest"):
        load_pruned(saved.path, factory=Odd)


def test_what_was_not_spoilt_loads(saved):
    saved.write(json.dumps(saved.content, indent=3))
    assert_same_model(saved.model, saved.loaded())
