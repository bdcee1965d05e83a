"""The registry of repair methods, and the settings of a repair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from dfpc_plugin.advice import setting
from dfpc_plugin.arguments import named_settings
from dfpc_plugin.errors import RepairError
from dfpc_plugin.plain_data import Checked, Count, Limit, NotNegative, Seed, within
from dfpc_plugin.registry import Registry
from dfpc_plugin.repairing.report import LayerRepair

METHODS: Registry[RepairMethod] = Registry("method")
"""Every method by name; `METHODS.register(RepairMethod(...))` adds one. Built-in ones are in `repairing/methods.py`."""
Method = str
"""The name of a repair method in `METHODS`."""
Images = Any
"""A tensor or dict of inputs, or an iterable of such batches, with or without labels."""


@dataclass(frozen=True)
class RepairMethod:
    """A way to repair a pruned model.

    Attributes:
        name: In Python, in recipes, on the command line and in reports.
        repair: Changes the weights of a `RepairJob`'s model in place, and reports on each layer.
        summary: What it does and what it costs, in one line, for help texts and the documentation.
        images: Whether it uses no images, generated images, or the user's images. They come from the job's
            `calibration`.
        ridge: The default ridge towards the old weights.
        anticipated: Whether it lets the remaining channels compensate for removed ones, by covariances. `prune` then
            ranks by the error after this compensation.
    """

    name: str
    repair: Callable[[Any], list[LayerRepair]]
    summary: str
    images: Literal["none", "made", "given"] = "none"
    ridge: float = 0.0
    anticipated: bool = False

    @property
    def by_images(self) -> bool:
        """Whether it uses images, generated or given, which takes minutes."""
        return self.images != "none"


@dataclass(frozen=True)
class RepairOptions(Checked, error=RepairError):
    """The options of a repair that recipes have, too.

    Attributes:
        count: Number of images to use or to generate; by default at most 256 of the given ones, and 32 to 256 generated
            ones, depending on their size.
        steps: For `synthetic`: largest number of optimisation steps of the images.
        ridge: Strength of the ridge towards the old weights, in multiples of the mean square of a layer's inputs; by
            default 0.03 for `synthetic` and 0.01 for `calibrate`. It is increased for a layer that would get worse.
        rows: Largest number of rows of a layer's inputs to sample; the ranking divides it by the size of the kernel.
        batchnorm: Try to re-estimate the statistics of batch norms afterwards, and keep them if the output improves.
        memory_gib: Memory limit for stored activations (GiB); None for half of the free memory, 4 GiB at least, and infinity for no limit. Images
            that do not fit are run again for every layer, which is slow.
        seed: Random seed of noise and samples.
    """

    count: Annotated[int, within(2)] | None = None
    steps: Count = 40
    ridge: NotNegative | None = None
    rows: Annotated[int, within(16)] = 16384
    batchnorm: bool = True
    memory_gib: Annotated[float, Limit("above 0", lambda limit: limit > 0)] | None = None
    seed: Seed = 0


def default_method(images: bool) -> Method:
    """Return the method for repairs that name none, by whether there are images for it."""
    return "calibrate" if images else "merge"


@dataclass(frozen=True)
class _Of:
    """The first options of `RepairSettings`."""

    method: Method = "merge"
    images: Images | None = field(default=None, compare=False, repr=False)


@named_settings
@dataclass(frozen=True)
class RepairSettings(RepairOptions, _Of):
    """How to repair: a method, and the options of `RepairOptions`.

    Attributes:
        method: `none`; `mean`: bias correction for the mean of the removed channels; `merge`: the remaining channels
            replace the removed ones, by regression; both update the statistics of batch norms; `synthetic`: least
            squares of every layer on images generated from the model; `calibrate`: the same on your images, which need
            no labels; or a method registered with `METHODS`.
        images: For `calibrate`: a tensor or dict of inputs, or an iterable of such batches or of single images, such as
            a DataLoader or a Dataset.
        checkpoint: A directory for the progress, from which an interrupted repair resumes.
    """

    checkpoint: Path | str | None = None

    def __post_init__(self) -> None:
        """Check the settings; raises RepairError that names the first invalid one."""
        super().__post_init__()
        _check_images(self.method, self.images, "method")

    @classmethod
    def of(
        cls, how: Method | RepairSettings | None, images: Images | None = None, option: str = "how"
    ) -> RepairSettings:
        """Return settings for a method's name, or the given ones, with `images` added; for None, the default method.

        Raises:
            RepairError: `how` is neither, the settings are invalid, or images are given twice; `option` is its name for the user.
        """
        if how is None or isinstance(how, str):
            method = how or default_method(images is not None)
            _check_images(method, images, option)
            return cls(method, images)
        if not isinstance(how, RepairSettings):
            raise RepairError(f"{option}={how!r} is no way to repair; give a method's name or RepairSettings.")
        if images is not None and how.images is not None:
            raise RepairError("Images were given twice, beside the settings and in them; leave one out.")
        return how if images is None else dataclasses.replace(how, images=images)

    @classmethod
    def or_none(cls, repair: str | RepairSettings | None, images: Images | None = None) -> RepairSettings | None:
        """As `of`, for an option `repair`; None if no repair is asked for, and RepairError for images without a repair."""
        if repair is not None:
            return cls.of(repair, images, "repair")
        if images is not None:
            raise RepairError(f"images are for {setting('repair', 'calibrate')}; ask for that, or leave them out.")
        return None

    @property
    def used_ridge(self) -> float:
        """The ridge, or the method's default."""
        return self.how.ridge if self.ridge is None else self.ridge

    @property
    def how(self) -> RepairMethod:
        """The method itself."""
        return METHODS[self.method]


def _check_images(method: Method, images: Images | None, option: str) -> None:
    """Raise RepairError, with the `option` that the user gave, for an unknown method, or one that does not suit the images."""
    if (images is None) == (METHODS.find(method, RepairError, setting=option).images == "given"):
        raise RepairError(
            f"{option}={method!r} needs images: pass some unlabelled ones as images."
            if images is None
            else f"{option}={method!r} uses no images; repair with {option}='calibrate', or leave them out."
        )
