"""The sections of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from dfpc_plugin.criteria import AUTO, CRITERIA
from dfpc_plugin.data import AugmentSettings
from dfpc_plugin.errors import DFPCError, RepairError
from dfpc_plugin.plain_data import Checked, Count, Natural, Positive, within
from dfpc_plugin.pruning import PruneSettings
from dfpc_plugin.repairing import METHODS, Method, RepairMethod, RepairOptions


class RecipeError(DFPCError, ValueError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True)
class ModelSection(Checked, error=RecipeError):
    """The model.

    Attributes:
        name: A timm model, torchvision/NAME, cifar/NAME, your own package.module:function, the directory of a saved model, or
            a checkpoint that names its architecture.
        options: Keyword arguments of the function that builds the model, such as num_classes; by default read from the
            checkpoint, if it has them.
        pretrained: Load the trained weights of timm or torchvision.
        weights: Load weights from this file: safetensors, or a PyTorch checkpoint (tensors only, no code).
        ignore_surplus: Leave out tensors of the checkpoint that the model does not have.
        size: Height and width of images in pixels, instead of the model's default.
        batch_size: Batch size of the example inputs, for which MACs are counted and latency is measured.
        factory: Builds the unpruned model of a saved one of your own, as package.module:function; its code is run.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    ignore_surplus: bool = False
    size: Count | None = None
    batch_size: Count = 1
    factory: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.pretrained and self.weights is not None:
            raise RecipeError("pretrained and weights both say where weights come from; give one of them.")


@dataclass(frozen=True)
class DataSection(Checked, error=RecipeError):
    """Labelled images, for accuracy, calibration and fine-tuning.

    Attributes:
        train: Images for training: a folder or a zip archive with one folder of images per class, torchvision/NAME, or digits.
        val: Images to measure accuracy on, in the same form.
        train_split: Part of `train` to use; by default train, or, where labels are not needed, the only part there is.
        val_split: Part of `val` to use.
        root: The folder of torchvision's data sets.
        download: Download them if they are missing.
        limit: Measure accuracy on this number of images, evenly over the classes.
        mean: Means of the channels, instead of the model's own.
        std: Standard deviations of the channels, instead of the model's own.
        batch_size: Batch size when accuracy is measured.
        workers: Number of processes that read images.
        augment: Augmentation of training images.
    """

    train: str | None = None
    val: str | None = None
    train_split: Literal["train", "val", "test"] | None = None
    val_split: Literal["train", "val", "test"] = "val"
    root: Path | None = None
    download: bool = False
    limit: Count | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    batch_size: Count = 64
    workers: Natural = 0
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass(frozen=True)
class _Importance:
    """The first option of `PruneSection`."""

    importance: str = field(default=AUTO, metadata={"choices": CRITERIA})


@dataclass(frozen=True)
class PruneSection(PruneSettings, _Importance, error=RecipeError):
    """Which channels to prune: a criterion, and the settings of `PruneSettings`.

    Attributes:
        importance: Criterion: auto (the error at the outputs, after the repair if one follows), or by name.
        ignored_layers: Layers whose outputs are not pruned: names, or patterns such as "layer4.*".
    """

    ignored_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.importance != AUTO:
            CRITERIA.find(self.importance, RecipeError, AUTO, setting="prune.importance")


@dataclass(frozen=True)
class _Method:
    """The first option of `RepairSection`."""

    method: Method = field(default=AUTO, metadata={"choices": METHODS})


@dataclass(frozen=True)
class RepairSection(RepairOptions, _Method, error=RecipeError):
    """How to repair the pruned model: a method, and the options of `RepairSettings`.

    Attributes:
        method: The method; calibrate takes images of `data.train`. auto is merge, or none if weights are random.
    """

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        _ = self.how

    @property
    def how(self) -> RepairMethod:
        """The method itself, merge for auto; raise a RepairError if there is none of this name."""
        return METHODS.find("merge" if self.method == AUTO else self.method, RepairError, AUTO, setting="repair.method")


@dataclass(frozen=True)
class ExportSection(Checked, error=RecipeError):
    """Exports to write in addition to the saved model.

    Attributes:
        onnx: Write model.onnx, after comparing its outputs in onnxruntime.
        program: Write model.pt2, a program of torch.export.
        int8: Write model-int8.onnx beside model.onnx, quantized for onnxruntime. static: convolutions and matrix products,
            with ranges measured on images (those of `data.train`, or images made from batch norms); dynamic: matrix products
            only, for transformers.
        int8_images: Number of images for int8.
    """

    onnx: bool = False
    program: bool = False
    int8: Literal["none", "static", "dynamic"] = "none"
    int8_images: Annotated[int, within(4)] = 64

    @property
    def graph(self) -> bool:
        """Whether an ONNX file is written, which int8 is made of."""
        return self.onnx or self.int8 != "none"
