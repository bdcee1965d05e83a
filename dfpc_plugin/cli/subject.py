"""The options by which commands name a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfpc_plugin.workflow.opening import Opened, device_of, open_model
from dfpc_plugin.workflow.recipe import DataSection, ModelSection

__all__ = ["DataOptions", "SubjectOptions"]


@dataclass(frozen=True)
class SubjectOptions:
    """A saved model, or one by name.

    Attributes:
        model: The directory of a saved model, a timm model, torchvision/NAME, cifar/NAME, or package.module:function.
        pretrained: Load the weights that timm or torchvision hold for it; a saved model has its own.
        weights: Load weights from this file: safetensors, or a checkpoint of mere tensors.
        options: Keyword arguments of the model's builder, such as '{"num_classes": 10}'.
        size: Height and width of images in pixels, instead of what the model was made for.
        factory: Builds the unpruned model of a saved one of your own, as package.module:function; its code is run.
        device: Where to work: cpu, cuda, or auto for a GPU if there is one.
    """

    model: str
    pretrained: bool = False
    weights: Path | None = field(default=None, metadata={"metavar": "FILE"})
    options: dict[str, Any] = field(default_factory=dict, metadata={"metavar": "JSON"})
    size: int | None = None
    factory: str | None = None
    device: str = "auto"

    def opened(self, *, batch_size: int = 1, saved: bool = False) -> Opened:
        """Open the model; where it is a saved one, `saved`, the weights named beside it are not its own.

        Raises:
            DFPCError: As `open_model` raises.
        """
        own: dict[str, Any] = (
            {} if saved else {"options": self.options, "pretrained": self.pretrained, "weights": self.weights}
        )
        section = ModelSection(self.model, **own, size=self.size, batch_size=batch_size)
        return open_model(section, device_of(self.device), factory=self.factory)


@dataclass(frozen=True)
class DataOptions(SubjectOptions):
    """A model, and how its images are read.

    Attributes:
        root: The folder that holds the data sets of torchvision.
        download: Fetch them if they are not there.
        mean: Means of the channels, instead of the model's own.
        std: Standard deviations of the channels, instead of the model's own.
        workers: Processes that read images.
    """

    root: Path | None = None
    download: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    workers: int = 0

    def section(self, **values: Any) -> DataSection:
        """The images as a section of a recipe, with more of its keys."""
        return DataSection(
            root=self.root, download=self.download, mean=self.mean or None, std=self.std or None, workers=self.workers,
            **values,
        )  # fmt: skip
