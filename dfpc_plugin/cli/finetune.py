"""`dfpc finetune`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import SubjectOptions
from dfpc_plugin.cli.output import print_json, print_outcome
from dfpc_plugin.finetuning import FinetuneSettings
from dfpc_plugin.workflow.opening import is_artifact
from dfpc_plugin.workflow.run_directory import is_main_process
from dfpc_plugin.workflow.saved_model import finetune_opened, unpruned
from dfpc_plugin.workflow.sections import DataSection


@dataclass(frozen=True)
class FinetuneConfig(SubjectOptions):
    """Options of `dfpc finetune`.

    Attributes:
        pretrained: Load the weights that timm or torchvision hold for the model; for a saved one, they are those of the
            unpruned model, which teaches it where finetune.distill is above 0.
        weights: The same from a file.
        finetune: How to train.
        data: Images to train on, and to measure accuracy on, if there are any.
        output: The directory to make.
        overwrite: Replace an artifact that is there.
        resume: Go on with a run that was interrupted.
        json: Print the record as JSON instead of tables.
        quiet: Print nothing, and show no progress.
    """

    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    data: DataSection = field(default_factory=DataSection)
    output: Path = field(default=Path("dfpc-finetuned"), metadata={"metavar": "DIR"})
    overwrite: bool = False
    resume: bool = False
    json: bool = False
    quiet: bool = False


def run(config: FinetuneConfig, consoles: Consoles) -> None:
    """Fine-tune a saved model, or one by name, on labelled images, and save it; `accelerate launch` does it on many devices."""
    with bars(consoles.err, config.quiet or not is_main_process()) as tell:
        saved = is_artifact(config.model)
        opened = config.opened(None if config.quiet else consoles.err, saved=saved)
        teacher = None
        if saved and config.finetune.distill > 0:
            teacher = unpruned(
                opened, weights=config.weights, pretrained=config.pretrained, ignore_surplus=config.ignore_surplus
            )
        record = finetune_opened(
            opened, config.finetune, config.data, config.output, teacher=teacher, overwrite=config.overwrite,
            resume=config.resume, progress=tell,
        )  # fmt: skip
    if config.json and is_main_process():
        print_json(record, consoles.out)
    elif not config.quiet and is_main_process():
        print_outcome(record, config.output, consoles.out)
