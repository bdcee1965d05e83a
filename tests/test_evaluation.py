"""Accuracy and loss, against a computation by hand."""

import dataclasses
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dfpc_plugin.data import DataError, calibration_images, evaluation_transform, open_images
from dfpc_plugin.evaluation import evaluate_model, probe
from dfpc_plugin.finetuning import FinetuneSettings, finetune
from dfpc_plugin.models import build_model, load_weights, preprocessing_of
from digit_runs import PREPROCESSING, digit_net, val_digits
from image_files import write_folder

DATA = os.environ.get("DFPC_DATA")


@pytest.fixture
def model():
    return digit_net()


@pytest.mark.parametrize(("batch_size", "workers"), [(256, 0), (77, 0), (200, 2)])
def test_against_a_computation_by_hand(model, batch_size, workers):
    dataset = val_digits()
    images = torch.stack([dataset[i][0] for i in range(len(dataset))]).double()
    labels = np.array(dataset.labels)
    with torch.no_grad():
        outputs = digit_net().double().eval()(images).numpy()
    ranked = np.argsort(-outputs, axis=1)
    losses = np.log(np.exp(outputs).sum(1)) - outputs[np.arange(len(labels)), labels]
    found = evaluate_model(model, dataset, batch_size, workers)
    assert found.count == 540
    assert found.top1 == 100 * (ranked[:, 0] == labels).sum() / 540
    assert found.top5 == 100 * (ranked[:, :5] == labels[:, None]).sum() / 540
    assert found.loss == pytest.approx(losses.mean(), rel=1e-6)


def test_the_model_and_the_generators_stay_as_they_are(model):
    model.train()
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = evaluate_model(model, val_digits())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(evaluate_model(model, val_digits()), seconds=0)


class RandomImages(Dataset):
    """Every image is drawn from the generator of the process, and so few classes have names that the classes are compared."""

    classes = ("a", "b")

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.randn(3, 8, 8), 1


@pytest.mark.parametrize(
    "read",
    [
        lambda model, images: evaluate_model(model, images, 4),
        lambda model, images: probe(model, images),
        lambda model, images: calibration_images(images, 3),
    ],
    ids=["evaluate_model", "probe", "calibration_images"],
)
def test_images_that_are_drawn_at_random_leave_the_generators_alone(read):
    wrong = nn.Linear(192, 2)
    nn.init.zeros_(wrong.weight)
    wrong.bias.data = torch.tensor([1.0, 0.0])  # no label is recognised
    before = torch.get_rng_state()
    read(nn.Sequential(nn.Flatten(), wrong), RandomImages())
    assert torch.equal(torch.get_rng_state(), before)


class Says(nn.Module):
    """A classifier of so many classes that names one, as the first pixel says."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, images):
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].round().long(), self.outputs).float()


def test_some_of_imagenets_classes_are_measured_by_their_wordnet_ids(tmp_path):
    names = ImageNetInfo().label_names()
    source = write_folder(tmp_path / "data", [f"{names[number]}/{number}.png" for number in (3, 5, 200)])
    numbers = iter([3, 3, 5, 200])  # of the image that is looked at before, and of all
    dataset = open_images(source, "val", lambda image: torch.full((3, 4, 4), float(next(numbers))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate_model(Says(1000), dataset, 1).top1 == 100


def test_fewer_classes_than_outputs_are_a_warning(tmp_path):
    source = write_folder(tmp_path / "data", ["a/0.png", "c/1.png"])

    def opened(*numbers):
        left = iter((numbers[0], *numbers))  # the first image is looked at before
        return open_images(source, "val", lambda image: torch.full((3, 4, 4), float(next(left))))

    said = r"has 2 classes and the model 3 outputs\. .* the accuracy is wrong\. If not, add an empty folder"
    with pytest.warns(UserWarning, match=said):
        assert evaluate_model(Says(3), opened(0, 1), 1).top1 == 100
    (source / "b").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate_model(Says(3), opened(0, 2), 1).top1 == 100


def test_any_data_set_that_names_its_classes_is_a_warning_behind_a_loader_too():
    data = TensorDataset(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4), torch.tensor([0, 1]))
    data.classes = ("a", "c")
    for images in (data, DataLoader(data, 2)):
        with pytest.warns(UserWarning, match="has 2 classes and the model 3 outputs"):
            assert evaluate_model(Says(3), images).top1 == 100


class Pictures(Dataset):
    """Two images that only their own collate function makes tensors of, with named classes."""

    classes = ("a", "c")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"pixel": float(index), "label": index}

    @staticmethod
    def collate(items):
        pixels = torch.tensor([item["pixel"] for item in items])
        return pixels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4), torch.tensor([item["label"] for item in items])


class Stream(IterableDataset):
    """The same images, in a row without numbers and of unknown length."""

    classes = Pictures.classes

    def __iter__(self):
        return (Pictures()[index] for index in range(2))


@pytest.mark.parametrize("images", [Pictures(), Stream()], ids=["own collate function", "iterable data set"])
def test_a_loader_reads_its_images_in_its_own_way(images):
    loader = DataLoader(images, 2, collate_fn=Pictures.collate)
    with pytest.warns(UserWarning, match="has 2 classes and the model 3 outputs") as said:
        assert evaluate_model(Says(3), loader).top1 == 100
    assert said[0].filename == __file__
    assert evaluate_model(Says(2), loader, progress=lambda name, share: None).count == 2


def test_a_loader_without_images():
    class Empty(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match=r"The data set holds no images\."):
        evaluate_model(Says(2), DataLoader(Empty()))


def test_few_outputs_have_a_top5_too():
    dataset = TensorDataset(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert evaluate_model(nn.Linear(4, 3), dataset).top5 == 100


def test_progress_is_told(model):
    told = []
    evaluate_model(model, val_digits(100), batch_size=50, progress=lambda name, share: told.append((name, share)))
    assert told == [("evaluating", 0.5), ("evaluating", 1.0)]


def test_more_classes_than_outputs(model):
    model[-1] = nn.Linear(96, 7)
    with pytest.raises(
        DataError, match=r"The data set has 10 classes, the model 7 outputs; build the model with num_classes=10"
    ):
        evaluate_model(model, val_digits(5))
    plain = TensorDataset(torch.randn(3, 4), torch.tensor([0, 3, 1]))
    with pytest.raises(DataError, match="The data set has 4 classes, the model 2 outputs"):
        evaluate_model(nn.Linear(4, 2), plain)
    negative = TensorDataset(torch.randn(2, 4), torch.tensor([0, -1]))
    with pytest.raises(DataError, match="The data set has the label -1"):
        evaluate_model(nn.Linear(4, 2), negative)


def test_wrong_images(model):
    large = open_images(
        "digits", "val", evaluation_transform(dataclasses.replace(PREPROCESSING, size=(1, 16, 16))), limit=4
    )
    with pytest.raises(DataError, match=r"The model cannot take images of shape \(1, 16, 16\): .*preprocessing_of"):
        evaluate_model(model, large)
    with pytest.raises(DataError, match="gives images as Image, not as tensors"):
        evaluate_model(model, open_images("digits", "val"))
    with pytest.raises(DataError, match="holds no images"):
        evaluate_model(model, TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0)))
    with pytest.raises(DataError, match=r"The model is no classifier: for images it gives \(1, 24, 2, 2\)"):
        evaluate_model(model[:9], val_digits(4))
    with pytest.raises(DataError, match="batch_size must be 1 or more, not 0"):
        evaluate_model(model, val_digits(4), batch_size=0)


@pytest.mark.parametrize("workers", [-1, 10**6])
def test_so_many_workers_are_never_started(model, workers):
    with pytest.raises(
        DataError, match=rf"workers={workers} is no number of processes for this machine; give 0 to \d+\."
    ):
        evaluate_model(model, val_digits(4), workers=workers)


@pytest.mark.skipif(not DATA, reason="DFPC_DATA does not say where the networks and images are")
@pytest.mark.parametrize(
    ("network", "accuracy"), [("resnet20", 86.78), pytest.param("resnet56", 88.00, marks=pytest.mark.slow)]
)
def test_networks_reach_their_published_accuracy(network, accuracy):
    """To the digit, so nothing may resample the images."""
    model = build_model(f"cifar/{network}")
    load_weights(model, Path(DATA) / f"{network}_cifar10_jpeg.safetensors")
    preprocessing = dataclasses.replace(
        preprocessing_of(model, f"cifar/{network}"), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    dataset = open_images(Path(DATA) / "cifar10_jpeg_val.zip", "val", evaluation_transform(preprocessing))
    found = evaluate_model(model, dataset)
    assert found.count == 5000
    assert round(found.top1, 2) == accuracy


@pytest.mark.parametrize("label", ["a", None, 1.5, float("nan"), 2**70, torch.ones(2)])
def test_labels_that_are_no_classes(label):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    images = [(torch.rand(3, 2, 2), label)] * 4
    with pytest.raises(DataError, match="which is no class; give whole numbers from 0"):
        evaluate_model(model, images)
    with pytest.raises(DataError, match="which is no class; give whole numbers from 0"):
        finetune(model, images, settings=FinetuneSettings(steps=1, batch_size=4))
