"""What every run begins with."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dfpc_plugin.data import ImageDataset
from dfpc_plugin.evaluation import probe
from dfpc_plugin.finetuning.checkpoints import Checkpoints
from dfpc_plugin.finetuning.engine import engine_for
from dfpc_plugin.finetuning.run import Run, run_identity
from dfpc_plugin.finetuning.settings import FinetuneError
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown

__all__ = ["finished", "run_for"]

_one_at_a_time = threading.RLock()
"""accelerate's state and the generators that every step seeds are those of the process: runs in threads take turns."""


@contextlib.contextmanager
def run_for(
    model: nn.Module,
    train: Dataset[tuple[Tensor, int]],
    val: Dataset[tuple[Tensor, int]] | None,
    teacher: nn.Module | None,
    mixed_precision: str,
    what: Mapping[str, Any],
    checkpoints: Checkpoints | None,
    resume: bool,
    progress: Progress | bool | None,
) -> Iterator[Run]:
    """Yield a run that has begun, or has been taken up; `model` and the generators stay as they are.

    `what` is the kind and the settings of the run, as JSON has them.

    Raises:
        FinetuneError: It cannot begin.
        DataError: The images are not for this model.
    """
    if resume and checkpoints is None:
        raise FinetuneError("resume=True needs to know where the run was saved; pass checkpoint=DIRECTORY.")
    for name, images in (("train", train), ("val", val)):
        if isinstance(images, DataLoader):
            raise FinetuneError(
                f"{name} is a DataLoader; give its data set, {name}.dataset: settings say how it is read."
            )
    if not hasattr(train, "__len__"):
        raise FinetuneError("The training set has no length; give a map-style data set, such as open_images returns.")
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with (
        _one_at_a_time,
        generators_kept(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        shown(progress) as tell,
    ):
        classes = probe(model, train)
        train = train.numbered_for(classes) if isinstance(train, ImageDataset) else train
        if val is not None:
            probe(model, val)
            val = val.numbered_for(classes) if isinstance(val, ImageDataset) else val
        with engine_for(mixed_precision) as engine:
            with exclusive(model, *([] if teacher is None else [teacher])):
                teacher = None if teacher is None else copy.deepcopy(teacher).to(engine.device).eval()
                copied = copy.deepcopy(model)
                identity = run_identity(model, teacher, len(train), engine.processes, what)
            phases = Phases(tell if engine.main else None)
            run = Run(engine, model, copied, train, val, teacher, classes, identity, checkpoints, phases)
            with contextlib.nullcontext() if checkpoints is None else contextlib.closing(checkpoints):
                run.begin(resume)
                yield run


def finished(run: Run) -> nn.Module:
    """Return the model of a run in evaluation mode, where the user's is, and the same in all processes."""
    run.engine.share(run.model.buffers())
    for parameter in run.model.parameters():
        parameter.grad = None
    return run.model.to(run.home).eval()
