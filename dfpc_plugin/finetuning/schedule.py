"""How to cut and tune in turns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

from dfpc_plugin.finetuning.errors import FinetuneError
from dfpc_plugin.finetuning.settings import FinetuneSettings
from dfpc_plugin.plain_data import Checked, Positive, within

__all__ = ["ScheduleSettings"]


def _tuning() -> FinetuneSettings:
    return FinetuneSettings(epochs=1, batch_size=256, schedule="constant")


def _final() -> FinetuneSettings:
    return FinetuneSettings(epochs=90, batch_size=512, lr=0.1, weight_decay=1e-4)


@dataclass(frozen=True)
class ScheduleSettings(Checked, error=FinetuneError):
    """Iterative pruning: prune a little, fine-tune, and repeat until the target is met; then fine-tune for longer.

    The defaults are the paper's, but for `anchored`.

    Attributes:
        share: Fraction of the remaining channels to remove in every iteration.
        step_sizes: Learning rates: after pruning, fine-tune with each of them, each for as long as `tuning` says; empty to
            prune without fine-tuning. The optimiser continues; its state of removed channels is removed. (An optimiser whose
            state does not have the shape of the weights starts anew in every iteration.)
        tuning: How to fine-tune in every iteration; its `lr` is replaced by each learning rate.
        final: How to fine-tune at the end, with a new optimiser; None to skip it.
        anchored: Couplings keep the relative weights that they had before the first iteration; later iterations rerank
            only within them. False to compare couplings again in every iteration, as the paper does; then couplings that
            were pruned before are pruned more and more.
    """

    share: Annotated[float, within(above=0, below=1, hint="give 0.01, say")] = 0.01
    step_sizes: tuple[Positive, ...] = (1e-3, 1e-4, 1e-5)
    tuning: FinetuneSettings = field(default_factory=_tuning)
    final: FinetuneSettings | None = field(default_factory=_final)
    anchored: bool = True

    def __post_init__(self) -> None:
        """Raise on settings that cannot be followed."""
        super().__post_init__()
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
