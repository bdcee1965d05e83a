"""Accuracy that is left, over networks, budgets, criteria and repairs: the table of how well everything works.

    python examples/benchmarks/accuracy_table.py --data DIRECTORY                              # everything that is there
    python examples/benchmarks/accuracy_table.py --data DIRECTORY --only 'resnet*' --criteria '[auto, lamp]'
    python examples/benchmarks/accuracy_table.py --data DIRECTORY --table true                 # only print what is known

The directory holds weights and images under the names in `NETWORKS`; networks whose files are not there are left out, and named.
Every cell is kept as a line of JSON as soon as it is done, so that a run that was stopped goes on where it was. Nothing is
fine-tuned. `auto` is what `prune` ranks by when it is told nothing but the target and the repair.
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
from jsonargparse import auto_cli
from rich.console import Console
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.data import evaluation_transform, open_images
from dfpc_plugin.models import ModelSpec, Preprocessing, build_model, load_weights
from dfpc_plugin.models.library import IMAGENET

__all__ = ["NETWORKS", "markdown"]

Record = dict[str, Any]
AUTO = "auto"
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
    images: tuple[str, str] = CIFAR
    prepared: Preprocessing = SMALL
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, data: Path) -> nn.Module:
        """Return the network with its weights, in evaluation mode."""
        model = build_model(ModelSpec(self.name, self.options))
        load_weights(model, data / self.weights)
        return model.eval()


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
}


def load(path: Path, split: str, prepared: Preprocessing, count: int | None) -> tuple[Tensor, Tensor]:
    """Read images, evenly over the classes."""
    images, labels = zip(*open_images(path, split, evaluation_transform(prepared), limit=count), strict=True)
    return torch.stack(images), torch.tensor(labels)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are classified right."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(batch).argmax(1) for batch in images.split(50)])
    return float((found == labels).float().mean())


def cell(
    model: nn.Module, images: Tensor, labels: Tensor, unlabelled: Tensor, macs: float, criterion: str, repair: str, seed: int
) -> Record:
    """The accuracy after one cut and one repair, or why there is none."""
    settings = dfpc.RepairSettings(repair, unlabelled if repair == "calibrate" else None, seed=seed)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    start = time.perf_counter()
    importance = None if criterion == AUTO else CRITERIA[criterion].build()
    try:
        result = dfpc.prune(model, images[:1], f"macs={macs}", importance=importance, repair=settings)
    except dfpc.errors.DFPCError as error:  # of a repair that this network does not allow
        return {"error": str(error)}
    took = time.perf_counter() - start
    share = accuracy(result.model, images, labels)
    return {"accuracy": share, "macs_left": result.reached["macs"], "seconds": round(took, 1)}


def markdown(records: Iterable[Record]) -> str:
    """One table per network and budget: criteria by repairs, the mean over draws, in per cent."""
    groups: dict[tuple[str, float], dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    facts: dict[str, Record] = {}
    for record in records:
        facts[record["network"]] = record
        if "accuracy" in record:
            groups[record["network"], record["macs"]][record["criterion"]][record["repair"]].append(record["accuracy"])
    text = []
    for (network, macs), rows in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1])):
        base, count = facts[network]["base"], facts[network]["images"]
        error = (base * (1 - base) / count) ** 0.5
        text.append(f"\n**{network}**, {macs:g} of the MACs; {base:.1%} before, {count} images, standard error {error:.1%}:\n")
        repairs = [repair for repair in REPAIRS if any(repair in row for row in rows.values())]
        text += [f"| Criterion | {' | '.join(repairs)} |", "|---" * (len(repairs) + 1) + "|"]
        for criterion, row in rows.items():
            label = "`prune` by default" if criterion == AUTO else CRITERIA[criterion].label
            found = [f"{100 * statistics.mean(row[repair]):.1f}" if repair in row else "-" for repair in repairs]
            text.append(f"| {label} | {' | '.join(found)} |")
    return "\n".join(text)


def main(
    data: Path,
    only: str = "*",
    budgets: tuple[float, ...] = (0.9, 0.8, 0.7, 0.5),
    criteria: tuple[str, ...] = (AUTO, *CRITERIA),
    repairs: tuple[str, ...] = REPAIRS,
    results: Path = Path("accuracy_table.jsonl"),
    test_images: int | None = None,
    unlabelled_images: int = 250,
    table: bool = False,
) -> None:
    """Measure what is not known yet, and print the table.

    Args:
        data: The directory of weights and images.
        only: Networks, as a shell-style pattern.
        budgets: Shares of the MACs to keep.
        criteria: Names of criteria; "auto" is the default of `prune`.
        repairs: Which repairs.
        results: Where records are kept.
        test_images: How many images to test on, evenly over the classes; all if not given.
        unlabelled_images: How many `calibrate` gets.
        table: Measure nothing.
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
        images, labels = load(data / network.images[0], "val", network.prepared, test_images)
        unlabelled = load(data / network.images[1], "train", network.prepared, unlabelled_images)[0]
        base = accuracy(model, images, labels)
        for macs, criterion, repair in itertools.product(budgets, criteria, repairs):
            draws = DRAWS if criterion != AUTO and CRITERIA[criterion].random else 1
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


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
