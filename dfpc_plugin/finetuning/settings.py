"""How to fine-tune, how to cut and tune in turns, and the errors of both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

from dfpc_plugin.arguments import named_settings
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import Checked, Count, Natural, NotNegative, Positive, Seed, Share, within


class FinetuneError(DFPCError, ValueError):
    """A model cannot be fine-tuned in the way that was asked for; it is as it was."""


class CheckpointError(FinetuneError):
    """A run cannot be saved, or cannot be taken up where it was saved."""


Schedule = Literal["cosine", "constant", "step"]
Precision = Literal["no", "bf16", "fp16"]


@named_settings
@dataclass(frozen=True)
class FinetuneSettings(Checked, error=FinetuneError):
    """How long, how fast, and on what objective.

    Attributes:
        epochs: Number of epochs; may be a fraction.
        steps: Number of steps of the optimiser; replaces `epochs` if given.
        batch_size: Images per step and process. The last, incomplete batch of an epoch is dropped.
        optimizer: One of timm's optimisers by its name: "sgd" (with Nesterov's momentum), "momentum", "adamw", "lamb"...
        lr: Largest learning rate.
        momentum: Momentum, for optimisers that have one.
        weight_decay: Weight decay of layers; biases and norms have none, as in timm.
        schedule: Learning rate over time: "cosine" falls to zero, "step" is a tenth from half of the steps on and a hundredth
            from three quarters on, "constant" does not change.
        warmup_steps: Number of steps in which the learning rate rises linearly from zero.
        label_smoothing: Fraction of the label that is spread over all classes.
        mixup: Parameter of timm's mixup of pairs of images; 0 for none.
        cutmix: The same for cutmix.
        distill: Weight of the teacher in the loss, 0 to 1; labels have the rest.
        temperature: Temperature of distillation: outputs of student and teacher are divided by it.
        mixed_precision: "bf16" or "fp16" for activations, on devices that support them.
        gradient_clip: Largest norm of the gradient; None for no limit.
        seed: Random seed of the order of images, their augmentation, and everything else.
        workers: Number of processes that read images.
        log_every: Steps from one row of the history to the next.
        evaluate_every: Steps from one evaluation to the next; None for each epoch. The last step is always followed by one.
        checkpoint_every: Steps from one checkpoint to the next; None for each epoch. The last step is always followed by one.
    """

    epochs: Annotated[float, within(above=0, hint="give 10, or steps=1000")] = 1.0
    steps: Count | None = None
    batch_size: Count = 128
    optimizer: str = "sgd"
    lr: Annotated[float, within(above=0, hint="give 0.01, say")] = 0.01
    momentum: Annotated[float, within(0, below=1, hint="give 0.9, say")] = 0.9
    weight_decay: NotNegative = 1e-4
    schedule: Schedule = "cosine"
    warmup_steps: Natural = 0
    label_smoothing: Annotated[float, within(0, below=1)] = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    distill: Share = 0.0
    temperature: Positive = 4.0
    mixed_precision: Precision = "no"
    gradient_clip: Positive | None = None
    seed: Seed = 0
    workers: Natural = 0
    log_every: Count = 10
    evaluate_every: Count | None = None
    checkpoint_every: Count | None = None


@named_settings
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
    tuning: FinetuneSettings = field(
        default_factory=lambda: FinetuneSettings(epochs=1, batch_size=256, schedule="constant")
    )
    final: FinetuneSettings | None = field(
        default_factory=lambda: FinetuneSettings(epochs=90, batch_size=512, lr=0.1, weight_decay=1e-4)
    )
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
