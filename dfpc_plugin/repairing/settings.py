"""How to repair a model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from dfpc_plugin.errors import RepairError

__all__ = ["BY_LEAST_SQUARES", "Images", "Method", "RepairSettings"]

Method = Literal["none", "mean", "merge", "synthetic", "calibrate"]
"""The rungs of the ladder, from nothing to a handful of images."""

BY_LEAST_SQUARES = ("synthetic", "calibrate")
"""Those that look at images, made or given."""

Images = Any
"""A tensor of inputs, a dict of them, or anything to iterate over that gives such batches, labels beside them or not."""

_RIDGES = {"synthetic": 0.03, "calibrate": 0.01}


@dataclass(frozen=True)
class RepairSettings:
    """How to repair.

    Attributes:
        method: `none`; `mean`: biases take over the average of removed channels; `merge`: kept channels take over removed
            ones, by regression; both update the statistics of batch norms; `synthetic`: least squares of every layer on
            images made from the model; `calibrate`: the same on images of your own, which need no labels.
        images: For `calibrate`: a tensor or dict of inputs, or batches of these, such as a DataLoader, or single images, such as a
            Dataset.
        count: How many images to use, or to make; by default at most 256 of those given, and 32 to 256 made, by their size.
        steps: For `synthetic`: how often images are changed, at most.
        ridge: How strongly weights are held to what they were, in multiples of the mean square of a layer's inputs; by
            default 0.03 for `synthetic` and 0.01 for `calibrate`. A layer that would come out worse gets more.
        rows: How many rows of a layer's inputs to sample, at most.
        batchnorm: Try re-estimating the statistics of batch norms afterwards, and keep what makes the output better.
        memory_gib: What forwards that are under way may take. Where all images together would take more, they are run one
            batch after the other and once more for every layer, which is slower.
        seed: Of noise and samples.
        checkpoint: A directory in which to keep what is done, so that a repair that was stopped goes on there.
    """

    method: Method = "synthetic"
    images: Images | None = field(default=None, compare=False, repr=False)
    count: int | None = None
    steps: int = 40
    ridge: float | None = None
    rows: int = 16384
    batchnorm: bool = True
    memory_gib: float = 4.0
    seed: int = 0
    checkpoint: Path | str | None = None

    def __post_init__(self) -> None:
        """Raise on settings that cannot be followed.

        Raises:
            RepairError: Says which.
        """
        if self.method not in get_args(Method):
            raise RepairError(
                f"method={self.method!r} is no way to repair; choose one of {', '.join(get_args(Method))}."
            )
        if (self.images is None) == (self.method == "calibrate"):
            raise RepairError(
                "method='calibrate' needs images: pass some unlabelled ones as images."
                if self.images is None
                else f"method={self.method!r} uses no images; repair with method='calibrate', or leave them out."
            )
        for name, value, least in (("count", self.count, 2), ("steps", self.steps, 1), ("rows", self.rows, 16)):
            if value is not None and value < least:
                raise RepairError(f"{name}={value} is too few; give {least} or more.")
        if self.ridge is not None and not (0 <= self.ridge < math.inf):
            raise RepairError(f"ridge={self.ridge} is no ridge; give a number from 0 up, such as 0.01.")
        if not self.memory_gib > 0:
            raise RepairError(f"memory_gib={self.memory_gib} leaves no memory; give a number above 0.")

    @classmethod
    def of(cls, how: Method | RepairSettings, images: Images | None = None) -> RepairSettings:
        """Settings from a method's name, or as they are, with images beside them."""
        if isinstance(how, str):
            return cls(how, images)
        if not isinstance(how, RepairSettings):
            raise RepairError(f"{how!r} is no way to repair; give a method's name or RepairSettings.")
        if images is not None and how.images is not None:
            raise RepairError("Images were given twice, beside the settings and in them; leave one out.")
        return how if images is None else dataclasses.replace(how, images=images)

    @property
    def used_ridge(self) -> float:
        """The ridge, or what it is by default."""
        return _RIDGES.get(self.method, 0.0) if self.ridge is None else self.ridge
