"""What the demo can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.errors import DFPCError

__all__ = ["DemoConfig", "DemoConfigError"]


class DemoConfigError(DFPCError, ValueError):
    """An option of the demo has a value that makes no sense."""


@dataclass(frozen=True)
class DemoConfig:
    """Options of the demo.

    Attributes:
        output: Directory for the plots, the results and the pruned networks; made if it is missing.
        budgets: Shares of the unpruned network's MACs to keep, each between 0 and 1.
        criteria: Names of the importance criteria to compare.
        global_ranking: Whether each criterion also decides how much every layer loses; if not, all layers lose the same share
            and the criteria only choose the channels.
        random_seeds: How many random cuts the random criterion is averaged over.
        seed: Seed of the first random cut.
        threads: CPU threads when latency is measured; everything else uses as many as PyTorch is set to.
        batch_size: Images per forward when latency is measured.
        latency_time: Seconds spent on measuring the latency of each pruned network, and as many on the unpruned one beside it.
    """

    output: Path = Path("dfpc-demo")
    budgets: tuple[float, ...] = (0.9, 0.8, 0.65)
    criteria: tuple[str, ...] = field(default=("dfpc-output", "magnitude", "random"), metadata={"choices": CRITERIA})
    global_ranking: bool = True
    random_seeds: int = 3
    seed: int = 0
    threads: int = 1
    batch_size: int = 16
    latency_time: float = 0.1

    def __post_init__(self) -> None:
        """Accept lists and strings where tuples and paths are meant, then check.

        Raises:
            DemoConfigError: One or more options make no sense; the message names them all.
        """
        object.__setattr__(self, "output", Path(self.output))
        object.__setattr__(self, "budgets", tuple(self.budgets))
        object.__setattr__(self, "criteria", tuple(self.criteria))
        problems = self._problems()
        if problems:
            raise DemoConfigError("The demo cannot run like this:\n" + "\n".join(f"  {line}" for line in problems))

    def _problems(self) -> list[str]:
        problems = [
            f"budgets: {budget} is not between 0 and 1; 0.7 keeps 70 % of the MACs."
            for budget in self.budgets
            if not 0 < budget < 1
        ]
        problems += [
            f"criteria: '{name}' is unknown; choose from {', '.join(CRITERIA)}."
            for name in self.criteria
            if name not in CRITERIA
        ]
        for name in ("budgets", "criteria"):
            values = getattr(self, name)
            if not values:
                problems.append(f"{name}: give at least one.")
            if len(set(values)) != len(values):
                problems.append(f"{name}: {', '.join(map(str, values))} names one twice.")
        problems += [
            f"{name}: must be 1 or more, not {getattr(self, name)}."
            for name in ("random_seeds", "threads", "batch_size")
            if getattr(self, name) < 1
        ]
        if not 0 < self.latency_time <= 60:
            problems.append(f"latency_time: must be more than 0 and at most 60 seconds, not {self.latency_time}.")
        if self.seed < 0:
            problems.append(f"seed: must be 0 or more, not {self.seed}.")
        if self.output.exists() and not self.output.is_dir():
            problems.append(f"output: '{self.output}' is a file; name a directory.")
        return problems
