import json

import pytest

from dfpc_plugin.cli import main
from workflow_runs import NET

QUICK = ("--min_run_time", "0.02", "--json")


def test_a_saved_model_beside_the_unpruned_one(dfpc, saved):
    code, out, err = dfpc("bench", NET, saved, "--size", "8", "--factory", NET, "--threads", "1", *QUICK)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(found) == [NET, str(saved)]
    assert found[NET]["speedup"] == 1.0
    for figures in found.values():
        assert figures["latency_ms"] > 0
        assert figures["threads"] == 1
    one, other = found.values()
    assert other["speedup"] == pytest.approx(one["latency_ms"] / other["latency_ms"], rel=0.5)


def test_a_table_for_people(dfpc):
    code, out, err = dfpc("bench", "test_vit", "test_vit2", "--min_run_time", "0.02", "--batch_size", "2")
    assert (code, err) == (0, "")
    assert out.startswith("2x3x")
    assert "test_vit2" in out
    assert "1.00x" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((NET, "test_resnet"), 1, f"'{NET}' cannot be called with inputs of 1x3x224x224"),
        (
            ("test_resnet", "torchvision/resnet18"),
            1,
            "'test_resnet' takes [(1, 3, 160, 160)] and 'torchvision/resnet18' takes [(1, 3, 224, 224)]",
        ),
        (("test_resnet", "torchvision/resnet18"), 1, "so their times say nothing of each other; give --size."),
        (
            ("test_vit", "--size", "161"),
            1,
            "(AssertionError: Input height (161) should be divisible by patch size (16).)",
        ),
        (("test_resnet", "--threads", "0"), 2, "threads must be 1 to 4096, not 0."),
        (("test_resnet", "--min_run_time", "-1"), 2, "min_run_time must be above 0, not -1.0."),
        (("test_resnet", "--batch_size", "0"), 2, "batch_size must be 1 or more, not 0."),
        (("test_resnet", "--batch_size", "1" + 15 * "0"), 1, "There is no memory for batch_size=1000000000000000"),
        (("test_resnt",), 1, "did you mean test_resnet"),
        (("test_resnet", "--thread", "1"), 2, "did you mean --threads?"),
        ((), 2, "models"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(dfpc, arguments, code, text):
    found, out, err = dfpc("bench", *arguments)
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1


def test_a_saved_model_of_ones_own_needs_its_function(dfpc, saved):
    code, out, err = dfpc("bench", saved, *QUICK)
    assert (code, out) == (1, "")
    assert err == (
        f"The model in '{saved}' is built by a function of your own, and no file decides which code is run; if you trust it, say so "
        f"by --factory {NET}.\n"
    )


@pytest.fixture(scope="module")
def graph(saved, tmp_path_factory):
    """The saved model as an ONNX file."""
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    assert main(["export", str(saved), "--factory", NET, "--size", "8", "--onnx", str(path), "--json"]) == 0
    return path


def test_an_onnx_file_runs_in_onnxruntime_beside_models(dfpc, saved, graph):
    code, out, err = dfpc("bench", saved, graph, "--size", "8", "--factory", NET, "--threads", "1", *QUICK)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [(name, figures["runtime"]) for name, figures in found.items()] == [
        (str(saved), "torch"),
        (str(graph), "onnxruntime"),
    ]


def test_models_are_measured_in_the_runtime_asked_for(dfpc, saved, graph):
    options = ("--size", "8", "--factory", NET, "--runtime", "onnxruntime", "--min_run_time", "0.02")
    code, out, err = dfpc("bench", NET, graph, *options)
    assert code == 0, err
    assert out.count("ONNX Runtime") == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere.onnx",), "Cannot read 'nowhere.onnx': No such file"),
        (("test_resnet", "--runtime", "onnxruntim"), "runtime='onnxruntim' is none of torch, compile,"),
        (
            ("GRAPH", "--batch_size", "2", "--size", "9"),
            "The input 'input' of the ONNX file is anyx3x8x8, and a size of 9 was asked for;",
        ),
        (("GRAPH", "test_vit"), "The ONNX file takes anyx3x8x8, and is to be given 1x3x160x160;"),
    ],
)
def test_what_cannot_be_done_with_graphs_is_one_sentence(dfpc, graph, arguments, text):
    code, out, err = dfpc("bench", *(str(graph) if argument == "GRAPH" else argument for argument in arguments))
    assert (code, out) == (1, "")
    assert text in err


def test_an_unknown_runtime_of_a_target_is_named_by_its_option(dfpc, tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {name: test_resnet}\ntarget: macs=0.5\nlatency: {runtime: onx}\n")
    flags = ("test_resnet", "--target", "macs=0.5", "--latency.runtime", "onx")
    for arguments in (flags, (tmp_path / "recipe.yaml",)):
        code, out, err = dfpc("prune", *map(str, arguments), "--output", str(tmp_path / "x"))
        assert (code, out) == (2, "")
        assert err.startswith("dfpc prune: latency.runtime='onx' is none of torch, compile, onnxruntime, openvino;"), (
            err
        )


def test_the_runtime_of_a_target_is_an_option_of_prune(dfpc):
    code, out, err = dfpc(
        "prune", "test_resnet", "--latency.runtime", "onnxruntime", "--latency.threads", "1", "--print_config"
    )
    assert (code, err) == (0, "")
    assert "runtime: onnxruntime" in out
