"""`sensitivity`: errors of single couplings, against forwards with channels set to zero."""

import csv
import dataclasses
import io
import re

import pytest
import torch

import dfpc_plugin as dfpc
from budget_tools import everything, same
from dfpc_plugin.comparing import CompareError
from repair_nets import relative_error, small_resnet

SHARES = (0, 0.1, 0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def net():
    """A network in which four of the sixteen channels of the first block's inner coupling are read with zero weights."""
    model, images = small_resnet()
    with torch.no_grad():
        model.first.conv2.weight[:, [1, 5, 6, 11]] = 0
    return model, images


@pytest.fixture(scope="module")
def result(net):
    model, images = net
    model.train()
    before, state = everything(model), torch.get_rng_state()
    found = dfpc.sensitivity(model, images[:1], shares=SHARES, images=images)
    assert same(everything(model), before), "the model is left alone"
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    return found


def test_nothing_removed_is_no_error(result):
    assert [coupling.name for coupling in result.couplings] == ["stem", "first.conv1", "second.conv1"]
    for coupling in result.couplings:
        assert coupling.removed[0] == 0
        assert {kind: errors[0] for kind, errors in coupling.errors.items()} == {
            "predicted": 0,
            "noise": 0,
            "images": 0,
        }


def test_useless_channels_go_first_and_cost_nothing(result):
    planted, other = result.couplings[1], result.couplings[2]
    assert planted.removed == (0, 1, 4, 8, 12)
    for kind in ("predicted", "noise", "images"):
        assert planted.errors[kind][:3] == (0, 0, 0)
        assert planted.errors[kind][3] > 1e-4
        assert other.errors[kind][1] > 1e-4


def test_errors_on_images_are_those_of_channels_that_are_zero(net, result):
    model, images = net
    scores = dfpc.bgsc(model, images[:1], ranking="output")
    for coupling in result.couplings[1:]:
        block = model.get_submodule(coupling.name.partition(".")[0])
        order = scores[coupling.name].argsort(stable=True)
        for count, error, predicted in zip(
            coupling.removed, coupling.errors["images"], coupling.errors["predicted"], strict=True
        ):
            handle = block.conv2.register_forward_pre_hook(
                lambda _, args, gone=order[:count]: (args[0].index_fill(1, gone, 0.0),)
            )
            with torch.no_grad():
                zeroed = model(images)
            handle.remove()
            wanted = model(images).detach()
            expected = (zeroed - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
            assert error == pytest.approx(float(expected), rel=1e-3, abs=1e-9)
            assert predicted == pytest.approx(float(scores[coupling.name][order[:count]].sum()))


def test_it_is_what_prune_would_leave(net, result):
    """Pruning that coupling alone, by the same scores, gives the same error."""
    model, images = net
    pruned = dfpc.prune(
        model, images[:1], "ratio=0.5", importance=dfpc.DFPCImportance("output"), per="channel", repair="none",
        ignored_layers=["stem", "first.conv2", "second.conv2", "first.conv1"], min_channels=1,
    )  # fmt: skip
    [cut] = pruned.couplings
    assert (cut.name, cut.after) == ("second.conv1", 8)
    assert result.couplings[2].errors["images"][3] == pytest.approx(
        relative_error(pruned.model, model, images), rel=1e-3
    )


def test_without_images_there_are_predictions_and_noise(net):
    model, images = net
    found = dfpc.sensitivity(model, images[:1], shares=[0.5], ignored_layers="first.*")
    assert found.sources == {"predicted": "the scores", "noise": "256 images of noise"}
    assert [coupling.name for coupling in found.couplings] == ["second.conv1"]


def test_one_channel_always_stays(net):
    model, images = net
    found = dfpc.sensitivity(model, images[:1], shares=[0.999])
    assert [(coupling.channels, *coupling.removed) for coupling in found.couplings] == [(12, 11), (16, 15), (16, 15)]


def test_files_hold_the_numbers(result):
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert len(rows) == 3 * len(SHARES)
    content = result.to_json()
    for number, row in enumerate(rows):
        coupling, position = content["couplings"][number // len(SHARES)], number % len(SHARES)
        assert row["coupling"] == coupling["name"]
        assert float(row["share"]) == SHARES[position]
        assert int(row["removed"]) == coupling["removed"][position]
        assert all(float(row[kind]) == errors[position] for kind, errors in coupling["errors"].items())


def test_the_table_fits_80_columns(result):
    text = str(result)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^ first.conv1 +16 +\d+\.\d% +predicted +0 +0 +0 ", text, re.MULTILINE)
    assert "images: 64 of the given images." in text


def test_the_table_says_why_predicted_and_measured_errors_differ(result):
    told = " ".join(str(result).split())
    assert "The predicted error is a sum over channels" in told
    assert "Measured errors include this shift" in told


def test_a_shift_of_the_mean_is_measured_and_not_predicted():
    """A channel that is the same for all inputs has no variance: its score is nothing, and its loss is measured."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 4, 1),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 3),
    ).eval()
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0] = 0.0, 5.0
    found = dfpc.sensitivity(model, torch.randn(1, 3, 8, 8), shares=[0.25], ignored_layers="2")
    [coupling] = found.couplings
    assert coupling.errors["predicted"][0] < 1e-6 < 0.1 < coupling.errors["noise"][0]


def test_the_picture_has_a_panel_per_source(result, tmp_path):
    figure = result.plot(tmp_path / "sensitivity.svg")
    assert (tmp_path / "sensitivity.svg").read_bytes().startswith(b"<?xml")
    *panels, _ = figure.axes
    assert [panel.get_title() for panel in panels] == [
        "Predicted by the scores", "Measured on 256 images of noise", "Measured on 64 of the given images",
    ]  # fmt: skip
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["stem", "first.conv1", "second.conv1"]


def test_the_colours_tell_all_large_errors_apart(result):
    """They end at the largest error, and not at 100 %."""
    for errors, highest in (((0.01, 0.5, 0.9), 100), ((0.01, 2.0, 9.0), 900)):
        couplings = tuple(
            dataclasses.replace(own, errors={kind: errors[: len(values)] for kind, values in own.errors.items()})
            for own in result.couplings
        )
        figure = dataclasses.replace(result, couplings=couplings).plot()
        limits = [panel.images[0].get_clim() for panel in figure.axes[:-1]]
        assert limits == [(1e-2, pytest.approx(highest))] * 3


@pytest.mark.parametrize("shares", [(), (1.0,), (0.5, -0.1)])
def test_shares_that_make_no_sense(net, shares):
    model, images = net
    with pytest.raises(CompareError, match=r"shares\S* must be (0 or more and below 1|one or more shares)"):
        dfpc.sensitivity(model, images[:1], shares=shares)


def test_its_repr_is_one_line_and_notebooks_show_the_table(result):
    assert repr(result) == "SensitivityResult of 3 couplings by predicted, noise, images; print it for a table."
    assert "first.conv1" in result._repr_html_()
