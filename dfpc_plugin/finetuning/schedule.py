"""How to cut and tune in turns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dfpc_plugin.finetuning.errors import FinetuneError
from dfpc_plugin.finetuning.settings import FinetuneSettings

__all__ = ["ScheduleSettings"]


def _tuning() -> FinetuneSettings:
    return FinetuneSettings(epochs=1, batch_size=256, schedule="constant")


def _final() -> FinetuneSettings:
    return FinetuneSettings(epochs=90, batch_size=512, lr=0.1, weight_decay=1e-4)


@dataclass(frozen=True)
class ScheduleSettings:
    """Cut a little, tune a little, and so on until the target holds; then tune for long.

    The defaults are the paper's, but for `anchored`.

    Attributes:
        share: The share of the channels that are left which every cut removes.
        step_sizes: After every cut, tune with each of these in turn, each for as long as `tuning` says; none to cut without
            tuning. The optimiser goes on from one to the next: what it remembers of channels that go, such as their momentum,
            goes with them. (Optimisers whose memory is not of the shape of the weights start anew after a cut.)
        tuning: How to tune between cuts; its `lr` is replaced by each step size.
        final: How to tune at the end, with an optimiser that starts anew; None for not at all.
        anchored: Couplings keep the weight that they had against each other before the first cut, and later cuts rank anew only
            within them; False to compare couplings anew as well, as the paper does, which takes more and more of those that
            have lost some.
    """

    share: float = 0.01
    step_sizes: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    tuning: FinetuneSettings = field(default_factory=_tuning)
    final: FinetuneSettings | None = field(default_factory=_final)
    anchored: bool = True

    def __post_init__(self) -> None:
        """Raise on settings that cannot be followed.

        Raises:
            FinetuneError: Says which.
        """
        object.__setattr__(self, "step_sizes", tuple(self.step_sizes))
        if not 0 < self.share < 1:
            raise FinetuneError(f"share={self.share} is no share of the channels; give 0.01, say.")
        self.courses()  # raises on step sizes that are none
        if self.final is not None and self.final.mixed_precision != self.tuning.mixed_precision:
            raise FinetuneError(
                f"tuning has mixed_precision={self.tuning.mixed_precision!r} and final {self.final.mixed_precision!r}; one run "
                f"has one of them."
            )

    def courses(self) -> tuple[FinetuneSettings, ...]:
        """Return how to tune after a cut, step size by step size."""
        return tuple(dataclasses.replace(self.tuning, lr=lr) for lr in self.step_sizes)

    @property
    def distilled(self) -> bool:
        """Whether the unpruned model teaches the pruned one."""
        return self.tuning.distill > 0 or (self.final is not None and self.final.distill > 0)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as dicts, lists, numbers and strings."""
        final = None if self.final is None else self.final.to_json()
        return {
            "share": self.share, "step_sizes": list(self.step_sizes), "tuning": self.tuning.to_json(), "final": final,
            "anchored": self.anchored,
        }  # fmt: skip
