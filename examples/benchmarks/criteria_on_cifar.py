"""Accuracy of DFPC's rankings and Torch-Pruning's criteria on a trained CIFAR ResNet, pruned to equal MACs.

    python examples/benchmarks/criteria_on_cifar.py --weights resnet20.safetensors --images cifar10_val.zip

`weights` holds a CIFAR ResNet (widths 16-32-64, basic blocks; `conv1`, `bn1`, `layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}`,
`linear`) whose shortcuts have no parameters; `images` is a zip of class folders. Every criterion is given to `prune`, so that
all are selected by in the same way, to the same budgets, on the same couplings. No fine-tuning; the second figure of each
pair is after re-estimating BatchNorm on unlabelled images that are not among the test images.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from jsonargparse import auto_cli
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor

import dfpc_plugin as dfpc
from dfpc_plugin.demo.criteria import CRITERIA
from dfpc_plugin.demo.measure import accuracy, with_reestimated_batchnorm
from dfpc_plugin.pruning import Per
from dfpc_plugin.selection import TargetError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a shortcut that halves the image is a fixed 1x1 convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        stride = width // inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False))
            nn.init.zeros_(self.shortcut[0].weight)
            with torch.no_grad():
                self.shortcut[0].weight[width // 4 : width // 4 + inputs, :, 0, 0] = torch.eye(inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """The ResNets of He et al. for CIFAR, `3 * 2 * blocks + 2` layers deep."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for stage in (1, 2, 3):
            stack = [BasicBlock(widths[stage - (n == 0)], widths[stage]) for n in range(blocks)]
            setattr(self, f"layer{stage}", nn.Sequential(*stack))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def load_network(path: Path) -> CifarResNet:
    """Build the network that the file's keys describe."""
    state = load_file(path)
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layer1."))
    model = CifarResNet(blocks)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("shortcut" in key or "num_batches" in key for key in missing), (missing, unexpected)
    return model.eval()


def load_images(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """Read `count` images, evenly over the classes, in a fixed order."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        chosen = [name for kind in classes for name in [n for n in names if f"/{kind}/" in n][: count // len(classes)]]
        pixels = [pil_to_tensor(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]
    images = normalize(torch.stack(pixels).float() / 255, MEAN, STD)
    return images, torch.tensor([classes.index(name.split("/")[-2]) for name in chosen])


def main(
    weights: Path,
    images: Path,
    speedups: tuple[float, ...] = (1.1, 1.2, 1.35, 1.6),
    test_images: int = 1000,
    unlabelled_images: int = 250,
    criteria: tuple[str, ...] = tuple(CRITERIA),
    per: Per = "channel",
    max_ratio: float = 0.9,
    rescore: float | None = None,
    seed: int = 0,
) -> None:
    """Print accuracy per criterion and budget.

    Args:
        weights: The trained network.
        images: The zip of class folders.
        speedups: MACs of the unpruned network over MACs of the pruned one.
        test_images: How many images to test on.
        unlabelled_images: How many further images to re-estimate BatchNorm on.
        criteria: Which criteria to compare.
        per: What every criterion's saliency is divided by.
        max_ratio: The share of its channels that any coupling may lose.
        rescore: The share of the channels after which saliency is computed anew.
        seed: Chooses the test images among those read, and what the random criterion draws.
    """
    console = Console()
    model = load_network(weights)
    pixels, labels = load_images(images, test_images + unlabelled_images)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    test, unlabelled = order[:test_images], order[test_images:]
    base = accuracy(model, pixels[test], labels[test])
    table = Table(title=f"{weights.stem}: {base:.1%} on {test_images} images; bare / BatchNorm re-estimated")
    for column in ("criterion", *(f"{speedup}x" for speedup in speedups)):
        table.add_column(column)
    for name in track(criteria, "pruning", console=console, transient=True):
        cells = []
        for speedup in speedups:
            torch.manual_seed(seed)
            try:
                cut = dfpc.prune(
                    model, pixels[:1], f"macs={1 / speedup}", importance=CRITERIA[name].build(), per=per,
                    max_ratio=max_ratio, rescore=rescore,
                ).model
            except TargetError:
                cells.append("not reached")
                continue
            repaired = with_reestimated_batchnorm(cut, pixels[unlabelled])
            scores = [accuracy(candidate, pixels[test], labels[test]) for candidate in (cut, repaired)]
            cells.append(" / ".join(f"{100 * score:.1f}" for score in scores))
        table.add_row(CRITERIA[name].label, *cells)
    console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
