"""One run: what it trains on, how it begins, where it is, and how it is saved and taken up again."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from dfpc_plugin.artifact import ArtifactError, Structure, restructure, structure_of, tensors_of
from dfpc_plugin.data import ImageDataset, fault_of_dataset
from dfpc_plugin.evaluation import Evaluation, model_device, probe, tally
from dfpc_plugin.finetuning.checkpoints import Checkpoint, Checkpoints
from dfpc_plugin.finetuning.cuts import Cut
from dfpc_plugin.finetuning.engine import Engine, engine_for
from dfpc_plugin.finetuning.optimiser import OptimiserState
from dfpc_plugin.finetuning.settings import CheckpointError, FinetuneError, FinetuneSettings
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.plain_data import checked, to_plain
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.repairing.store import fingerprint


@dataclass
class RunState:
    """The state of a run beside its model and its optimiser.

    Attributes:
        courses: Courses of training that are done. A plain fine-tuning is one course.
        step: Steps that are done of the course that is going on; `steps` are all.
        loss: Sum of the losses since the last row of the history; `losses` is their number.
        seconds: Time that the run has taken, without interruptions.
        marks: What belongs into every row of the history from now on.
    """

    courses: int = 0
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    losses: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    seconds: float = 0.0
    marks: dict[str, Any] = field(default_factory=dict)


class _Optimiser(TypedDict):
    """What an optimiser remembers beside tensors, by parameters and by groups of these."""

    state: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, Any]]


class _Saved(TypedDict):
    """What a checkpoint holds beside tensors."""

    identity: dict[str, Any]
    state: RunState
    structure: Structure
    optimiser: _Optimiser | None
    scale: dict[str, Any] | None


@dataclass
class Run:
    """A run of one or several courses of training.

    Attributes:
        given: The model as the user gave it, which stays as it is.
        model: The one that is trained, and cut.
        identity: What a run must have in common to be this one.
        memory: What the optimiser of the course that was interrupted, or of the one before, remembers; None to start anew.
        scale: State of the scale of gradients in float16, of a course that was interrupted.
        taken_up: Whether the memory is that of a checkpoint, which nothing has tried yet.
    """

    engine: Engine
    given: nn.Module
    model: nn.Module
    train: Dataset[tuple[Tensor, int]]
    val: Dataset[tuple[Tensor, int]] | None
    teacher: nn.Module | None
    classes: int
    identity: Mapping[str, Any]
    checkpoints: Checkpoints | None
    phases: Phases
    state: RunState = field(default_factory=RunState)
    memory: OptimiserState | None = None
    scale: Mapping[str, Any] | None = None
    taken_up: bool = False
    _started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time that the run has taken, without interruptions."""
        return time.perf_counter() - self._started

    def begin(self, resume: bool) -> None:
        """Take the run up where it was saved; raise a CheckpointError if no one asked for that, or it was another run."""
        checkpoints = self.checkpoints
        name = None if checkpoints is None else self.engine.agreed(lambda: checkpoints.open(resume))
        if checkpoints is None or name is None:
            return
        found = checkpoints.load(name)
        content = checked(_Saved, found.content, f"the checkpoint '{name}'", CheckpointError)
        require_same(content["identity"], self.identity, str(checkpoints.directory))
        with exclusive(self.given):
            fresh = copy.deepcopy(self.given).to("cpu")
        try:
            self.model = restructure(fresh, content["structure"], found.model)
        except ArtifactError as error:
            raise CheckpointError(
                f"The checkpoint '{checkpoints.directory / name}' is not of this model: {error}."
            ) from error
        self.state = content["state"]
        self._started -= self.state.seconds
        plain = content["optimiser"]
        self.memory = None if plain is None else OptimiserState(found.optimiser, dict[str, Any](plain))
        self.scale, self.taken_up = content["scale"], True

    def save(self) -> None:
        """Save where the run is."""
        if self.checkpoints is None:
            return
        self.engine.share(self.model.buffers())
        self.state.seconds = self.seconds
        if self.engine.main:
            with exclusive(self.given):
                structure = structure_of(self.model, self.given)
            memory, scaler = self.memory, self.engine.accelerator.scaler
            content = {
                "identity": self.identity,
                "state": to_plain(self.state),
                "structure": to_plain(structure),
                "optimiser": None if memory is None else memory.plain,
                "scale": None if scaler is None else scaler.state_dict(),
            }
            model = {name: tensor.cpu() for name, tensor in tensors_of(self.model, structure).items()}
            number = self.state.steps + self.state.courses + len(self.state.cuts)  # grows from one to the next
            self.checkpoints.save(number, Checkpoint(content, model, {} if memory is None else memory.tensors))
        self.engine.accelerator.wait_for_everyone()

    def evaluate(self, model: nn.Module, settings: FinetuneSettings) -> Evaluation | None:
        """Evaluate a model, each process on its share of the images; None if there is nothing to evaluate on."""
        if self.val is None:
            return None
        start = time.perf_counter()
        self.engine.share(model.buffers())
        mine = range(self.engine.rank, len(self.val), self.engine.processes)  # type: ignore[arg-type]
        with self.phases("evaluating") as tell:
            sums = torch.zeros(4, dtype=torch.float64)
            if len(mine):
                part = self.val if self.engine.processes == 1 else Subset(self.val, mine)
                sums, _ = tally(model, part, settings.batch_size, settings.workers, lambda _, share: tell(share))
            return Evaluation.of(self.engine.summed(sums), time.perf_counter() - start)

    def finished(self, last: FinetuneSettings) -> tuple[nn.Module, Evaluation | None]:
        """Return the model in evaluation mode, where the user's is and the same in all processes, and its evaluation."""
        self.engine.share(self.model.buffers())
        for parameter in self.model.parameters():
            parameter.grad = None
        model = self.model.to(model_device(self.given)).eval()
        return model, self.evaluate(model, last)


_FREE = ("workers", "checkpoint_every")
"""Settings that change nothing of what comes out."""


def require_same(saved: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> None:
    """Raise a CheckpointError that names the first difference, unless a run is the one that was saved."""
    for name, then, now in differences(saved, mine):
        if name in ("model", "teacher"):
            raise CheckpointError(
                f"The run in '{where}' was started with another {name}: its structure or weights are not those of the one that was "
                f"given; resume with the {name} that it was started with, as it was then, or start anew in an empty directory."
            )
        raise CheckpointError(
            f"The run in '{where}' was started with {name}={then!r} and is resumed with {name}={now!r}; resume it with the same, "
            f"or start anew in an empty directory."
        )


def differences(saved: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what decides what comes out of a run and is not the same in two: its dotted path, and both values."""
    for name in dict.fromkeys((*saved, *mine)):
        then, now = saved.get(name), mine.get(name)
        if then == now or name in _FREE:
            continue
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            yield from differences(then, now, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", then, now


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
        fault = None if images is None and name == "val" else fault_of_dataset(images)
        if fault is not None:
            raise FinetuneError(f"{name} is {fault}.")
    with _one_at_a_time, generators_kept(), torch.inference_mode(False), torch.enable_grad(), shown(progress) as tell:
        classes = probe(model, train)
        train = train.numbered_for(classes) if isinstance(train, ImageDataset) else train
        if val is not None:
            probe(model, val)
            val = val.numbered_for(classes) if isinstance(val, ImageDataset) else val
        with engine_for(mixed_precision) as engine:
            with exclusive(model, *([] if teacher is None else [teacher])):
                teacher = None if teacher is None else copy.deepcopy(teacher).to(engine.device).eval()
                copied = copy.deepcopy(model)
                identity = {
                    "model": fingerprint([model], {}),
                    "teacher": None if teacher is None else fingerprint([teacher], {}),
                    "images": len(train),  # type: ignore[arg-type]
                    "processes": engine.processes,
                    **what,
                }
            phases = Phases(tell if engine.main else None)
            run = Run(engine, model, copied, train, val, teacher, classes, identity, checkpoints, phases)
            with contextlib.nullcontext() if checkpoints is None else contextlib.closing(checkpoints):
                run.begin(resume)
                yield run
