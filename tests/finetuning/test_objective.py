"""Losses against independent computations."""

import numpy as np
import pytest
import torch

from dfpc_plugin.finetuning import FinetuneSettings
from dfpc_plugin.finetuning.optimiser import distillation_loss, mixed, objective

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 4)) * 3
LABELS = np.array([0, 1, 2, 3, 1, 2])


def softmax(outputs):
    powers = np.exp(outputs)
    return powers / powers.sum(1, keepdims=True)


def divergence(temperature):
    """Kullback-Leibler from the teacher, mean over images, by its definition."""
    student, teacher = softmax(STUDENT / temperature), softmax(TEACHER / temperature)
    return (teacher * np.log(teacher / student)).sum(1).mean()


def cross_entropy(smoothing=0.0):
    wanted = np.eye(4)[LABELS] * (1 - smoothing) + smoothing / 4
    return -(wanted * np.log(softmax(STUDENT))).sum(1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_distillation(temperature):
    found = distillation_loss(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), temperature)
    assert found.item() == pytest.approx(temperature**2 * divergence(temperature), rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_of_labels_and_teacher(weight, smoothing):
    settings = FinetuneSettings(distill=weight, temperature=2.0, label_smoothing=smoothing)
    taught = torch.from_numpy(TEACHER) if weight else None
    found = objective(torch.from_numpy(STUDENT), torch.from_numpy(LABELS), taught, settings)
    expected = (1 - weight) * cross_entropy(smoothing) + weight * 4 * divergence(2.0)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_mixing_keeps_images_and_labels_together():
    """Images that hold their own label, one-hot: whatever is mixed, the image says the same as its label."""
    labels = torch.arange(8) % 4
    images = torch.eye(4)[labels].reshape(8, 4, 1, 1).repeat(1, 1, 8, 8)
    settings = FinetuneSettings(mixup=1.0, cutmix=1.0)
    for seed in range(10):
        np.random.seed(seed)  # noqa: NPY002
        found, shares = mixed(images.clone(), labels, 4, settings)
        assert torch.allclose(found.mean((2, 3)), shares, atol=1e-6)
    assert (shares.max(1).values < 1).any()


def test_smoothing_of_mixed_images_is_done_once():
    np.random.seed(0)  # noqa: NPY002
    settings = FinetuneSettings(mixup=1.0, label_smoothing=0.4)
    _, shares = mixed(torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]), 4, settings)
    assert torch.allclose(shares, torch.tensor([[0.7, 0.1, 0.1, 0.1]] * 2))
    outputs = torch.randn(2, 4)
    assert torch.equal(objective(outputs, shares, None, settings), torch.nn.functional.cross_entropy(outputs, shares))
