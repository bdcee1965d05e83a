"""torchvision's own loading code, on files as it expects them."""

import struct

import numpy as np
import pytest

from dfpc_plugin.data import DataError, open_images
from image_files import write_folder


def write_mnist(root, images, labels, prefix):
    """Write the files of MNIST, whose format is a header and bytes."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True, exist_ok=True)
    count, height, width = images.shape
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
        struct.pack(">iiii", 2051, count, height, width) + images.tobytes()
    )
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">ii", 2049, count) + labels.astype(np.uint8).tobytes()
    )


@pytest.fixture
def mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = np.arange(12) % 10
    write_mnist(tmp_path, images[:8], labels[:8], "train")
    write_mnist(tmp_path, images[8:], labels[8:], "t10k")
    return tmp_path, images, labels


@pytest.mark.parametrize("name", ["MNIST", "mnist"])
@pytest.mark.parametrize(("split", "chosen"), [("train", slice(8)), ("val", slice(8, 12)), ("test", slice(8, 12))])
def test_mnist(mnist, name, split, chosen):
    root, images, labels = mnist
    dataset = open_images(f"torchvision/{name}", split, root=root)
    assert dataset.labels == tuple(labels[chosen])
    assert len(dataset.classes) == 10
    for (image, label), pixels, number in zip(
        (dataset[i] for i in range(len(dataset))), images[chosen], labels[chosen], strict=True
    ):
        assert (np.asarray(image) == pixels).all()
        assert label == number
    assert open_images(f"torchvision/{name}", split, root=root, limit=2).labels == (0, 1)


def test_imagenette_has_folders(tmp_path):
    names = [f"imagenette2/{split}/n0144{n:04}/{n}.JPEG" for split in ("train", "val") for n in (764, 767)]
    names = [name.replace("n01440764", "n01440764").replace("n01440767", "n02102040") for name in names]
    write_folder(tmp_path, names)
    dataset = open_images("torchvision/Imagenette", "val", root=tmp_path)
    assert dataset.labels == (0, 1)
    assert dataset.classes[0].startswith("tench")
    assert dataset[0][0].mode == "RGB"


def test_errors(tmp_path):
    with pytest.raises(
        DataError, match=r"'torchvision/cifar-10' is no data set that is known here; did you mean torchvision/CIFAR10\?"
    ):
        open_images("torchvision/cifar-10", "train", root=tmp_path)
    with pytest.raises(
        DataError, match=r"'torchvision/zzzz' is no data set that is known here; there are CIFAR10, CIFAR100"
    ):
        open_images("torchvision/zzzz", "train", root=tmp_path)
    with pytest.raises(
        DataError, match=r"torchvision cannot load CIFAR10 from .* say with root where it is, or give download=True"
    ):
        open_images("torchvision/CIFAR10", "train", root=tmp_path)
    with pytest.raises(DataError, match="ImageNet cannot be downloaded"):
        open_images("torchvision/ImageNet", "train", root=tmp_path, download=True)


def test_every_data_set_has_its_splits():
    """The table is about arguments of torchvision's constructors, which must have them."""
    import inspect

    import torchvision

    from dfpc_plugin.data.known_sets import _SPLITS

    for name, splits in _SPLITS.items():
        parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
        assert set(splits) == {"train", "val", "test"}
        assert all(set(arguments) <= set(parameters) for arguments in splits.values()), name
