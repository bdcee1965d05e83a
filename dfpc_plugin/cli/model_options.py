"""The options by which commands name a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dfpc_plugin.advice import setting
from dfpc_plugin.cli.output import OptionError, require_one_stdout, say
from dfpc_plugin.plain_data import Checked, Count, Natural, Positive
from dfpc_plugin.workflow.opening import Opened, device_of, is_artifact, is_checkpoint, open_model
from dfpc_plugin.workflow.sections import DataSection, ModelSection


def section_of(name: str, own: Mapping[str, Any], **common: Any) -> ModelSection:
    """How to open one of several models: `common` is for all, `own` for models that do not bring it themselves."""
    if is_artifact(name):
        return ModelSection(name, **common)
    kept = {key: value for key, value in own.items() if not (is_checkpoint(name) and key in ("weights", "pretrained"))}
    return ModelSection(name, **kept, **common)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Checked, error=OptionError):
    """How the models of a command are opened.

    Attributes:
        pretrained: Load the weights that timm or torchvision hold for a model by name; a saved model has its own.
        weights: Load weights of models by name from this checkpoint: safetensors, or what torch.save has written.
        options: Keyword arguments of the model's builder, as --options.num_classes 10; by default those of the checkpoint,
            where it tells.
        ignore_surplus: Leave out tensors of the checkpoint that the model does not have.
        size: Height and width of images in pixels, instead of what the model was made for.
        factory: Builds the unpruned model of a saved one of your own, as package.module:function; its code is run.
        device: Where to work: cpu, cuda, or auto for a GPU if there is one.
    """

    pretrained: bool = False
    weights: Path | None = field(default=None, metadata={"metavar": "FILE"})
    options: dict[str, Any] = field(default_factory=dict, metadata={"metavar": "JSON"})
    ignore_surplus: bool = False
    size: Count | None = None
    factory: str | None = None
    device: str = "auto"

    @property
    def own(self) -> dict[str, Any]:
        """What holds for models by name alone."""
        return {name: getattr(self, name) for name in ("options", "pretrained", "weights", "ignore_surplus")}


@dataclass(frozen=True)
class SubjectOptions(ModelOptions):
    """A saved model, or one by name.

    Attributes:
        model: The directory of a saved model, a timm model, torchvision/NAME, cifar/NAME, package.module:function, or a
            checkpoint that names its architecture.
    """

    model: str

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        require_one_stdout(**{name: getattr(self, name, None) for name in ("json", "csv", "markdown")})

    def opened(self, console: Console | None, *, batch_size: int = 1, saved: bool = False) -> Opened:
        """Open the model, and print what was inferred of it, unless `console` is None.

        With `saved`, the weights that are named beside a saved model are those of the unpruned one.
        """
        section = ModelSection(self.model, **({} if saved else self.own), size=self.size, batch_size=batch_size)
        found = open_model(section, device_of(self.device), factory=self.factory)
        if console is not None:
            say(console, *found.notes)
        return found


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
    std: tuple[Positive, ...] = ()
    workers: Natural = 0

    def section(self, **values: Any) -> DataSection:
        """The images as a section of a recipe, with more of its keys."""
        return DataSection(
            root=self.root, download=self.download, mean=self.mean or None, std=self.std or None, workers=self.workers,
            **values,
        )  # fmt: skip


def say_untrained(console: Console, opened: Opened, measured: str) -> None:
    """Print that a model has random weights, if it has: what is `measured` on it then means little."""
    if not opened.trained:
        told = f"{setting('pretrained', True)} or {setting('weights', 'FILE')} loads trained ones."
        say(console, f"These are {measured} of random weights; {told}")
