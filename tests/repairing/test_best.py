"""No repair leaves outputs worse than it found them, nor images worse than noise."""

import copy
import math

import pytest
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import ForwardError
from dfpc_plugin.progress import Phases
from dfpc_plugin.repairing import methods
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.job import Best, RepairJob
from repair_nets import relative_error, small_resnet

REMOVED = {"first.conv1": (0, 5, 9, 14), "second.conv1": (2, 3, 4, 8, 11)}


@pytest.fixture
def cut():
    """A model, its images, and the model without some channels."""
    model, images = small_resnet()
    return model, images, dfpc.replay(copy.deepcopy(model), images[:1], REMOVED)


def damaged(repair):
    """The repair, after which all weights are changed at random."""

    def worse(job, *args):
        result = repair(job, *args)
        with torch.no_grad():
            for parameter in job.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        return result

    return worse


def same(first, second):
    return all(
        torch.equal(own, other)
        for own, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class Drawn(nn.Module):
    """A network between random numbers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        outputs = self.inner(images + 0.1 * torch.randn_like(images))
        return outputs + torch.rand(len(outputs), 1)


def test_random_numbers_of_a_forward_are_no_error(cut):
    model, images, _ = cut
    drawn = Drawn(model)
    job = RepairJob(copy.deepcopy(drawn), drawn, images, dfpc.RepairSettings("mean"), None, Phases(lambda *said: None))
    with torch.no_grad():
        assert job.error(Batches([images])) == 0


@pytest.mark.parametrize(("method", "step"), [("mean", "fold_means"), ("merge", "merge_channels")])
def test_what_makes_noise_worse_is_taken_back(cut, method, step, monkeypatch):
    model, images, pruned = cut
    monkeypatch.setattr(methods, step, damaged(getattr(methods, step)))
    result = dfpc.repair(pruned, model, images[:1], method, removed=REMOVED)
    assert same(result.model, pruned)
    (note,) = result.notes
    assert note.startswith(f"Repair by {method} was taken back: on noise, the output's error is ")
    assert not any(layer.changed for layer in result.layers)
    assert {layer.note for layer in result.layers} == {"taken back"}


@pytest.mark.parametrize("method", ["mean", "merge"])
def test_what_makes_noise_better_stays(cut, method):
    model, images, pruned = cut
    result = dfpc.repair(pruned, model, images[:1], method, removed=REMOVED)
    before, after = result.output_error
    assert after < before and result.notes == ()
    assert (
        f"On noise, the squared error of the outputs went from {before:.1%} to {after:.1%} of their variance."
        in result.summary
    )
    assert relative_error(result.model, model, images) < relative_error(pruned, model, images)


def test_a_fit_that_does_worse_leaves_the_merged_model(cut, monkeypatch):
    model, images, pruned = cut
    merged = dfpc.repair(pruned, model, images[:1], "merge", removed=REMOVED).model
    monkeypatch.setattr(methods, "fit_layers", damaged(methods.fit_layers))
    settings = dfpc.RepairSettings("calibrate", images, batchnorm=False)
    result = dfpc.repair(pruned, model, images[:1], settings, removed=REMOVED)
    assert same(result.model, merged)
    assert any(note.startswith("Repair by calibrate was taken back: ") for note in result.notes)
    before, after = result.output_error
    assert after < before


def test_a_merge_that_does_worse_on_images_is_no_beginning(cut, monkeypatch):
    model, images, pruned = cut
    monkeypatch.setattr(methods, "merge_channels", damaged(methods.merge_channels))
    result = dfpc.repair(pruned, model, images[:1], "calibrate", images=images, removed=REMOVED)
    assert any(note.startswith("merge was taken back: ") for note in result.notes)
    assert relative_error(result.model, model, images) < relative_error(pruned, model, images)


def test_outputs_that_cannot_be_compared_keep_the_repair(cut):
    model, images, pruned = cut

    def nothing(network, x):
        network(x)

    result = dfpc.repair(pruned, model, images[:1], "merge", removed=REMOVED, forward_fn=nothing)
    assert not same(result.model, pruned)
    assert isinstance(result.model, nn.Module)


def test_images_do_where_a_model_takes_no_noise(cut, monkeypatch):
    model, images, pruned = cut

    def no_noise(job, moments):
        job.model.head.weight.data.zero_()
        raise ForwardError("noise", (), ValueError("no photograph"))

    monkeypatch.setattr(methods, "merge_channels", no_noise)
    result = dfpc.repair(pruned, model, images[:1], "calibrate", images=images, removed=REMOVED)
    assert (
        "Least squares began without merging, as the model does not take noise: The model cannot be called with "
        "noise (ValueError: no photograph); give inputs of the shape and type that it takes." in result.notes
    )
    before, after = result.output_error
    assert after < before


def test_an_error_that_is_no_number_does_not_keep_a_repair_back(cut):
    model, images, pruned = cut
    job = RepairJob(pruned, model, images[:1], dfpc.RepairSettings("merge"), None, Phases(lambda *said: None))
    with torch.no_grad():
        pruned.head.bias.fill_(torch.nan)
        best = Best(job, Batches([images]), "images")
        pruned.head.bias.zero_()
        assert best.keep("It")
    assert best.error is not None and math.isfinite(best.error)
