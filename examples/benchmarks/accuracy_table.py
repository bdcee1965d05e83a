"""Accuracy that is left, over networks, budgets, criteria and repairs: the table of how well everything works.

    python examples/benchmarks/accuracy_table.py --data DIRECTORY                              # everything that is there
    python examples/benchmarks/accuracy_table.py --data DIRECTORY --only 'resnet*' --criteria '[auto, lamp]'
    python examples/benchmarks/accuracy_table.py --data DIRECTORY --table true                 # only print what is known

The directory holds weights and images under the names in `NETWORKS`; networks whose files are not there are left out, and named.
Every cell is kept as a line of JSON as soon as it is done, so that a run that was stopped goes on where it was. Nothing is
fine-tuned. `auto` is what `prune` ranks by when it is told nothing but the target and the repair. `taylor` looks at 128 of the
images without labels, and takes the network's own answers for labels.

Networks are made by `train_on_cifar.py`, and those on digits by

    python -m dfpc_plugin.demo.train --seed 1 --output DIRECTORY/digits1.safetensors
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA, Importance
from dfpc_plugin.data import evaluation_transform, open_images
from dfpc_plugin.demo.data import load_digits
from dfpc_plugin.demo.network import load_network
from dfpc_plugin.models import ModelSpec, Preprocessing, build_model, load_weights
from dfpc_plugin.models.library import IMAGENET

__all__ = ["NETWORKS", "markdown"]

Record = dict[str, Any]
AUTO, TAYLOR = "auto", "taylor"
TAYLOR_IMAGES = 128
REPAIRS = ("none", "mean", "merge", "synthetic", "calibrate")
KEYS = ("network", "macs", "criterion", "repair", "seed")
DRAWS = 3
"""How often a criterion that draws random numbers is tried."""
PHOTOGRAPH = 256
"""The side of photographs, of which the centre is taken."""
SMALL = Preprocessing((3, 32, 32), *IMAGENET)
CIFAR = ("cifar10_jpeg_val.zip", "cifar10_jpeg_train.zip")
PHOTOGRAPHS = ("imagenet_sample.zip", "imagenet_unlabelled.zip")


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        weights: The file of its weights.
        name: As `dfpc.build_model` knows it.
        images: Files of labelled images to test on, and of images without labels for `calibrate`.
        prepared: What becomes of an image.
        options: What the network is built with.
    """

    weights: str
    name: str
    images: tuple[str, ...] = CIFAR
    prepared: Preprocessing = SMALL
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, data: Path) -> nn.Module:
        """Return the network with its weights, in evaluation mode."""
        model = build_model(ModelSpec(self.name, self.options))
        load_weights(model, data / self.weights)
        return model.eval()

    def read(self, data: Path, tested: int | None, unlabelled: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read images to test on with their labels, and images without labels, evenly over the classes."""
        images, labels = self._read(data / self.images[0], "val", tested)
        return images, labels, self._read(data / self.images[1], "train", unlabelled)[0]

    def _read(self, path: Path, split: str, count: int | None) -> tuple[Tensor, Tensor]:
        pairs = open_images(path, split, evaluation_transform(self.prepared), limit=count)
        images, labels = zip(*pairs, strict=True)
        return torch.stack(images), torch.tensor(labels)


@dataclass(frozen=True)
class DigitsNetwork(Network):
    """The demo's network, on scikit-learn's digits."""

    images: tuple[str, ...] = ()

    def build(self, data: Path) -> nn.Module:
        """Return the network with its weights, in evaluation mode."""
        return load_network(data / self.weights)

    def read(self, data: Path, tested: int | None, unlabelled: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read the digits to test on, and as many as asked for of those to train with."""
        digits = load_digits()
        return digits.test_images[:tested], digits.test_labels[:tested], digits.train_images[:unlabelled]


def _small(network: str) -> Network:
    from train_on_cifar import NETWORKS as TRAINED

    return Network(f"{network}.safetensors", TRAINED[network].name, options=TRAINED[network].options)


def _lite(number: int, side: int) -> Network:
    half = (0.5, 0.5, 0.5)
    name = f"tf_efficientnet_lite{number}"
    prepared = Preprocessing((3, side, side), half, half, crop_pct=side / PHOTOGRAPH)
    return Network(f"{name}.safetensors", name, PHOTOGRAPHS, prepared)


NETWORKS = {
    **{f"lite{number}": _lite(number, side) for number, side in enumerate((224, 240))},
    "resnet20": Network("resnet20_cifar10_jpeg.safetensors", "cifar/resnet20"),
    "resnet56": Network("resnet56_cifar10_jpeg.safetensors", "cifar/resnet56"),
    **{network: _small(network) for network in ("bottleneck", "convnext", "vit")},
    **{f"digits{seed}": DigitsNetwork(f"digits{seed}.safetensors", "digits") for seed in range(3)},
}


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are classified right."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(batch).argmax(1) for batch in images.split(50)])
    return float((found == labels).float().mean())


def importance_of(criterion: str, model: nn.Module, unlabelled: Tensor) -> Importance | None:
    """Return an importance by name, with what it needs to know of the model; None for the default of `prune`."""
    if criterion != TAYLOR:
        return None if criterion == AUTO else CRITERIA[criterion].build()
    model.zero_grad()
    for batch in unlabelled[:TAYLOR_IMAGES].split(32):
        found = model(batch)
        F.cross_entropy(found, found.argmax(1), reduction="sum").backward()
    return tp.importance.GroupTaylorImportance()


def cell(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    unlabelled: Tensor,
    macs: float,
    criterion: str,
    repair: str,
    seed: int,
) -> Record:
    """The accuracy after one cut and one repair, or why there is none."""
    settings = dfpc.RepairSettings(repair, unlabelled if repair == "calibrate" else None, seed=seed)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    start = time.perf_counter()
    importance = importance_of(criterion, model, unlabelled)
    try:
        result = dfpc.prune(model, images[:1], f"macs={macs}", importance=importance, repair=settings)
    except dfpc.errors.DFPCError as error:  # of a repair that this network does not allow
        return {"error": str(error)}
    took = time.perf_counter() - start
    share = accuracy(result.model, images, labels)
    return {"accuracy": share, "macs_left": result.reached["macs"], "seconds": round(took, 1)}


def label_of(criterion: str) -> str:
    """What tables and plots call a criterion."""
    return {AUTO: "`prune` by default", TAYLOR: "Taylor (TP, on images)"}.get(criterion) or CRITERIA[criterion].label


def markdown(records: Iterable[Record]) -> str:
    """One table per network and budget: criteria by repairs, the mean over draws, in per cent."""
    groups: dict[tuple[str, float], dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    facts: dict[str, Record] = {}
    for record in records:
        facts[record["network"]] = record
        if "accuracy" in record:
            groups[record["network"], record["macs"]][record["criterion"]][record["repair"]].append(record["accuracy"])
    text = []
    for (network, macs), rows in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1])):
        base, count = facts[network]["base"], facts[network]["images"]
        error = (base * (1 - base) / count) ** 0.5
        text.append(
            f"\n**{network}**, {macs:g} of the MACs; {base:.1%} before, {count} images, standard error {error:.1%}:\n"
        )
        repairs = [repair for repair in REPAIRS if any(repair in row for row in rows.values())]
        text += [f"| Criterion | {' | '.join(repairs)} |", "|---" * (len(repairs) + 1) + "|"]
        for criterion, row in rows.items():
            found = [f"{100 * statistics.mean(row[repair]):.1f}" if repair in row else "-" for repair in repairs]
            text.append(f"| {label_of(criterion)} | {' | '.join(found)} |")
    return "\n".join(text)


def draw(records: Iterable[Record], path: Path, repair: str = "merge") -> None:
    """Draw the accuracy that is left over the budgets, a panel per network, each criterion with the same repair."""
    curves: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    bases = {record["network"]: record["base"] for record in records}
    for record in records:
        if record["repair"] == repair and "accuracy" in record:
            curves[record["network"]][record["criterion"]][record["macs"]].append(record["accuracy"])
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (network, criteria) in itertools.zip_longest(panels, curves.items(), fillvalue=("", {})):
        panel.set_visible(bool(network))
        for criterion, points in criteria.items():
            budgets = sorted(points, reverse=True)
            shares = [100 * statistics.mean(points[budget]) for budget in budgets]
            own = {"color": "black", "linewidth": 2.5} if criterion == AUTO else {"linewidth": 1.2}
            panel.plot(budgets, shares, marker=".", label=label_of(criterion).replace("`", ""), **own)
        if network:
            panel.axhline(100 * bases[network], color="0.7", linestyle=":")
            panel.set(title=network, xlabel="share of the MACs", ylabel=f"accuracy in %, after {repair}")
            panel.invert_xaxis()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)


def main(
    data: Path,
    only: str = "*",
    budgets: tuple[float, ...] = (0.9, 0.8, 0.7, 0.5),
    criteria: tuple[str, ...] = (AUTO, *CRITERIA, TAYLOR),
    repairs: tuple[str, ...] = REPAIRS,
    results: Path = Path("accuracy_table.jsonl"),
    test_images: int | None = None,
    unlabelled_images: int = 250,
    table: bool = False,
    figure: Path | None = None,
) -> None:
    """Measure what is not known yet, and print the table.

    Args:
        data: The directory of weights and images.
        only: Networks, as a shell-style pattern.
        budgets: Shares of the MACs to keep.
        criteria: Names of criteria, and "auto" and "taylor".
        repairs: Which repairs.
        results: Where records are kept.
        test_images: How many images to test on, evenly over the classes; all if not given.
        unlabelled_images: How many `calibrate` gets.
        table: Measure nothing.
        figure: A file for curves of accuracy over budgets, such as `accuracy.svg`.
    """
    console = Console(stderr=True, soft_wrap=True)
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    records: list[Record] = [json.loads(line) for line in lines]
    known = {tuple(record[key] for key in KEYS) for record in records}
    for name, network in NETWORKS.items():
        lacking = [file for file in (network.weights, *network.images) if not (data / file).exists()]
        if table or not fnmatch(name, only) or lacking:
            if lacking and not table and fnmatch(name, only):
                console.print(f"{name} is left out: '{data}' has no {' and no '.join(lacking)}.")
            continue
        model = network.build(data)
        images, labels, unlabelled = network.read(data, test_images, unlabelled_images)
        base = accuracy(model, images, labels)
        for macs, criterion, repair in itertools.product(budgets, criteria, repairs):
            draws = DRAWS if criterion in CRITERIA and CRITERIA[criterion].random else 1
            for seed in range(draws):
                facts = dict(zip(KEYS, (name, macs, criterion, repair, seed), strict=True))
                if tuple(facts.values()) in known:
                    continue
                found = cell(model, images, labels, unlabelled, macs, criterion, repair, seed)
                records.append({**facts, "base": base, "images": len(images), **found})
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                console.print(name, macs, criterion, repair, found.get("accuracy", found.get("error")))
    print(markdown(records))
    if figure is not None:
        draw(records, figure)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
