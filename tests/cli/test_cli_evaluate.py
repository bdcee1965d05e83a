import json
import warnings

import pytest

from dfpc_plugin import cli
from dfpc_plugin.artifact import read_manifest
from workflow_runs import NET, surroundings

FROM = ("--factory", NET, "--data", "digits")


def test_a_saved_model_is_read_as_it_was_saved(dfpc, saved):
    """Means, size and all are those of the recipe, without being said again."""
    before = surroundings(saved)
    code, out, err = dfpc("evaluate", saved, *FROM, "--json")
    assert (code, err) == (0, "")
    known = read_manifest(saved).record["evaluations"][-1]
    found = json.loads(out)
    assert {name: found[name] for name in ("top1", "top5", "loss", "count")} == {
        name: known[name] for name in ("top1", "top5", "loss", "count")
    }
    assert surroundings(saved) == before


def test_a_line_for_people(dfpc, saved):
    code, out, err = dfpc("evaluate", saved, *FROM, "--limit", "50")
    assert (code, err) == (0, "")
    assert out.startswith(f"{saved} on scikit-learn's digits: top-1 ")
    assert out.endswith(" on 50 images\n")


def test_other_means_count(dfpc, saved):
    figures = [
        json.loads(dfpc("evaluate", saved, *FROM, "--json", *more)[1])["loss"]
        for more in ((), ("--mean", "0.9"), ("--mean", "0.3"))
    ]
    assert figures[0] != figures[1]
    assert figures[0] == figures[2]


def test_a_model_by_name_with_weights(dfpc, weights):
    code, out, _ = dfpc(
        "evaluate",
        NET,
        "--weights",
        weights,
        "--size",
        "8",
        "--data",
        "digits",
        "--mean",
        "0.3",
        "--std",
        "0.35",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["top1"] > 70


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("SAVED",), 2, "data is missing: say which images to evaluate on, such as --data val.zip."),
        (("SAVED", "--data", "digits"), 1, f"if you trust it, say so by --factory {NET}."),
        (("SAVED", "--data", "nowhere", "--factory", NET), 1, "There is no 'nowhere'; give a folder, a zip archive"),
        (
            ("SAVED", *FROM, "--weights", "w.pth"),
            1,
            "is a saved model, which has its weights and options; give none beside it.",
        ),
        (("SAVED", *FROM, "--mean", "0.1", "0.2"), 1, "data.mean has 2 values for 3 channels; give one for each."),
        (("SAVED", *FROM, "--std", "0"), 2, "std[0] must be above 0, not 0.0."),
        (("SAVED", *FROM, "--size", "16"), 1, "cannot be called with inputs of 1x3x16x16"),
        (("SAVED", *FROM, "--limit", "0"), 2, "limit must be 1 or more, not 0."),
        (("SAVED", *FROM, "--split", "tst"), 2, "did you mean test?"),
        (("SAVED", *FROM, "--batchsize", "3"), 2, "did you mean --batch_size?"),
        (("SAVED", "--data", "digits", "--factory", "os:getcwd"), 1, "os:getcwd"),
        (
            ("SAVED", "--data", "digits", "--factory", "workflow_nets:other"),
            1,
            "'workflow_nets:other' cannot be imported",
        ),
        (
            ("SAVED", "--data", "digits", "--factory", "digit_runs:digit_net"),
            1,
            "is built otherwise now than when it was saved",
        ),
        (
            ("test_resnet", "--data", "digits", "--size", "16", "--options", '{"num_classes": 3}'),
            1,
            "10 classes, the model 3 outputs",
        ),
        (("test_resnet", "--data", "digits", "--pretrained", "--weights", "w"), 1, "pretrained and weights both say"),
        (("test_resnet", "--data", "digits", "--device", "cuda:99"), 1, "device='cuda:99' is not here"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(dfpc, saved, arguments, code, text):
    found, out, err = dfpc("evaluate", *(str(saved) if argument == "SAVED" else argument for argument in arguments))
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1


def test_warnings_are_sentences_without_lines_of_code():
    before = warnings.formatwarning
    with cli._plain_warnings():
        assert warnings.formatwarning("Fewer classes.", UserWarning, "evaluate.py", 65) == "Warning: Fewer classes.\n"
    assert warnings.formatwarning is before
