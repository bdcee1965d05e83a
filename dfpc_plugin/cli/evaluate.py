"""`dfpc evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import DataOptions
from dfpc_plugin.cli.output import OptionError, print_json, say
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.plain_data import Count
from dfpc_plugin.workflow.opening import images_to_validate


@dataclass(frozen=True)
class EvaluateConfig(DataOptions):
    """Options of `dfpc evaluate`.

    Attributes:
        data: A folder or a zip archive with one folder of images per class, torchvision/NAME, or digits; has to be given.
        split: Which part of it to take.
        limit: Take so many images, evenly over the classes.
        batch_size: Images at a time.
        json: Print the figures as JSON.
        quiet: Show no progress.
    """

    data: str = field(default="", metadata={"metavar": "SOURCE"})
    split: Literal["train", "val", "test"] = "val"
    limit: Count | None = None
    batch_size: Count = 64
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not self.data:
            raise OptionError("data is missing: say which images to evaluate on, such as --data val.zip.")


def run(config: EvaluateConfig, consoles: Consoles) -> None:
    """Measure the accuracy of a saved model, or of one by name, on labelled images."""
    data = config.section(val=config.data, val_split=config.split, limit=config.limit, batch_size=config.batch_size)
    with bars(consoles.err, config.quiet or config.json) as tell:
        opened = config.opened(None if config.quiet else consoles.err)
        images = images_to_validate(data, opened.preprocessing)
        assert images is not None
        found = evaluate_model(opened.model, images, data.batch_size, data.workers, tell)
    if config.json:
        print_json({"model": config.model, "data": config.data} | found.to_json(), consoles.out)
    else:
        say(consoles.out, f"{config.model} on {images.source}: {found}")
