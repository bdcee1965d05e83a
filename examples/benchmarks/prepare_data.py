"""Prepare the directory of images and weights that the benchmarks read.

    python examples/benchmarks/prepare_data.py --output data --cifar_root downloads --download true
    python examples/benchmarks/prepare_data.py --output data --checkpoints '{resnet56: resnet56-4bfd9763.th}'
    python examples/benchmarks/prepare_data.py --output data --lite_weights true --photographs_root imagenet/val --unlabelled photos

Writes only what its arguments ask for, with the names in `accuracy_table.py`. `docs/results.md` says where images and
checkpoints come from, and under which licences.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import timm
from jsonargparse import auto_cli
from PIL import Image
from safetensors.torch import save_file
from torchvision.datasets import CIFAR10
from torchvision.transforms.functional import center_crop, resize

from dfpc_plugin.models import ModelSpec, build_model, load_weights

QUALITY = 95
SIDE = 256
"""Side of the stored photographs; the benchmarks crop their centre."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def cifar(root: Path, output: Path, *, download: bool = False, limit: int | None = None) -> None:
    """Write CIFAR-10 as archives of JPEG files, `train/CLASS/NAME.jpg` and `test/CLASS/NAME.jpg`."""
    for train, folder, name in ((True, "train", "cifar10_jpeg_train.zip"), (False, "test", "cifar10_jpeg_val.zip")):
        images = CIFAR10(root, train=train, download=download)
        count = len(images) if limit is None else min(limit, len(images))
        named = ((f"{folder}/{images.classes[images[i][1]]}/{i:05d}.jpg", images[i][0]) for i in range(count))
        _archive(output / name, named)


def resnet(name: str, checkpoint: Path, output: Path) -> None:
    """Write the weights of a CIFAR ResNet, such as `resnet56`, from any trainer's checkpoint."""
    model = build_model(ModelSpec(f"cifar/{name}"))
    load_weights(model, checkpoint)
    save_file(model.state_dict(), output / f"{name}_cifar10_jpeg.safetensors")


def lite(output: Path) -> None:
    """Download EfficientNet-Lite0 and Lite1 by timm, and write their weights."""
    for number in (0, 1):
        name = f"tf_efficientnet_lite{number}"
        save_file(timm.create_model(name, pretrained=True).state_dict(), output / f"{name}.safetensors")


def photographs(source: Path, archive: Path, *, per_class: int | None = None) -> None:
    """Write photographs, `per_class` of every folder at most, cropped to 256 x 256, with their paths in `source`."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES):
        folders.setdefault(path.parent, []).append(path)
    taken = (path for paths in folders.values() for path in paths[:per_class])
    named = ((str(path.relative_to(source).with_suffix(".jpg")), _centre(path)) for path in taken)
    _archive(archive, named)


def _centre(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return center_crop(resize(image.convert("RGB"), SIDE), [SIDE, SIDE])


def _archive(path: Path, images: Iterable[tuple[str, Image.Image]]) -> None:
    """Write JPEG files without further compression."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, image in images:
            data = io.BytesIO()
            image.save(data, "JPEG", quality=QUALITY)
            archive.writestr(name, data.getvalue())
    print(path)


def main(
    output: Path,
    cifar_root: Path | None = None,
    download: bool = False,
    checkpoints: Mapping[str, Path] | None = None,
    lite_weights: bool = False,
    photographs_root: Path | None = None,
    unlabelled: Path | None = None,
) -> None:
    """Write what is asked for.

    Args:
        output: The data directory.
        cifar_root: Where torchvision keeps CIFAR-10, or will download it to.
        download: Download CIFAR-10 if it is not there.
        checkpoints: Checkpoints of CIFAR ResNets, by name: `{resnet20: FILE, resnet56: FILE}`.
        lite_weights: Download the weights of EfficientNet-Lite0 and Lite1.
        photographs_root: ImageNet photographs in folders by WordNet id; the first of every class is taken.
        unlabelled: Any photographs, for `calibrate`.
    """
    output.mkdir(parents=True, exist_ok=True)
    if cifar_root is not None:
        cifar(cifar_root, output, download=download)
    for name, checkpoint in (checkpoints or {}).items():
        resnet(name, checkpoint, output)
    if lite_weights:
        lite(output)
    if photographs_root is not None:
        photographs(photographs_root, output / "imagenet_sample.zip", per_class=1)
    if unlabelled is not None:
        photographs(unlabelled, output / "imagenet_unlabelled.zip")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
