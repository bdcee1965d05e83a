import json

import numpy as np
import onnxruntime
import pytest
import torch

from dfpc_plugin.artifact import load_pruned
from workflow_nets import colour_net
from workflow_runs import NET, surroundings


def test_both_files_compute_what_the_model_does(dfpc, saved, tmp_path):
    before = surroundings(saved)
    code, out, err = dfpc(
        "export",
        saved,
        "--factory",
        NET,
        "--onnx",
        tmp_path / "m.onnx",
        "--program",
        tmp_path / "m.pt2",
        "--json",
        "--batch_size",
        "3",
    )
    assert code == 0, err
    found = json.loads(out)
    assert [entry["kind"] for entry in found] == ["ONNX", "torch.export"]
    model, images = (
        load_pruned(saved, factory=colour_net),
        torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    [outputs] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert np.allclose(outputs, model(images), atol=1e-4)
        assert torch.allclose(torch.export.load(tmp_path / "m.pt2").module()(images), model(images), atol=1e-5)
    assert surroundings(saved) == before


def test_a_line_for_people(dfpc, tmp_path):
    path = tmp_path / "m.pt2"
    code, out, _ = dfpc("export", NET, "--size", "8", "--program", path)
    assert code == 0
    assert out.startswith(f"{path} (torch.export, 0.")
    assert "outputs differ by" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("SAVED", "--factory", NET), 2, "--onnx model.onnx (or --program model.pt2, or both)."),
        (("SAVED", "--onnx", "m.onnx"), 1, f"if you trust it, say so by --factory {NET}."),
        (
            ("SAVED", "--factory", NET, "--onnx", "no/where.onnx"),
            1,
            "Cannot write 'no/where.onnx': there is no directory 'no'.",
        ),
        (("SAVED", "--factory", NET, "--onnx", "."), 1, "it is a directory; name a file in it."),
        (
            ("SAVED", "--factory", NET, "--onnx", "m.onnx", "--size", "16"),
            1,
            "cannot be called with inputs of 1x3x16x16",
        ),
        (
            ("SAVED", "--factory", NET, "--onnx", "m.onnx", "--batch_size", "0"),
            2,
            "batch_size must be 1 or more, not 0.",
        ),
        (("SAVED", "--factory", NET, "--onx", "m.onnx"), 2, "did you mean --onnx?"),
        (("SAVED", "--factory", NET, "--output", "m.onnx"), 2, "did you mean --onnx m.onnx?"),
        (("SAVED", "--factory", NET, "--output", "m.pt2"), 2, "did you mean --program m.pt2?"),
        (("nothing", "--onnx", "m.onnx"), 1, "No model is called 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(dfpc, saved, tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    found, out, err = dfpc("export", *(str(saved) if argument == "SAVED" else argument for argument in arguments))
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_it_says_what_to_install(dfpc, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    code, out, err = dfpc("export", saved, "--factory", NET, "--onnx", tmp_path / "m.onnx")
    assert (code, out) == (1, "")
    assert "'onnxruntime', which is not installed; run: pip install \"dfpc-plugin[export]\"" in err
    assert list(tmp_path.iterdir()) == []
