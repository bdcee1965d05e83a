"""Accuracy on labelled images."""

from __future__ import annotations

import contextlib
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dfpc_plugin.advice import setting
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.data import DataError, ImageDataset, checked_workers, collate_images, fault_of_dataset
from dfpc_plugin.plain_data import Count, checked
from dfpc_plugin.preserve import evaluating, watched
from dfpc_plugin.progress import Progress, shown
from dfpc_plugin.wrappers import HoldsModel, as_model


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and loss of a model on a data set.

    Attributes:
        top1: Top-1 accuracy in per cent.
        top5: Top-5 accuracy in per cent.
        loss: Mean cross-entropy.
        count: Number of images.
        seconds: Time of the evaluation.
    """

    top1: float
    top5: float
    loss: float
    count: int
    seconds: float

    @classmethod
    def of(cls, sums: Tensor, seconds: float) -> Evaluation:
        """Convert the sums that `tally` returns."""
        count, top1, top5, loss = sums.tolist()
        return cls(100 * top1 / count, 100 * top5 / count, loss / count, int(count), seconds)

    def __float__(self) -> float:
        """Return the top-1 accuracy, so that `prune` takes an evaluation as a score."""
        return float(self.top1)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)

    def __str__(self) -> str:
        """Summarise in one line."""
        return f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, loss {self.loss:.4f} on {self.count} images"


@checks_arguments
def evaluate_model(
    model: nn.Module | HoldsModel,
    dataset: Dataset[tuple[Tensor, int]] | DataLoader[Any],
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | bool | None = None,
) -> Evaluation:
    """Evaluate a classifier on its device, and leave it unchanged.

    A label is the number of an image's class in the data set. If the data set has some of ImageNet's 1000 classes, in folders
    named by WordNet id, and the model all of them, labels are the numbers of ImageNet-1k.

    Args:
        model: From images `(N, C, H, W)` to outputs `(N, classes)`, or a result that holds a model.
        dataset: A map-style data set of pairs (image, label), such as `open_images` returns; or a DataLoader with its own
            batch size and workers.
        batch_size: Images per batch.
        workers: Processes that read images.
        progress: True for bars at once, False for none, or a function that is called with the phase and the fraction of it
            that is done. By default bars after a few seconds, in a terminal or a notebook; `DFPC_PROGRESS=0` silences all
            calls.

    Raises:
        DataError: There are no images, labels go beyond the model's outputs, the model has more classes than the data set and
            accuracy is at chance level, or it cannot take the images.
        ModelFormError: `model` is not a model.
    """
    start, model = time.perf_counter(), as_model(model)
    if isinstance(dataset, ImageDataset):
        dataset = dataset.numbered_for(probe(model, dataset))
    with shown(progress) as tell:
        sums, outputs = tally(model, dataset, batch_size, workers, tell)
    if not sums[0]:
        raise DataError("The data set holds no images.")
    found = Evaluation.of(sums, time.perf_counter() - start)
    named = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    _compare_classes(len(getattr(named, "classes", ())), outputs, found)
    return found


def tally(
    model: nn.Module,
    dataset: Dataset[tuple[Tensor, int]] | DataLoader[Any],
    batch_size: int,
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[Tensor, int]:
    """Sum images, top-1 hits, top-5 hits and cross-entropy over a data set; float64 on the CPU, to be added over parts.

    Returns the sums, and the number of the model's outputs. Only the loader reads the data set: it may have its own way to
    collate, or no images by number.

    Raises:
        DataError: As `evaluate_model` says.
    """
    loader = dataset if isinstance(dataset, DataLoader) else _loader(dataset, batch_size, workers)
    count = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
    sums, classes = torch.zeros(4, dtype=torch.float64), 0
    with evaluating(model, hooks=False), torch.no_grad():
        for batch in loader:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise DataError(
                    f"The DataLoader gives a {type(batch).__name__} in place of a pair of images and labels."
                )
            images, labels = batch
            with watched() if sums[0] == 0 else contextlib.nullcontext():  # all batches write to the same tensors
                outputs = _outputs(model, images)
            _check_classes(outputs, labels, loader.dataset)
            sums, classes = sums + _sums(outputs.float(), labels.to(outputs.device)), outputs.shape[1]
            if progress is not None and count:
                progress("evaluating", sums[0].item() / count)
    return sums, classes


def _loader(dataset: Any, batch_size: int, workers: int) -> DataLoader[Any]:
    """Read a data set in batches; raise DataError if it is empty or no map-style data set, or a setting is invalid."""
    fault = fault_of_dataset(dataset)
    if fault is not None:
        raise DataError(f"The images are {fault}, or give a DataLoader.")
    if len(dataset) == 0:
        raise DataError("The data set holds no images to evaluate on.")
    checked(Count, batch_size, "batch_size", DataError)
    workers = min(checked_workers(workers), -(-len(dataset) // batch_size))  # no more than there are batches
    return DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate_images)


def _compare_classes(classes: int, outputs: int, found: Evaluation) -> None:
    """Warn if a data set has fewer classes than the model; raise DataError if accuracy is at chance level, too."""
    if not 0 < classes < outputs:
        return
    missing = "add an empty folder for every class that is missing"
    if found.top1 <= 100 / classes:
        raise DataError(
            f"The data set has {classes} classes, the model {outputs} outputs, and {found.top1:.1f} % of the images are "
            f"classified as their labels say, which is chance: the model's classes are others, or numbered otherwise. Take the "
            f"data that the model was trained for; if it is a part of that, {missing}."
        )
    warnings.warn(
        f"The data set has {classes} classes and the model {outputs} outputs. Labels are the positions of the classes in the "
        f"data set: unless these are the model's first {classes} outputs, the accuracy is wrong. If not, {missing}.",
        stacklevel=4,
    )


def probe(model: nn.Module, dataset: Dataset[tuple[Tensor, int]]) -> int:
    """Check that a model takes the first image and has an output for every known label; return its number of outputs.

    Raises:
        DataError: It does not.
    """
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise DataError("The data set holds no images.")
    with evaluating(model, hooks=False), torch.no_grad(), watched():
        images, labels = collate_images([dataset[0]])
        outputs = _outputs(model, images)
    _check_classes(outputs, torch.as_tensor(dataset.labels) if isinstance(dataset, ImageDataset) else labels, dataset)
    return outputs.shape[1]


def _check_classes(outputs: Tensor, labels: Tensor, dataset: object) -> None:
    """Check that `outputs (N, classes)` cover all `labels (N,)` and the `classes` of the data set, if it has some.

    Raises:
        DataError: A label has no output.
    """
    classes = max(len(getattr(dataset, "classes", ())), int(labels.max()) + 1)
    if classes > outputs.shape[1]:
        raise DataError(
            f"The data set has {classes} classes, the model {outputs.shape[1]} outputs; build the model with "
            f"{setting('num_classes', classes)}, or take the data it was trained for."
        )
    if int(labels.min()) < 0:
        raise DataError(f"The data set has the label {int(labels.min())}; number classes from 0.")


def model_device(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Call the model on its device; raise DataError if it cannot take the images, or is no classifier."""
    try:
        outputs = model(images.to(model_device(model)))
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(
            f"The model cannot take images of shape {tuple(images.shape[1:])}: {error}. Open the data set with the transform "
            f"that belongs to the model: evaluation_transform(preprocessing_of(model, name))."
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(f"The model is no classifier: for images it gives {found}, not one row of outputs for each.")
    return outputs


def _sums(outputs: Tensor, labels: Tensor) -> Tensor:
    ranked = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    loss = F.cross_entropy(outputs, labels, reduction="sum")
    found = (hits[:, 0].sum(), hits.sum(), loss)
    return torch.tensor([len(labels), *(value.item() for value in found)], dtype=torch.float64)
