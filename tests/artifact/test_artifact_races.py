"""What another process or the user writes while a directory is saved is never lost."""

from __future__ import annotations

import shutil
import signal

import pytest
import torch
from artifact_nets import IMAGE, convolutional
from test_artifact_files import FILES, contents, message_of, names, save_pruned
from test_artifact_structure import cut_some

from dfpc_plugin.artifact import directory, load_pruned, weights_file


@pytest.fixture
def model():
    torch.manual_seed(0)
    return cut_some(convolutional().eval(), IMAGE)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_what_appears_while_it_is_written_stays(overwrite, exchange, model, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(directory, "_exchanged", lambda *args: False)

    def appear(place):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "thesis.txt").write_text("mine")

    text = message_of(lambda: save_pruned(model, tmp_path / "a", overwrite=overwrite, finish=appear))
    assert ("it holds 'thesis.txt'" if overwrite else "it exists; name another directory") in text
    assert contents(tmp_path / "a") == {"thesis.txt": b"mine"} and names(tmp_path) == ["a"]


@pytest.mark.parametrize("exchange", [True, False])
def test_what_appears_just_before_the_exchange_stays(exchange, model, tmp_path, monkeypatch):
    path = save_pruned(convolutional(), tmp_path / "a")
    swap = directory._exchanged

    def late(source, target):
        (path / "thesis.txt").touch()
        return exchange and swap(source, target)

    monkeypatch.setattr(directory, "_exchanged", late)
    assert "it holds 'thesis.txt'" in message_of(lambda: save_pruned(model, path, overwrite=True))
    assert set(contents(path)) == {*FILES, "thesis.txt"} and names(tmp_path) == ["a"]


def test_an_artifact_of_another_process_stays_without_overwrite(model, tmp_path):
    other = save_pruned(convolutional(), tmp_path / "b")
    path = tmp_path / "a"
    message_of(lambda: save_pruned(model, path, finish=lambda place: shutil.copytree(other, path)))
    assert contents(path) == contents(other)


def test_a_folder_with_the_name_of_a_listed_file_is_not_replaced(model, tmp_path):
    path = save_pruned(model, tmp_path / "a", finish=lambda place: (place / "report").write_text("r"))
    (path / "report").unlink()
    (path / "report").mkdir()
    (path / "report" / "chapter.txt").touch()
    assert "it holds 'report', which is no part" in message_of(lambda: save_pruned(model, path, overwrite=True))
    assert (path / "report" / "chapter.txt").exists()


def test_a_listed_file_that_is_missing_is_told_of(model, tmp_path):
    path = save_pruned(model, tmp_path / "a", finish=lambda place: (place / "report.html").write_text("report"))
    load_pruned(path, factory=convolutional)
    (path / "report.html").unlink()
    with pytest.warns(UserWarning, match="lacks the file 'report.html', which its manifest lists"):
        load_pruned(path, factory=convolutional)


def test_an_interrupt_while_tensors_are_read_stays_one(tmp_path, monkeypatch):
    """The library that reads them raises an error of its own for Ctrl-C."""

    class File:
        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def keys(self):
            return ["w"]

        def get_tensor(self, name):
            try:
                signal.raise_signal(signal.SIGINT)
                return torch.ones(1)
            except KeyboardInterrupt as error:
                raise RuntimeError("could not determine the shape") from error

    monkeypatch.setattr(weights_file, "safe_open", File)
    with pytest.raises(KeyboardInterrupt):
        weights_file.read_weights(tmp_path / "x.safetensors")
