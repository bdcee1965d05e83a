"""`dfpc check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.output import print_json
from dfpc_plugin.models import match_models
from dfpc_plugin.report.check import ModelCheck, check_model
from dfpc_plugin.report.tables import print_check

__all__ = ["CheckConfig", "run"]


@dataclass(frozen=True)
class CheckConfig:
    """Options of `dfpc check`.

    Attributes:
        models: timm models, torchvision/NAME, or shell-style patterns in quotes, such as 'resnet*' or 'torchvision/*'.
        json: Print the results as JSON instead.
    """

    models: tuple[str, ...] = field(metadata={"metavar": "MODEL"})
    json: bool = False


def run(config: CheckConfig, consoles: Consoles) -> int:
    """Find out which models can be scored, without their weights: every operator they call needs a rule.

    The exit code is 1 if one of them cannot be scored.
    """
    names = list(dict.fromkeys(name for pattern in config.models for name in match_models(pattern)))
    checks = []
    for check in _checked(names, consoles, quiet=config.json):
        checks.append(check)
        if not config.json:
            print_check(check, consoles.out)
    failed = [check for check in checks if not check.ok]
    if config.json:
        print_json([check.to_json() for check in checks], consoles.out, indent=1)
    elif len(checks) > 1:
        style = "red" if failed else "green"
        consoles.out.print(Text(f"{len(checks) - len(failed)} of {len(checks)} models can be scored", style=style))
    return 1 if failed else 0


def _checked(names: list[str], consoles: Consoles, quiet: bool) -> Iterator[ModelCheck]:
    """Check one after the other, under a progress bar if there are several."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # On the console that the results go to, so that the bar stays below them.
    console = consoles.err if quiet else consoles.out
    hidden = len(names) < 2 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            yield check_model(name)
            progress.advance(task)
