import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from dfpc_plugin import files
from dfpc_plugin.files import (
    OutputError,
    clear_leftovers,
    hidden_name,
    is_directory,
    is_file,
    require_writable,
    tensor_bytes,
    write_json,
    write_text,
)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "scores.csv"
    write_text(path, "old")
    path.chmod(0o640)
    write_text(path, "neu: ä\r\n")
    assert path.read_bytes() == "neu: ä\r\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    write_text(path, "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_is_not_replaced():
    write_text(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


def test_what_dead_processes_have_left_is_removed_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, host = hidden_name("out"), files._host()
    assert mine.startswith(f".out.{host}-{os.getpid()}-")
    left = [f".out.{host}-{dead.pid}-{digit * 16}.unfinished" for digit in "ab"]
    kept = [
        mine,
        f".out.{host}-1-{'a' * 16}.unfinished",
        f".out.00000000-{dead.pid}-{'a' * 16}.unfinished",
        f".other.{host}-{dead.pid}-{'a' * 16}.unfinished",
        f".out.{host}-{dead.pid}-{'a' * 16}",
        f".out.{host}-{dead.pid}-thesis.unfinished",
        "out",
    ]
    (tmp_path / left[0]).mkdir()
    (tmp_path / left[0] / "part").write_text("half")
    (tmp_path / left[1]).write_text("half")
    for name in kept:
        (tmp_path / name).mkdir()
    linked = tmp_path / f".out.{host}-{dead.pid}-{'c' * 16}.unfinished"
    linked.symlink_to(tmp_path / "out")
    clear_leftovers(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, linked.name}
    clear_leftovers(tmp_path / "missing" / "out")


def test_bad_places_are_named(tmp_path):
    with pytest.raises(OutputError, match="is a directory"):
        require_writable(tmp_path)
    with pytest.raises(OutputError, match="there is no directory"):
        require_writable(tmp_path / "nowhere" / "scores.csv")


def test_json_has_no_nan(tmp_path):
    assert write_json(tmp_path / "a.json", {"x": 1}).read_text() == '{\n  "x": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_the_same_tensors_are_the_same_bytes():
    tensors = {"b": torch.ones(2), "a": torch.arange(3), "c": torch.zeros(0)}
    metadata = {f"key {number}": "é" for number in range(8)}
    first = tensor_bytes(tensors, metadata)
    assert all(tensor_bytes(tensors, dict(reversed(metadata.items()))) == first for _ in range(8))
    found = load(first)
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["x" * 5000, "loop/x", "a\0b"])
def test_names_that_nothing_can_have(name, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert not is_directory(tmp_path / name) and not is_file(tmp_path / name)
    with pytest.raises(OutputError, match="Cannot write"):
        require_writable(tmp_path / name)
