"""`finetune`: a model and labelled images in, a better model out."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import Dataset

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.finetuning.checkpoints import Checkpoints
from dfpc_plugin.finetuning.course import train_course
from dfpc_plugin.finetuning.result import FinetuneResult
from dfpc_plugin.finetuning.run import run_for
from dfpc_plugin.finetuning.settings import FinetuneError, FinetuneSettings
from dfpc_plugin.progress import Progress
from dfpc_plugin.wrappers import HoldsModel, as_model


@checks_arguments
def finetune(
    model: nn.Module | HoldsModel,
    train: Dataset[tuple[Tensor, int]],
    val: Dataset[tuple[Tensor, int]] | None = None,
    *,
    settings: FinetuneSettings | None = None,
    teacher: nn.Module | HoldsModel | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> FinetuneResult:
    """Fine-tune a classifier, such as a pruned one, on labelled images.

    The same call runs on a CPU, on a GPU, and in every process that `accelerate launch` starts.

    Args:
        model: The model, or what `prune` or `repair` returned. It is left as it is; a copy is trained.
        train: A map-style data set of pairs (image, label), such as `open_images` returns, with a transform for training.
        val: The same for evaluation, with a transform for that.
        settings: How; see `FinetuneSettings`.
        teacher: The model to learn from as far as `settings.distill` says, such as the unpruned one.
        checkpoint: A directory to save the run to as it goes on, so that it can be taken up when it was interrupted.
        resume: Take up the run that is saved there, and begin one where there is none. On a CPU the weights are, bit by bit,
            those of a run that was never interrupted.
        progress: As for `prune`.

    Raises:
        FinetuneError: The settings cannot be followed, or the loss is no number any more; the model is as it was.
        CheckpointError: The run cannot be saved, or is not the one that was saved.
        DataError: The images are not for this model.
        MissingDependencyError: accelerate is not installed.
    """
    settings, model = settings or FinetuneSettings(), as_model(model)
    teacher = None if teacher is None else as_model(teacher, "teacher")
    if teacher is None and settings.distill > 0:
        raise FinetuneError(f"distill={settings.distill} needs a teacher; pass teacher=, such as the unpruned model.")
    if teacher is not None and settings.distill == 0:
        raise FinetuneError(
            "There is a teacher that no one listens to, as distill=0; give distill=0.5, say, or no teacher."
        )
    what, checkpoints = {"kind": "fine-tuning", "settings": settings.to_json()}, Checkpoints.at(checkpoint)
    with run_for(model, train, val, teacher, settings.mixed_precision, what, checkpoints, resume, progress) as run:
        if run.state.courses == 0:
            train_course(run, settings, "fine-tuning")
        (tuned, evaluation), state = run.finished(settings), run.state
        return FinetuneResult(tuned, settings, tuple(state.history), state.steps, evaluation, run.seconds)
