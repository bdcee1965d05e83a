"""Draw all figures of the documentation, for light and for dark pages.

    python examples/figures/draw.py --output docs/assets/figures
    python examples/figures/draw.py --output /tmp/figures --only "[coupling]"

The same data gives the same bytes. The data in `data/` were measured by `examples/benchmarks/latency_on_cifar.py` and
`collect_saliency.py`; couplings are found while drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import coupling
import factorisation
import saliency
import tradeoff
from ink import THEMES, Theme
from jsonargparse import auto_cli

FIGURES: dict[str, Callable[[Path, Theme], None]] = {
    "coupling": coupling.draw,
    "factorisation": factorisation.draw,
    "saliency": saliency.draw,
    "accuracy-macs": tradeoff.draw_macs,
    "accuracy-latency": tradeoff.draw_latency,
}


def main(output: Path, only: tuple[str, ...] = tuple(FIGURES)) -> None:
    """Write `NAME-light.svg` and `NAME-dark.svg` for every figure.

    Args:
        output: Directory to write to.
        only: The figures to draw.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in only:
        for theme in THEMES:
            path = output / f"{name}-{theme.name}.svg"
            FIGURES[name](path, theme)
            print(path)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
