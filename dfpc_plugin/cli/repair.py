"""`dfpc repair`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import SubjectOptions
from dfpc_plugin.cli.output import OptionError, print_json, print_outcome, say
from dfpc_plugin.criteria import AUTO
from dfpc_plugin.workflow.opening import is_artifact
from dfpc_plugin.workflow.saved_model import repair_opened, unpruned
from dfpc_plugin.workflow.sections import DataSection, RepairSection


@dataclass(frozen=True)
class RepairConfig(SubjectOptions):
    """Options of `dfpc repair`.

    Attributes:
        model: The directory of a saved model that was pruned and not fine-tuned.
        pretrained: The unpruned model has the weights that timm or torchvision hold for it.
        weights: The file with the weights of the unpruned model.
        repair: How to repair the pruned model; auto is calibrate if data.train has images, else merge.
        data: Images to calibrate with, and to measure accuracy on, if there are any.
        output: The directory to make.
        overwrite: Replace an artifact that is there.
        json: Print the record as JSON instead of tables.
        quiet: Print nothing, and show no progress.
    """

    repair: RepairSection = field(default_factory=RepairSection)
    data: DataSection = field(default_factory=DataSection)
    output: Path = field(default=Path("dfpc-repaired"), metadata={"metavar": "DIR"})
    overwrite: bool = False
    json: bool = False
    quiet: bool = False


def run(config: RepairConfig, consoles: Consoles) -> None:
    """Repair a saved pruned model with the weights of the unpruned one, and save the result."""
    with bars(consoles.err, config.quiet) as tell:
        if not is_artifact(config.model):
            raise OptionError(f"'{config.model}' is no directory of a saved model; dfpc prune repairs on the way.")
        opened = config.opened(None, saved=True)
        original = unpruned(
            opened, weights=config.weights, pretrained=config.pretrained, ignore_surplus=config.ignore_surplus
        )
        result, record = repair_opened(
            opened, original, config.repair, config.data, config.output, overwrite=config.overwrite, progress=tell
        )
    if config.json:
        print_json(record, consoles.out)
    elif not config.quiet:
        say(consoles.out, result.summary)
        if config.repair.method == AUTO:
            images = "with" if config.data.train is not None else "without"
            say(consoles.out, f"{result.method} is the default {images} images; --repair.method takes another.")
        print_outcome(record, config.output, consoles.out)
