"""Options of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import Checked, Count, Limit, Seed, within

_EACH_ONCE = Limit("one or more, each once", lambda values: 0 < len(set(values)) == len(values))


class DemoConfigError(DFPCError, ValueError):
    """An option of the demo has an invalid value."""


@dataclass(frozen=True)
class DemoConfig(Checked, error=DemoConfigError):
    """Options of the demo.

    Attributes:
        output: Directory for the plots, the results and the pruned networks; created if missing.
        budgets: Shares of the unpruned network's MACs to keep, each between 0 and 1.
        criteria: Names of the importance criteria to compare.
        global_ranking: Compare channels across layers. If not, every layer loses the same share, and the criteria only
            choose the channels.
        random_seeds: Number of random seeds that the random criterion is averaged over.
        seed: First random seed.
        threads: Number of CPU threads in latency measurements; everything else uses PyTorch's setting.
        batch_size: Images per forward in latency measurements.
        latency_time: Seconds to measure the latency of each pruned network, and as many for the unpruned one beside it.
    """

    output: Path = Path("dfpc-demo")
    budgets: Annotated[tuple[Annotated[float, within(above=0, below=1)], ...], _EACH_ONCE] = (0.9, 0.8, 0.65)
    criteria: Annotated[tuple[str, ...], _EACH_ONCE] = field(
        default=("dfpc-output", "magnitude", "random"), metadata={"choices": CRITERIA}
    )
    global_ranking: bool = True
    random_seeds: Count = 3
    seed: Seed = 0
    threads: Count = 1
    batch_size: Count = 16
    latency_time: Annotated[float, within(above=0, most=60)] = 0.1

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            DemoConfigError: Names all invalid ones.
        """
        super().__post_init__()
        for name in self.criteria:
            CRITERIA.find(name, DemoConfigError, setting="criteria")
        if self.output.exists() and not self.output.is_dir():
            raise DemoConfigError(f"output: '{self.output}' is a file; name a directory.")
