"""What is to be done with a model, as data: the sections of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dfpc_plugin.criteria import AUTO, CRITERIA
from dfpc_plugin.data import AugmentSettings
from dfpc_plugin.errors import DFPCError, RepairError
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.pruning import Per, PruneSettings
from dfpc_plugin.repairing import METHODS, Method, RepairMethod, RepairSettings
from dfpc_plugin.selection import BUDGETS, Target

__all__ = [
    "DataSection",
    "ExportSection",
    "ModelSection",
    "PruneSection",
    "Recipe",
    "RecipeError",
    "RepairSection",
    "changes_text",
    "recipe_text",
    "yaml_text",
]

_LARGEST_SEED = 2**63 - 1


class RecipeError(DFPCError, ValueError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True)
class ModelSection:
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
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    ignore_surplus: bool = False
    size: int | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            RecipeError: Names the option.
        """
        if self.pretrained and self.weights is not None:
            raise RecipeError("pretrained and weights both say where weights come from; give one of them.")
        _require_counts(self, "size", "batch_size")


@dataclass(frozen=True)
class DataSection:
    """Labelled images, for accuracy, calibration and fine-tuning.

    Attributes:
        train: Images for training: a folder or a zip archive with one folder of images per class, torchvision/NAME, or digits.
        val: Images to measure accuracy on, in the same form.
        train_split: Part of `train` to use.
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
    train_split: Literal["train", "val", "test"] = "train"
    val_split: Literal["train", "val", "test"] = "val"
    root: Path | None = None
    download: bool = False
    limit: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_size: int = 256
    workers: int = 0
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            RecipeError: Names the option.
        """
        _require_counts(self, "limit", "batch_size")
        if self.workers < 0:
            raise RecipeError(f"workers={self.workers} is no number of processes; give 0 or more.")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise RecipeError(f"std={self.std} holds a value that is not positive; give what images are divided by.")


@dataclass(frozen=True)
class PruneSection:
    """Which channels to prune.

    Attributes:
        importance: Criterion: auto (the error at the outputs, after the repair if one follows), or by name.
        per: Divide saliency by the saving before ranking: channel (no division), macs, params or latency. By default the unit
            of the target for errors at the outputs, and channel for other scores.
        rescore: Recompute saliency after every such fraction of the channels is removed, such as the paper's 0.01.
        max_ratio: Largest fraction of its channels that a coupling loses.
        min_channels: Smallest number of channels that a layer keeps.
        round_to: Round the remaining channels of pruned couplings to a multiple of this number.
        ignored_layers: Layers whose outputs are not pruned: names, or patterns such as "layer4.*".
        coupled: Whether to prune couplings that several layers produce, such as residual streams.
        whole_heads: Remove whole attention heads instead of some dimensions of all heads.
    """

    importance: str = field(default=AUTO, metadata={"choices": CRITERIA})
    per: Per | None = None
    rescore: float | None = None
    max_ratio: float = 0.9
    min_channels: int = 2
    round_to: int | None = None
    ignored_layers: tuple[str, ...] = ()
    coupled: bool = True
    whole_heads: bool = False

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            RecipeError: There is no such criterion.
            DFPCError: Settings that cannot be followed.
        """
        object.__setattr__(self, "ignored_layers", tuple(self.ignored_layers))
        PruneSettings(self.per, self.rescore, self.max_ratio, self.min_channels, self.round_to)
        if self.importance != AUTO:
            CRITERIA.find(self.importance, RecipeError, AUTO)


@dataclass(frozen=True)
class RepairSection:
    """How to repair the pruned model.

    Attributes:
        method: The method; calibrate takes images of `data.train`. auto is merge, or none if weights are random.
        count: Number of images to use or to generate.
        steps: For synthetic: largest number of optimisation steps of the images.
        ridge: Strength of the ridge towards the old weights.
        batchnorm: Try to re-estimate batch norms, and keep them if the output improves.
        memory_gib: Memory limit for stored activations (GiB); by default half of the free memory.
        seed: Random seed of noise and samples.
    """

    method: Method = field(default=AUTO, metadata={"choices": METHODS})
    count: int | None = None
    steps: int = 40
    ridge: float | None = None
    batchnorm: bool = True
    memory_gib: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            RecipeError: There is no such seed.
            RepairError: Settings that cannot be followed.
        """
        _require_seed(self.seed)
        takes_images = self.how.images == "given"  # which come later
        RepairSettings(**dataclasses.asdict(self) | {"method": self.how.name}, images=() if takes_images else None)

    @property
    def how(self) -> RepairMethod:
        """The method itself; that of auto is merge.

        Raises:
            RepairError: There is none of this name.
        """
        return METHODS.find("merge" if self.method == AUTO else self.method, RepairError, AUTO)


@dataclass(frozen=True)
class ExportSection:
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
    int8_images: int = 64

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            RecipeError: There are too few images.
        """
        if self.int8_images < 4:
            raise RecipeError(f"int8_images={self.int8_images} are too few; give 4 or more.")

    @property
    def graph(self) -> bool:
        """Whether an ONNX file is written, which int8 is made of."""
        return self.onnx or self.int8 != "none"


@dataclass(frozen=True)
class Recipe:
    """All steps from a model to a smaller one.

    Attributes:
        model: The model.
        target: The target, such as "macs=0.5" or "speedup=1.5, max_drop=2".
        data: Labelled images, if they are needed.
        prune: Which channels to prune.
        repair: How to repair the pruned model.
        finetune: How to fine-tune afterwards; leave it out for no fine-tuning.
        schedule: Iterative pruning and fine-tuning; leave it out to prune once.
        latency: How to measure latency; if left out, latency is measured only for targets in latency.
        curve: Further shares of the MACs at which to prune, repair and measure accuracy.
        export: Exports to write in addition to the saved model.
        seed: Random seed.
        device: Device: cpu, cuda, or auto for a GPU if there is one.
    """

    model: ModelSection
    target: str = field(default="macs=0.5", metadata={"choices": BUDGETS})
    data: DataSection = field(default_factory=DataSection)
    prune: PruneSection = field(default_factory=PruneSection)
    repair: RepairSection = field(default_factory=RepairSection)
    finetune: FinetuneSettings | None = None
    schedule: ScheduleSettings | None = None
    latency: LatencySettings | None = None
    curve: tuple[float, ...] = ()
    export: ExportSection = field(default_factory=ExportSection)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check that sections go together.

        Raises:
            RecipeError: Says what is missing, or what contradicts what.
        """
        object.__setattr__(self, "curve", tuple(self.curve))
        _require_seed(self.seed)
        target = Target.parse(self.target)
        needs = {
            "max_drop in the target": (target.max_drop is not None, "val"),
            "a curve": (bool(self.curve), "val"),
            f"repair.method={self.repair.method}": (self.repair.how.images == "given", "train"),
            "fine-tuning": (self.finetune is not None or self.schedule is not None, "train"),
        }
        for what, (needed, part) in needs.items():
            if needed and getattr(self.data, part) is None:
                raise RecipeError(f"{what} needs images; say where they are in data.{part}.")
        if not all(0 < share < 1 for share in self.curve):
            raise RecipeError(f"curve={list(self.curve)} are no shares of the MACs; give 0.8, 0.6, say.")
        if self.schedule is not None and target.measured:
            raise RecipeError("schedule cuts until a counted budget holds; give macs, params or ratio as the target.")
        if self.schedule is not None and (self.curve or self.finetune is not None):
            raise RecipeError(
                "schedule has its own final tuning, and a curve is of cuts made at once; leave out one or the other."
            )
        if self.schedule is not None and self.latency is not None:
            raise RecipeError(
                "latency is measured where cuts are made at once; leave out schedule, and use dfpc bench afterwards."
            )

    @property
    def tunes(self) -> bool:
        """Whether it trains."""
        return self.finetune is not None or self.schedule is not None

    @property
    def courses(self) -> list[FinetuneSettings]:
        """How it trains, course by course."""
        of_schedule = [] if self.schedule is None else [*self.schedule.courses(), self.schedule.final]
        return [settings for settings in (self.finetune, *of_schedule) if settings is not None]

    @property
    def takes_long(self) -> bool:
        """Whether an interruption would be a pity."""
        return self.tunes or self.repair.how.by_images


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML with every value written out, which reads back as the same recipe."""
    return yaml_text(dataclasses.asdict(recipe))


def changes_text(recipe: Recipe) -> str:
    """Return what of a recipe differs from the defaults, and its model and target, as YAML."""
    usual = Recipe(ModelSection(""))
    return yaml_text({"target": recipe.target, **_changes(recipe, usual)})


def _changes(settings: Any, usual: Any) -> dict[str, Any]:
    """Settings that are not as `usual`, in their sections; of a section that is usually left out, what is not its default."""
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value, default = getattr(settings, entry.name), getattr(usual, entry.name)
        if value == default:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[entry.name] = _changes(value, type(value)() if default is None else default)
        else:
            found[entry.name] = value
    return found


def yaml_text(content: Mapping[str, Any]) -> str:
    """Return settings as YAML, in their order."""
    return yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    """The same in types that YAML has."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _require_counts(section: Any, *names: str) -> None:
    """Raise if one of these is neither missing nor a number of 1 or more."""
    for name in names:
        value = getattr(section, name)
        if value is not None and value < 1:
            raise RecipeError(f"{name} must be 1 or more, not {value}.")


def _require_seed(seed: int) -> None:
    """Raise unless random generators take it."""
    if not 0 <= seed <= _LARGEST_SEED:
        raise RecipeError(f"seed={seed} is no seed; give a whole number from 0 to {_LARGEST_SEED}.")
