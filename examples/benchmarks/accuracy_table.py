"""Accuracy that is left, over networks, budgets, criteria and repairs: the table of how well everything works.

    python examples/benchmarks/accuracy_table.py --data DIRECTORY                              # everything that is there
    python examples/benchmarks/accuracy_table.py --data DIRECTORY --only 'resnet*' --criteria '[auto, lamp]'
    python examples/benchmarks/accuracy_table.py --data DIRECTORY --table true                 # only print what is known

The directory holds weights and images under the names in `NETWORKS`; networks whose files are not there are left out, and named.
The cells are those of `dfpc_plugin.compare`. Each is kept as a line of JSON as soon as it is done, so that a run that was stopped
goes on where it was. Nothing is fine-tuned. `auto` is what `prune` ranks by when it is told nothing but the target and the repair. `taylor` looks at 128 of the
images without labels, and takes the network's own answers for labels.

Networks are made by `train_on_cifar.py`, and those on digits by

    python examples/benchmarks/train_on_digits.py --seed 1 --output DIRECTORY/digits1.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.comparing import Cell, CellResult
from dfpc_plugin.comparing.cells import METRICS, CellStore, Unpruned
from dfpc_plugin.comparing.plan import contenders
from dfpc_plugin.comparing.scorers import standard_error
from dfpc_plugin.criteria import AUTO, CRITERIA, TAYLOR
from dfpc_plugin.data import evaluation_transform, open_images
from dfpc_plugin.demo.network import load_digits, load_network
from dfpc_plugin.models import ModelSpec, Preprocessing, build_model, load_weights
from dfpc_plugin.models.library import IMAGENET
from dfpc_plugin.repairing import METHODS, Method
from dfpc_plugin.selection import Target
from dfpc_plugin.workflow.opening import device_of

Record = dict[str, Any]
CONSOLE = Console(stderr=True, soft_wrap=True)
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

    def read(self, data: Path, tested: int | None, unlabelled: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read images to test on with their labels, and images without labels if any are asked for, evenly over the classes."""
        images, labels = self._read(data / self.images[0], "val", tested)
        return images, labels, self._read(data / self.images[1], "train", unlabelled)[0] if unlabelled else None

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

    def read(self, data: Path, tested: int | None, unlabelled: int) -> tuple[Tensor, Tensor, Tensor | None]:
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


class Records(CellStore):
    """Keeps the cells of one network among those of all, one line of JSON each."""

    def __init__(self, path: Path, network: str, images: int) -> None:
        """Take up the cells of a network that are in the file; `images` is how many it is tested on."""
        super().__init__({"metric": "accuracy"})
        self._path, self._network, self._images = path, network, images
        self.known = {result.cell: result for result in results_of(read(path), network)}

    def add(self, result: CellResult) -> None:
        """Keep a cell on the disk, and print it."""
        super().add(result)
        cell, unpruned = result.cell, self.unpruned
        found: Record = {"error": result.error}
        if not result.error:
            found = {"accuracy": result.value, "macs_left": result.macs, "params_left": result.params}
            found["seconds"] = round(result.seconds or 0.0, 1)
        facts = (self._network, Target.parse(cell.budget).macs, cell.criterion, cell.repair, cell.seed)
        base = None if unpruned is None else unpruned.value
        record = {**dict(zip(KEYS, facts, strict=True)), "base": base, "images": self._images, **found}
        record |= {"digest": result.digest} if result.digest else {}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        CONSOLE.print(*facts[:4], result.error or result.value)


def read(path: Path) -> list[Record]:
    """Every record in a file; none if it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def results_of(records: Iterable[Record], network: str) -> list[CellResult]:
    """The records of a network as cells, at falling shares of the MACs."""
    found = []
    for record in sorted(records, key=lambda record: -record["macs"]):
        if record["network"] == network:
            cell = Cell(record["criterion"], str(Target(macs=record["macs"])), record["repair"], record["seed"])
            share = record.get("accuracy")
            error = None if share is None else standard_error(share, record["images"])
            left = (record.get("macs_left"), record.get("params_left"), None, record.get("seconds"))
            known = {"error": record.get("error", ""), "digest": record.get("digest", "")}
            found.append(CellResult(cell, share, error, *left, **known))
    return found


def result_of(records: Sequence[Record], network: str) -> dfpc.CompareResult:
    """All that is known of a network as a comparison."""
    last = [record for record in records if record["network"] == network][-1]
    unpruned = Unpruned(None, None, last["base"], standard_error(last["base"], last["images"]))
    cells = tuple(results_of(records, network))
    return dfpc.CompareResult(METRICS["accuracy"], f"{last['images']} images", unpruned, cells)


def compact(result: dfpc.CompareResult) -> str:
    """A Markdown table of criteria by repairs, with a figure for each budget.

    Bold is the best of a budget and a repair, or within one standard error of it; - cannot be done, ? was not measured.
    """
    rows = {(row.criterion, row.budget): row for row in result.rows()}
    budgets = list(dict.fromkeys(budget for _, budget in rows))
    repairs = [repair for repair in METHODS if any(repair in row.cells for row in rows.values())]

    def figure(criterion: str, budget: str, repair: str) -> str:
        row = rows.get((criterion, budget))
        if row is None or repair not in row.cells:
            return "?"
        value = row.values(repair)
        text = "-" if value is None else result.metric.text(value.mean)
        return f"**{text}**" if criterion in result.leaders(budget, repair) else text

    def figures(criterion: str, repair: str) -> str:
        found = [figure(criterion, budget, repair) for budget in budgets]
        return " / ".join(found) if len({*found, "-", "?"}) > 2 else found[0]

    title = ["Criterion", *(repair if repair == "none" else f"`{repair}`" for repair in repairs)]
    lines = [title, ["---"] * len(title)]
    for criterion in (AUTO, *CRITERIA, TAYLOR.name):
        name = next((row.name for (own, _), row in rows.items() if own == criterion), None)
        if name is not None:
            lines.append([name, *(figures(criterion, repair) for repair in repairs)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(
    data: Path,
    only: str = "*",
    budgets: tuple[float, ...] = (0.9, 0.8, 0.7, 0.5),
    criteria: tuple[str, ...] = (AUTO, *CRITERIA, TAYLOR.name),
    repairs: tuple[Method, ...] = tuple(METHODS),
    results: Path = Path("accuracy_table.jsonl"),
    test_images: int | None = None,
    unlabelled_images: int = 250,
    table: bool = False,
    figure: Path | None = None,
    device: str = "auto",
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
        figure: For curves of accuracy over budgets: `accuracy.svg` makes one file per network, such as `accuracy-resnet20.svg`.
        device: Where networks run: cpu, cuda, or auto for a GPU if there is one.
    """
    if not any(fnmatch(name, only) for name in NETWORKS):
        raise SystemExit(f"--only {only} matches none of the networks; there are {', '.join(NETWORKS)}.")
    by_images = [repair for repair in repairs if METHODS[repair].images == "given"]
    by_images += [name for name in criteria if name == TAYLOR.name]
    for name, network in NETWORKS.items():
        if table or not fnmatch(name, only):
            continue
        needed = (network.weights, *(network.images if by_images else network.images[:1]))
        lacking = [file for file in needed if not (data / file).exists()]
        if lacking:
            why = f" (for {' and '.join(by_images)})" if network.weights not in lacking and by_images else ""
            CONSOLE.print(f"{name} is left out: '{data}' has no {' and no '.join(lacking)}{why}.")
            continue
        model = network.build(data).to(device_of(device))
        images, labels, unlabelled = network.read(data, test_images, unlabelled_images if by_images else 0)
        store = Records(results, name, len(images))
        for random, seeds in ((False, 1), (True, DRAWS)):
            chosen = [criterion.name for criterion in contenders(criteria).values() if criterion.random == random]
            if chosen:
                dfpc.compare(
                    model, images[:1].to(device_of(device)), criteria=chosen, budgets=budgets, repairs=repairs, seeds=range(seeds),
                    data=TensorDataset(images, labels), images=unlabelled, batch_size=50, save_to=store,
                )  # fmt: skip
    records = read(results)
    if not records:
        why = (
            f"'{results}' has no records"
            if table
            else f"'{data}' does not have what the networks of --only {only} need"
        )
        raise SystemExit(f"Nothing was measured: {why}.")
    for name in dict.fromkeys(record["network"] for record in records):
        found = result_of(records, name)
        shares = " / ".join(f"{budget:g}" for budget in sorted({record["macs"] for record in records}, reverse=True))
        before = f"{found.metric.text(found.unpruned.value)} % of {found.source} before pruning"
        error = found.metric.text(found.unpruned.standard_error or 0.0)
        print(
            f"\n## {name}\n\n{before} (standard error {error}). Accuracy in % at {shares} of the MACs:\n\n{compact(found)}"
        )
        if figure is not None:
            found.plot(figure.with_name(f"{figure.stem}-{name}{figure.suffix}"))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
