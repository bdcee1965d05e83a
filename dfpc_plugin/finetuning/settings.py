"""How to fine-tune."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dfpc_plugin.finetuning.errors import FinetuneError

__all__ = ["FinetuneSettings", "Precision", "Schedule"]

Schedule = Literal["cosine", "constant", "step"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class FinetuneSettings:
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

    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    mixed_precision: Precision = "no"
    gradient_clip: float | None = None
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    evaluate_every: int | None = None
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        """Raise on settings that cannot be followed.

        Raises:
            FinetuneError: Says which.
        """
        for name, choices in (("schedule", get_args(Schedule)), ("mixed_precision", get_args(Precision))):
            if getattr(self, name) not in choices:
                raise FinetuneError(
                    f"{name}={getattr(self, name)!r} is none of {', '.join(choices)}; choose one of them."
                )
        for name, (holds, meaning) in _LIMITS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (name in _WHOLE and value != int(value)) or not holds(value):
                raise FinetuneError(f"{name}={value!r} is no {meaning}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as numbers and strings by name."""
        return asdict(self)


_COUNT = (lambda value: value >= 1, "whole number of 1 or more")
_OPTIONAL_COUNT = (lambda value: value >= 1, "whole number of 1 or more; None is allowed, too")
_SIZE = (lambda value: value >= 0, "number of 0 or more")
_SHARE = (lambda value: 0 <= value <= 1, "share between 0 and 1")
_LIMITS: dict[str, tuple[Any, str]] = {
    "epochs": (lambda value: value > 0, "number above 0; give 10, or steps=1000"),
    "steps": _OPTIONAL_COUNT,
    "batch_size": _COUNT,
    "lr": (lambda value: value > 0, "step size; give 0.01, say"),
    "momentum": (lambda value: 0 <= value < 1, "momentum; give 0 to below 1, such as 0.9"),
    "weight_decay": _SIZE,
    "warmup_steps": (lambda value: value >= 0, "whole number of 0 or more"),
    "label_smoothing": (lambda value: 0 <= value < 1, "share of 0 to below 1"),
    "mixup": _SIZE,
    "cutmix": _SIZE,
    "distill": _SHARE,
    "temperature": (lambda value: value > 0, "number above 0"),
    "gradient_clip": (lambda value: value > 0, "number above 0; None for no limit"),
    "seed": (lambda value: value >= 0, "whole number of 0 or more"),
    "workers": (lambda value: value >= 0, "whole number of 0 or more"),
    "log_every": _COUNT,
    "evaluate_every": _OPTIONAL_COUNT,
    "checkpoint_every": _OPTIONAL_COUNT,
}
"""What each number has to be, and how to say so."""
_OPTIONAL = frozenset({"steps", "gradient_clip", "evaluate_every", "checkpoint_every"})
_WHOLE = frozenset({
    "steps", "batch_size", "warmup_steps", "seed", "workers", "log_every", "evaluate_every", "checkpoint_every",
})  # fmt: skip
