"""`dfpc check`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text
from torch import nn

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import section_of
from dfpc_plugin.cli.output import OptionError, print_json
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.models import ModelSpec, build_model, example_inputs, match_models
from dfpc_plugin.plain_data import Checked, Count
from dfpc_plugin.report.check import ModelCheck, check_model
from dfpc_plugin.report.tables import print_check
from dfpc_plugin.workflow.opening import device_of, is_artifact, is_checkpoint, open_model


@dataclass(frozen=True)
class CheckConfig(Checked, error=OptionError):
    """Options of `dfpc check`.

    Attributes:
        models: timm models, torchvision/NAME, shell-style patterns in quotes, such as 'resnet*' or 'torchvision/*', directories
            of saved models, or checkpoints that name their architecture.
        weights: Take class count and input channels from this checkpoint, and its weights.
        options: Keyword arguments of the builder of models by name, as --options.num_classes 10.
        ignore_surplus: Leave out tensors of the checkpoint that the model does not have.
        size: Height and width of images in pixels, instead of what the model was made for.
        factory: Builds the unpruned models of saved ones of your own, as package.module:function; its code is run.
        json: Print the results as JSON instead.
    """

    models: tuple[str, ...] = field(metadata={"metavar": "MODEL"})
    weights: Path | None = field(default=None, metadata={"metavar": "FILE"})
    options: dict[str, Any] = field(default_factory=dict, metadata={"metavar": "JSON"})
    ignore_surplus: bool = False
    size: Count | None = None
    factory: str | None = None
    json: bool = False

    def build(self, name: str) -> tuple[nn.Module, ExampleInputs]:
        """Build one of the models with its example inputs: without values, unless they come from a file."""
        if is_artifact(name) or is_checkpoint(name) or self.weights is not None:
            own = {key: getattr(self, key) for key in ("options", "weights", "ignore_surplus")}
            found = open_model(section_of(name, own, size=self.size), device_of("cpu"), factory=self.factory)
            return found.model, found.inputs
        model = build_model(ModelSpec(name, self.options), meta=True)
        return model, example_inputs(model, name, size=self.size)


def run(config: CheckConfig, consoles: Consoles) -> int:
    """Find out which models can be scored, without their weights: every operator they call needs a rule.

    The exit code is 1 if one of them cannot be scored.
    """
    names = list(dict.fromkeys(name for pattern in config.models for name in match_models(pattern)))
    checks: list[ModelCheck] = []
    # On the console that the results go to, so that the bar stays below them.
    console = consoles.err if config.json else consoles.out
    with bars(console, quiet=len(names) < 2 or not console.is_terminal) as tell:
        for name in names:
            tell("checking", len(checks) / len(names))
            checks.append(check_model(name, functools.partial(config.build, name)))
            if not config.json:
                print_check(checks[-1], consoles.out)
    failed = [check for check in checks if not check.ok]
    if config.json:
        print_json([check.to_json() for check in checks], consoles.out, indent=1)
    elif len(checks) > 1:
        style = "red" if failed else "green"
        consoles.out.print(Text(f"{len(checks) - len(failed)} of {len(checks)} models can be scored", style=style))
    return 1 if failed else 0
