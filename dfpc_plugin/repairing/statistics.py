"""The stored statistics of batch norms, and how far those of some images are from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_BATCH_NORM = inspect.signature(F.batch_norm)


@dataclass(frozen=True, eq=False)
class NormInput:
    """The input of a batch norm in evaluation mode.

    Attributes:
        data: `(images, channels, ...)`.
        mean: The stored mean, `(channels,)`.
        variance: The stored variance plus the norm's eps.
    """

    data: Tensor
    mean: Tensor
    variance: Tensor


class NormInputs(TorchFunctionMode):
    """Collects, in `found`, the inputs of the batch norms of a forward, in order."""

    def __init__(self) -> None:
        """Start with an empty list."""
        super().__init__()
        self.found: list[NormInput] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and collect the input of a batch norm."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            data, mean, variance, _, _, training, _, eps = batch_norm_arguments(*args, **kwargs)
            if mean is not None and not training:
                self.found.append(NormInput(data, mean.detach(), variance.detach() + eps))
        return func(*args, **kwargs)


class ImposedStatistics(TorchFunctionMode):
    """Lets every batch norm normalise by the statistics of the batch instead of those it has stored.

    Every channel of its output then has the mean and the variance that it had on training data.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`; batch norms in evaluation mode run as in training."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            data, mean, variance, *affine, training, _, eps = batch_norm_arguments(*args, **kwargs)
            if mean is not None and not training and data.numel() > data.shape[1]:
                self.reached(data, mean, variance)
                return func(data, None, None, *affine, True, 0.0, eps)
        return func(*args, **kwargs)

    def reached(self, data: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Look at the input of a batch norm that has stored `mean` and `variance`; for subclasses."""


def batch_norm_arguments(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """All arguments of a batch norm, in order."""
    given = _BATCH_NORM.bind(*args, **kwargs)
    given.apply_defaults()
    return given.args


def divergence(found: NormInput) -> Tensor:
    """How far the statistics of some data are from the stored ones, in nats per channel.

    The Kullback-Leibler divergence, averaged over channels, of the normal distribution with the data's mean m and
    variance v from the one with the stored M and V: ((m - M)^2 / V + v / V - 1 - log(v / V)) / 2.
    """
    axes = [axis for axis in range(found.data.dim()) if axis != 1]
    variance, mean = torch.var_mean(found.data.float(), axes)
    ratio = variance / found.variance
    offset = (mean - found.mean).square() / found.variance
    return (offset + ratio - 1 - torch.log(ratio.clamp_min(1e-6))).mean() / 2
