"""The figures by which pruned models can be compared."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A figure of a model.

    Attributes:
        name: Its key in files.
        label: What tables and plots call it, with the unit.
        scale: What the value in files is multiplied by in tables and plots, such as 100 for per cent.
        digits: How tables and plots write the scaled value.
        higher_is_better: Whether a larger value is better.
    """

    name: str
    label: str
    scale: float
    digits: str
    higher_is_better: bool

    def text(self, value: float) -> str:
        """The scaled value, as tables show it; large ones without the `e` of scientific notation."""
        scaled = self.scale * value
        return f"{scaled:.0f}" if 1e3 <= abs(scaled) < 1e6 else format(scaled, self.digits)


_ALL = (
    Metric("accuracy", "Accuracy (%)", 100, ".1f", True),
    Metric("score", "Score", 1, ".4g", True),
    Metric("output_error", "Error of the outputs (%)", 100, ".3g", False),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every metric by name."""
