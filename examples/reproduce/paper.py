"""The DFPC paper's data-free experiments, as one command: prune without fine-tuning, and measure accuracy and time.

    python examples/reproduce/paper.py --network cifar/resnet50 --weights resnet50_cifar10.pth --data torchvision/CIFAR10 \
        --root data --output resnet50-cifar10
    python examples/reproduce/paper.py --network cifar/resnet101 --train true --data torchvision/CIFAR100 --root data \
        --output resnet101-cifar100

The protocol (Narshana, Murti and Bhattacharyya, ICLR 2023): networks are trained by SGD with momentum 0.9 and weight decay 5e-4
for 200 epochs, the learning rate falling from 0.1 by a cosine. Then every iteration removes one per cent of the channels, by a
saliency that is computed anew every time, and nothing is repaired or fine-tuned; with `coupled` false it removes only channels
that one layer produces. It stops at budgets, and where accuracy has dropped by so many points.

The directory `output` gets results.json, results.csv and curve.svg. A run that was stopped goes on where it was: rows that are in
results.json are not computed again, and training goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from curve import write_curve
from jsonargparse import auto_cli
from ledger import Ledger, Row
from rich.console import Console
from rich.table import Table
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.data import ImageDataset, evaluation_transform, open_images, training_transform
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.files import write_tensors
from dfpc_plugin.finetuning.settings import Precision
from dfpc_plugin.models import build_model, example_inputs, load_weights, preprocessing_of
from dfpc_plugin.selection import Target, TargetError
from dfpc_plugin.workflow.opening import device_of


@dataclasses.dataclass(frozen=True)
class Images:
    """Where images come from, and how many.

    Attributes:
        test: Folder, zip archive, torchvision/CIFAR10 or torchvision/CIFAR100.
        train: The same for training; None if it is the same source.
        root: Where torchvision's data sets are, or go.
        limit: How many test images to evaluate on, as many of every class; None for all.
        workers: Processes that read images.
    """

    test: str
    train: str | None = None
    root: Path | None = None
    limit: int | None = None
    workers: int = 0


def main(
    output: Path,
    data: str,
    network: str = "cifar/resnet50",
    weights: Path | None = None,
    train: bool = False,
    train_data: str | None = None,
    root: Path | None = None,
    criteria: tuple[str, ...] = ("dfpc-published", "l1", "random"),
    coupled: tuple[bool, ...] = (True, False),
    speedups: tuple[float, ...] = (1.1, 1.2, 1.35, 1.46),
    drops: tuple[float, ...] = (5.0,),
    step: float = 0.01,
    test_images: int | None = None,
    latency: dfpc.LatencySettings | None = None,
    epochs: int = 200,
    workers: int = 0,
    mixed_precision: Precision = "no",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Run the protocol and print a table.

    Args:
        output: Directory for what comes out.
        data: Test images: a folder, a zip archive, torchvision/CIFAR10 or torchvision/CIFAR100.
        network: Such as cifar/resnet50, resnet101, vgg19, mobilenetv2, or cifar/resnet20 to resnet110.
        weights: Of the trained network.
        train: Train the network first; its weights go to `output`.
        train_data: Training images; `data` if not given.
        root: The folder of torchvision's data sets.
        criteria: By what channels are ranked: names of criteria, such as dfpc-published, l1 or random.
        coupled: Whether channels that several layers write go, too; both, one after the other, for the ablation.
        speedups: MACs of the unpruned network over those of the pruned one, where to stop.
        drops: Points of accuracy that may be lost, where to stop.
        step: The share of the channels that goes in one iteration.
        test_images: How many test images to evaluate on, as many of every class; all if not given.
        latency: How to measure time; the paper's is {batch_size: 64, warmup: 100, forwards: 1000}. By default 64 images, one
            thread, three seconds.
        epochs: Of training.
        workers: Processes that read images.
        mixed_precision: Of training: bf16 is three times as fast on a GPU. The paper does not say; `no` is float32.
        seed: Of training, and of what the random criterion draws.
        device: Where the network runs: cpu, cuda, or auto for a GPU if there is one.
    """
    console = Console()
    images = Images(data, train_data, root, test_images, workers)
    try:
        latency = latency or dfpc.LatencySettings(threads=1, batch_size=64, min_run_time=3.0)
        output.mkdir(parents=True, exist_ok=True)
        training = training_settings(epochs, mixed_precision, seed, workers)
        model, test, weights = prepared(network, weights, images, output, training if train else None)
        model.to(device_of(device))
        ledger = Ledger(output, {
            "network": network, "weights": hashlib.sha256(weights.read_bytes()).hexdigest(), "data": data,
            "test_images": len(test), "step": step, "seed": seed, "latency": dataclasses.asdict(latency),
        })  # fmt: skip
        stops = {f"{speedup:g}x fewer MACs": f"macs={1 / speedup:.6g}" for speedup in speedups}
        stops |= {f"{drop:g} points lost": f"max_drop={drop:g}" for drop in drops}
        wanted = [(name, both, stop) for name in criteria for both in coupled for stop in stops]
        run(ledger, model, network, test, wanted, stops, step, latency, seed, images.workers, console)
    except DFPCError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    write_curve(output / "curve.svg", [row for row in ledger.rows if row["reached"]], f"{network}, not tuned")
    console.print(table_of(ledger.rows, network, len(test)))


def prepared(
    network: str, weights: Path | None, images: Images, output: Path, training: dfpc.FinetuneSettings | None
) -> tuple[nn.Module, ImageDataset, Path]:
    """Build the network, train it if there are settings for that, load its weights, and open the test images."""
    if (weights is None) != (training is not None):
        raise DFPCError("Give the network's --weights, or --train true to train it: one of the two.")
    model = build_model(network)
    preprocessing = preprocessing_of(model, network)
    test = open_images(images.test, "test", evaluation_transform(preprocessing), root=images.root, limit=images.limit)
    classes = len(test.classes)
    model = build_model(dfpc.ModelSpec(network, {"num_classes": classes}))
    if weights is None and training is not None:
        weights = output / "weights.safetensors"
        if not weights.exists():
            source = images.train or images.test
            augmented = open_images(source, "train", training_transform(preprocessing, "flip-crop"), root=images.root)
            model = trained(model, augmented, test, output / "training", training)
            write_tensors(weights, model.state_dict(), {"network": network})
    load_weights(model, weights)
    return model.eval(), test, weights


def training_settings(epochs: int, mixed_precision: Precision, seed: int, workers: int) -> dfpc.FinetuneSettings:
    """The paper's settings; biases and norms have no weight decay, as is timm's way."""
    return dfpc.FinetuneSettings(
        epochs=epochs, batch_size=128, optimizer="momentum", lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine",
        mixed_precision=mixed_precision, seed=seed, workers=workers,
    )  # fmt: skip


def trained(
    model: nn.Module, train: ImageDataset, test: ImageDataset, checkpoint: Path, settings: dfpc.FinetuneSettings
) -> nn.Module:
    """Train, going on from the last checkpoint if there is one."""
    resume = checkpoint.exists()
    return dfpc.finetune(
        model, train, test, settings=settings, checkpoint=checkpoint, resume=resume, progress=True
    ).model


def run(
    ledger: Ledger, model: nn.Module, network: str, test: ImageDataset, wanted: list[tuple[str, bool, str]],
    stops: dict[str, str], step: float, latency: dfpc.LatencySettings, seed: int, workers: int, console: Console,
) -> None:  # fmt: skip
    """Fill in the rows that are missing."""
    if ledger.find(criterion="") is None:
        console.print(f"{network}, unpruned ...")
        evaluation = dfpc.evaluate_model(model, test, workers=workers, progress=True)
        ledger.add({
            "criterion": "", "label": "unpruned", "coupled": True, "stop": "", "reached": True, "top1": evaluation.top1,
            "macs_fewer": 1.0, "parameters_fewer": 1.0, "times_faster": 1.0, "channels_left": 1.0, "seconds": 0.0,
        })  # fmt: skip

    def top1(candidate: nn.Module) -> float:
        return dfpc.evaluate_model(candidate, test, workers=workers).top1

    inputs = example_inputs(model, network).to(next(model.parameters()).device)
    for number, (name, both, stop) in enumerate(wanted, 1):
        title = f"{CRITERIA[name].label}, {stop}" + ("" if both else ", uncoupled only")
        if ledger.find(criterion=name, coupled=both, stop=stop) is not None:
            console.print(f"{number} of {len(wanted)}: {title}: known")
            continue
        console.print(f"{number} of {len(wanted)}: {title} ...")  # a line for each, as bars are not seen in pipes
        torch.manual_seed(seed)
        row: Row = {"criterion": name, "label": CRITERIA[name].label, "coupled": both, "stop": stop}
        try:
            result = dfpc.prune(
                model, inputs, stops[stop], importance=CRITERIA[name].build(), rescore=step, coupled=both, max_ratio=1.0,
                latency=latency, evaluate=top1 if Target.parse(stops[stop]).max_drop else None,
            )  # fmt: skip
        except TargetError as error:
            ledger.add(row | {"reached": False, "note": str(error)})
        else:
            ledger.add(row | figures_of(result, top1))


def figures_of(result: dfpc.PruneResult, top1: Callable[[nn.Module], float]) -> dict[str, Any]:
    """What one row says of a pruned model."""
    before, after = result.before, result.after
    return {
        "reached": True, "top1": top1(result.model) if after.score is None else after.score, "macs_fewer": before.macs / after.macs,
        "parameters_fewer": before.parameters / after.parameters, "times_faster": result.speedup,
        "channels_left": after.channels / before.channels, "seconds": sum(result.seconds.values()),
    }  # fmt: skip


def table_of(rows: list[Row], network: str, count: int) -> Table:
    """The rows as a table, in order."""
    table = Table(title=f"{network}, {count} test images, not tuned", title_justify="left")
    for column in ("criterion", "channels", "stop", "top-1", "MACs", "parameters", "time"):
        table.add_column(column, justify="left" if column in ("criterion", "channels", "stop") else "right")
    for row in rows:
        kinds = "" if not row["criterion"] else "all" if row["coupled"] else "uncoupled"
        figures = ["not reached", "", "", ""]
        if row["reached"]:
            fewer = (f"{row[name]:.2f}x" for name in ("macs_fewer", "parameters_fewer", "times_faster"))
            figures = [f"{row['top1']:.1f}", *fewer]
        table.add_row(row["label"], kinds, row["stop"], *figures)
    return table


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
