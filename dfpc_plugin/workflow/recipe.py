"""What is to be done with a model, as data: the sections of a recipe."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.data import AugmentSettings
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.pruning import Per, PruneSettings
from dfpc_plugin.repairing import Method, RepairSettings
from dfpc_plugin.repairing.settings import BY_LEAST_SQUARES
from dfpc_plugin.selection import Target

__all__ = [
    "DataSection",
    "ExportSection",
    "ModelSection",
    "PruneSection",
    "Recipe",
    "RecipeError",
    "RepairSection",
    "recipe_text",
    "yaml_text",
]

AUTO = "auto"
_LARGEST_SEED = 2**63 - 1


class RecipeError(DFPCError, ValueError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True)
class ModelSection:
    """Which model.

    Attributes:
        name: A timm model, torchvision/NAME, cifar/NAME, or package.module:function of your own.
        options: Keyword arguments of its builder, such as num_classes.
        pretrained: Load the weights that timm or torchvision hold for it.
        weights: Load weights from this file: safetensors, or a checkpoint of mere tensors.
        size: Height and width of images in pixels, instead of what the model was made for.
        batch_size: Images of the example inputs, whose costs are counted and measured.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
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
    """Labelled images; nothing needs them but accuracy, calibration and fine-tuning.

    Attributes:
        train: A folder or a zip archive with one folder of images per class, torchvision/NAME, or digits.
        val: The same, to measure accuracy on.
        train_split: Which part of `train` to take.
        val_split: Which part of `val` to take.
        root: The folder that holds the data sets of torchvision.
        download: Fetch them if they are not there.
        limit: Measure accuracy on so many images, evenly over the classes.
        mean: Means of the channels, instead of the model's own.
        std: Standard deviations of the channels, instead of the model's own.
        batch_size: Images at a time where accuracy is measured.
        workers: Processes that read images.
        augment: How training images are varied.
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
    """Which channels go.

    Attributes:
        importance: How channels are scored: auto (DFPC, or a form of it that anticipates the repair), dfpc, dfpc-output,
            dfpc-relative, dfpc-mean, dfpc-published, magnitude, fpgm, lamp, bnscale or random.
        per: What saliency is divided by before it is ranked: channel (nothing), or what removing the channel saves (macs,
            params, latency). By default macs or params, as the target says, for errors at the outputs, and channel for other
            scores.
        rescore: The share of the channels after which saliency is computed anew, such as the paper's 0.01.
        max_ratio: The share of its channels that any coupling may lose.
        min_channels: What every layer keeps at least.
        round_to: What the number of channels that are kept is a multiple of, where any go.
        ignored_layers: Layers whose outputs stay: names, or patterns such as "layer4.*".
        coupled: Whether couplings that several layers write, such as residual streams, lose channels too.
        whole_heads: Attention loses whole heads rather than dimensions of all of them.
    """

    importance: str = AUTO
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
        if self.importance != AUTO and self.importance not in CRITERIA:
            names = (AUTO, *CRITERIA)
            near = difflib.get_close_matches(self.importance, names, n=1)
            hint = f"did you mean {near[0]}?" if near else "choose one of them."
            raise RecipeError(f"importance='{self.importance}' is none of {', '.join(names)}; {hint}")


@dataclass(frozen=True)
class RepairSection:
    """How to mend what is left.

    Attributes:
        method: none; mean and merge: seconds, no data; synthetic: minutes, no data; calibrate: on unlabelled images of
            `data.train`.
        count: How many images to use, or to make.
        steps: For synthetic: how often images are changed, at most.
        ridge: How strongly weights are held to what they were.
        batchnorm: Try re-estimating batch norms, and keep it where the output comes closer.
        memory_gib: What forwards that are under way may take.
        seed: Of noise and samples.
    """

    method: Method = "none"
    count: int | None = None
    steps: int = 40
    ridge: float | None = None
    batchnorm: bool = True
    memory_gib: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            RecipeError: There is no such seed.
            RepairError: Settings that cannot be followed.
        """
        _require_seed(self.seed)
        # Images come later, so that what the others have in common with calibrate is checked in its place.
        method: Method = "synthetic" if self.method == "calibrate" else self.method
        RepairSettings(**dataclasses.asdict(self) | {"method": method})


@dataclass(frozen=True)
class ExportSection:
    """What else to write beside the artifact.

    Attributes:
        onnx: model.onnx, whose outputs were compared in onnxruntime.
        program: model.pt2, a program of torch.export.
        int8: model-int8.onnx beside model.onnx, quantized for onnxruntime. static: convolutions and products of matrices,
            with ranges measured on images (those of `data.train`, or images made from batch norms); dynamic: products of
            matrices alone, for transformers.
        int8_images: How many images int8 takes.
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
    """From a model to a smaller one.

    Attributes:
        model: Which model.
        target: How much goes: budgets with their values, such as "macs=0.5" or "speedup=1.5, max_drop=2".
        data: Labelled images, where they are needed.
        prune: Which channels go.
        repair: How to mend what is left.
        finetune: How to fine-tune afterwards; leave it out for not at all.
        schedule: Cut and tune in turns; leave it out to cut at once.
        latency: How to measure latency; leave it out to measure only where the target asks for it.
        curve: Shares of the multiply-accumulates at which accuracy is measured as well, pruned and repaired in the same way.
        export: What else to write.
        seed: Of everything random that has no seed of its own.
        device: Where to work: cpu, cuda, or auto for a GPU if there is one.
    """

    model: ModelSection
    target: str = "macs=0.5"
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
            "repair.method=calibrate": (self.repair.method == "calibrate", "train"),
            "fine-tuning": (self.finetune is not None or self.schedule is not None, "train"),
        }
        for what, (needed, part) in needs.items():
            if needed and getattr(self.data, part) is None:
                raise RecipeError(f"{what} needs images; say where they are in data.{part}.")
        if not all(0 < share < 1 for share in self.curve):
            raise RecipeError(
                f"curve={list(self.curve)} are no shares of the multiply-accumulates; give 0.8, 0.6, say."
            )
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
        return self.tunes or self.repair.method in BY_LEAST_SQUARES


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML with every value written out, which reads back as the same recipe."""
    return yaml_text(dataclasses.asdict(recipe))


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
