"""Iterative pruning and fine-tuning against one-shot pruning with equal fine-tuning, on a CIFAR ResNet-20.

    python examples/benchmarks/iterative_on_cifar.py --weights resnet20.safetensors --train train.zip --val val.zip

All ways start from the same network, end at the same MACs and take the same number of steps of the same optimiser. They
differ in when channels are pruned, and, with a repair, in whether the one-shot model is repaired, too. Images are
archives in ImageFolder layout.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from dfpc_plugin import RepairedImportance
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.data import calibration_images, evaluation_transform, open_images, training_transform
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleResult, ScheduleSettings, prune_and_tune
from dfpc_plugin.models import build_model, example_inputs, load_weights, preprocessing_of
from dfpc_plugin.repairing import RepairSettings

NAME = "cifar/resnet20"


def main(
    weights: Path,
    train: Path,
    val: Path,
    target: str = "macs=0.6667",
    share: float = 0.025,
    steps: int = 20,
    final_steps: int = 100,
    batch_size: int = 128,
    lr: float = 0.01,
    bare_lr: float | None = None,
    importance: str = "dfpc",
    repair_images: int = 0,
    anchored: bool = True,
    seeds: tuple[int, ...] = (0,),
) -> None:
    """Prune and fine-tune in every way with every seed, and print the results.

    Args:
        weights: Weights of the network.
        train: Archive or folder of the training images.
        val: Archive or folder of the images to evaluate on.
        target: The budget.
        share: Fraction of the remaining channels to prune per iteration.
        steps: Fine-tuning steps between iterations.
        final_steps: Fine-tuning steps after the last one.
        batch_size: Images per step.
        lr: Learning rate between iterations, from which it falls to zero at the end.
        bare_lr: The same for the one-shot model without repair, which tolerates larger steps. By default `lr`.
        importance: Name of the criterion, such as dfpc-published for the paper's; a repair brings its own.
        repair_images: Repair after every iteration on this many unlabelled training images; 0 for no repair.
        anchored: As in `ScheduleSettings`.
        seeds: Random seeds of the order and augmentation of images.
    """
    torch.set_num_threads(1)
    console = Console(width=120)
    model = build_model(NAME)
    load_weights(model, weights)
    preprocessing = preprocessing_of(model, NAME)
    images = open_images(train, "train", training_transform(preprocessing, "flip-crop"))
    held_out = open_images(val, "val", evaluation_transform(preprocessing))
    repair = None
    if repair_images:
        plain = open_images(train, "train", evaluation_transform(preprocessing))
        repair = RepairSettings("calibrate", calibration_images(plain, repair_images, 0))
    console.print(f"before: {evaluate_model(model, held_out)}")

    def run(settings: ScheduleSettings, target: str, repair: RepairSettings | None) -> ScheduleResult:
        result = prune_and_tune(
            model,
            example_inputs(model, NAME),
            target,
            images,
            settings=settings,
            importance=RepairedImportance(repair) if repair is not None else CRITERIA[importance].build(),
            repair=repair,
        )
        return dataclasses.replace(result, evaluation=evaluate_model(result.model, held_out))

    ranking = "anticipating repair" if repair is not None else importance
    table = Table(
        title=f"{ranking}, {target}, {steps} steps between cuts and {final_steps} after them", title_justify="left"
    )
    for column in ("seed", "way", "cuts", "steps", "MACs left", "parameters left", "top-1", "loss", "seconds"):
        table.add_column(column, justify="right")
    for seed in seeds:
        tuning = FinetuneSettings(steps=steps, batch_size=batch_size, schedule="constant", seed=seed)
        final = FinetuneSettings(steps=final_steps, batch_size=batch_size, lr=lr, seed=seed)
        settings = ScheduleSettings(share, (lr,), tuning, final, anchored)
        found = {"in turns": run(settings, target, repair)}
        reached = found["in turns"].pruning.after.macs / found["in turns"].pruning.before.macs
        together = dataclasses.replace(tuning, steps=steps * len(found["in turns"].iterations))
        one_cut = dataclasses.replace(settings, share=0.99, tuning=together)
        found["at once"] = run(one_cut, f"macs={reached}", repair)
        if repair is not None:
            larger = bare_lr or lr
            bare = dataclasses.replace(one_cut, step_sizes=(larger,), final=dataclasses.replace(final, lr=larger))
            found["at once, bare"] = run(bare, f"macs={reached}", None)
        for way, result in found.items():
            pruning, evaluation = result.pruning, result.evaluation
            row = (
                seed, way, len(result.iterations), result.steps, f"{pruning.after.macs / pruning.before.macs:.4f}",
                f"{pruning.after.parameters / pruning.before.parameters:.4f}", f"{evaluation.top1:.2f}",
                f"{evaluation.loss:.4f}", f"{result.seconds:.0f}",
            )  # fmt: skip
            table.add_row(*map(str, row))
            console.print(*row)
    console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
