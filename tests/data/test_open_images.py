"""Folders, archives and digits: which images there are, of which class, and what is said when something is wrong."""

import copy
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch.utils.data import DataLoader

from dfpc_plugin.data import DataError, collate_images, open_images
from image_files import png, shade, write_folder, write_zip

NAMES = ["train/dog/b.png", "train/cat/a.png", "train/dog/a.png", "val/cat/c.png", "val/dog/d.png"]


def pixel(image):
    return np.asarray(image)[0, 0]


def tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.fixture(params=["folder", "stored", "deflated"])
def written(request, tmp_path):
    """Write files as a folder or an archive, and return the source."""
    kinds = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}

    def write(names, name="data"):
        if request.param == "folder":
            return write_folder(tmp_path / name, names)
        return write_zip(tmp_path / f"{name}.zip", names, kinds[request.param])

    return write


def test_splits_classes_and_contents(written):
    source = written(NAMES)
    train, val = (open_images(source, split) for split in ("train", "val"))
    assert train.classes == val.classes == ("cat", "dog")
    assert [train[i][1] for i in range(3)] == list(train.labels) == [0, 1, 1]
    for dataset, numbers in ((train, (1, 2, 0)), (val, (3, 4))):
        assert [tuple(pixel(dataset[i][0])) for i in range(len(dataset))] == [shade(n) for n in numbers]


@pytest.mark.parametrize("prefix", ["", "deep/er/"])
def test_without_splits_it_is_all_of_it(written, prefix):
    source = written(
        [f"{prefix}{name}" for name in ("b/1.png", "a/2.png", "c/3.PNG", "a/note.txt", "__MACOSX/a/._2.png")]
    )
    for split in ("train", "val", "test"):
        dataset = open_images(source, split)
        assert dataset.classes == ("a", "b", "c")
        assert len(dataset) == 3


def test_val_and_test_stand_in_for_each_other_but_not_for_train(written):
    source = written(["x/test/a/1.png", "x/test/b/2.png"])
    assert len(open_images(source, "val")) == len(open_images(source, "test")) == 2
    with pytest.raises(DataError, match=r"There is no split 'train' in .*; it has test: give split val or test\."):
        open_images(source, "train")


def test_val_is_not_test_where_both_are_there(written):
    source = written(["val/a/1.png", "test/a/2.png", "test/a/3.png"])
    assert [len(open_images(source, split)) for split in ("val", "test")] == [1, 2]


def test_a_class_may_be_called_test(written):
    dataset = open_images(written(["train/exam/1.png", "train/quiz/2.png", "train/x/test/3.png"][:2]), "train")
    assert dataset.classes == ("exam", "quiz")


def test_an_empty_folder_beside_classes_is_a_class_so_that_numbers_stay(tmp_path):
    folder = write_folder(tmp_path / "data", ["val/a/1.png", "val/c/2.png", "other/x.txt"])
    for name in ("val/b", "val/.hidden", "elsewhere"):
        (folder / name).mkdir()
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    for source in (folder, archive):
        dataset = open_images(source, "val")
        assert (dataset.classes, dataset.labels) == (("a", "b", "c"), (0, 2))


def test_images_without_labels_need_no_folders(written):
    source = written(["1.png", "more/2.png", "3.png"])
    with pytest.raises(DataError, match="lies in no folder of a class"):
        open_images(source, "train")
    assert sorted(pixel(image)[0] for image, _ in open_images(source, "train", labelled=False)) == sorted(
        shade(number)[0] for number in range(3)
    )


def test_some_classes_of_imagenet_are_numbered_as_a_model_of_all_has_them(written):
    names = ImageNetInfo().label_names()
    dataset = open_images(written([f"{names[number]}/1.png" for number in (7, 500, 999)]), "val")
    assert dataset.labels == dataset.numbered_for(3).labels == (0, 1, 2)
    numbered = dataset.numbered_for(1000)
    assert numbered.labels == (7, 500, 999) == tuple(label for _, label in numbered)
    assert numbered.classes == tuple(names) and numbered.limited(2).with_transform(tensor).labels == (7, 500)


def test_limit_takes_evenly_and_always_the_same(written):
    source = written([f"{name}/{n:02}.png" for name, count in (("a", 2), ("b", 9), ("c", 9)) for n in range(count)])
    limited = open_images(source, "train", limit=10)
    assert [limited.labels.count(label) for label in range(3)] == [2, 4, 4]
    assert limited.labels == tuple(sorted(limited.labels))
    assert limited.indices == open_images(source, "train", limit=10).indices
    assert len(open_images(source, "train", limit=100)) == 20
    with pytest.raises(DataError, match="limit must be 1 or more, not 0"):
        open_images(source, "train", limit=0)


def test_workers_read_what_one_process_reads(written):
    source = written([f"{name}/{n}.png" for name in "ab" for n in range(20)])
    dataset = open_images(source, "train", tensor)
    dataset[0]  # the archive is open in this process before it forks
    alone = list(DataLoader(dataset, 4, collate_fn=collate_images))
    together = list(DataLoader(dataset, 4, num_workers=2, collate_fn=collate_images))
    for (images, labels), (others, same) in zip(alone, together, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, same)


def test_it_can_be_sent_to_another_process_while_open(written):
    dataset = open_images(written(NAMES), "train")
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert (pixel(copy[1][0]) == pixel(dataset[1][0])).all()


@pytest.mark.parametrize("content", [png(0)[:45], b"no image", b""])
def test_an_unreadable_image_is_named(tmp_path, content):
    folder = write_folder(tmp_path / "data", ["a/1.png", "a/2.png"])
    (folder / "a/2.png").write_bytes(content)
    with pytest.raises(DataError, match=r"Cannot read the image 'a/2\.png' of the folder .*Replace it or take it out"):
        open_images(folder, "train")[1]


def test_a_damaged_entry_of_an_archive_is_named(tmp_path):
    path = write_zip(tmp_path / "data.zip", ["a/1.png"])
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"Cannot read the image 'a/1\.png' of the archive"):
        open_images(path, "train")[0]


def two_bytes(content, offsets, value):
    """Set a field in the header of the first entry of an archive, and in its directory."""
    content = bytearray(content)
    for sign, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), offsets, strict=True):
        at = content.find(sign) + offset
        content[at : at + 2] = value.to_bytes(2, "little")
    return bytes(content)


ODD_ARCHIVES = {
    "encrypted": lambda content: two_bytes(content, (6, 8), 1),
    "of another compression": lambda content: two_bytes(content, (8, 10), 99),
    "of a later version": lambda content: two_bytes(content, (4, 6), 99),
}


@pytest.mark.parametrize("kind", ODD_ARCHIVES)
def test_archives_that_cannot_be_read(kind, tmp_path):
    path = write_zip(tmp_path / "data.zip", ["a/1.png"])
    path.write_bytes(ODD_ARCHIVES[kind](path.read_bytes()))
    with pytest.raises(DataError, match=r"data\.zip'"):
        open_images(path, "train")[0]


@pytest.mark.parametrize("cut", [True, False])
def test_an_archive_that_changes_while_it_is_open(cut, tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in (1, 2):
            archive.writestr(f"a/{number}.png", png(number) + bytes(100_000))  # more than is read ahead
    dataset = open_images(path, "train")
    dataset[0]
    if cut:
        os.truncate(path, 100)
    else:
        write_zip(path, ["a/3.png"])
        dataset = copy.copy(dataset)
        dataset.images = pickle.loads(pickle.dumps(dataset.images))
    with pytest.raises(DataError, match=r"Cannot read the image 'a/2\.png' of the archive"):
        dataset[1]


def test_images_that_would_take_all_memory(tmp_path):
    path = write_zip(tmp_path / "data.zip", ["a/1.png", "a/2.png"], zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/3.png", bytes(270_000_000))
        archive.writestr("a/4.png", png(1, (20_000, 4_000)))
    dataset = open_images(path, "train")
    for index, text in ((2, "it has more than 268435456 bytes"), (3, "it has 20000 x 4000 pixels")):
        with pytest.raises(DataError, match=text):
            dataset[index]


def test_no_program_is_run_to_read_an_image(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data", ["a/1.jpg"])
    (folder / "a/1.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was called"))
    with pytest.raises(DataError, match="cannot identify image file"):
        open_images(folder, "train")[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"There is no '.*nowhere'; give a folder, a zip archive, torchvision/NAME, or digits\."
    ):
        open_images(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="split='vall' is none of train, val, test"):
        open_images("digits", "vall")
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is no zip archive"):
        open_images(tmp_path / "a.zip", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There are no images in the folder"):
        open_images(tmp_path / "empty", "train")
    with pytest.raises(DataError, match=r"root and download are for torchvision/NAME; 'digits' is none"):
        open_images("digits", "train", root=tmp_path)


@pytest.mark.parametrize("name", ["1.png", "train/1.png"])
def test_images_need_the_folder_of_a_class(tmp_path, name):
    folder = write_folder(tmp_path / "data", [name, "train/a/2.png"][: 1 if name == "1.png" else 2])
    with pytest.raises(DataError, match=f"The image '{name}' of .* lies in no folder of a class"):
        open_images(folder, "train")


def test_digits():
    train, test = open_images("digits", "train"), open_images("digits", "test")
    assert (len(train), len(test)) == (1257, 540)
    assert train.classes == tuple("0123456789")
    assert train[0][0].size == (8, 8)
    seen = {np.asarray(image).tobytes() for image, _ in (train[i] for i in range(len(train)))}
    others = [np.asarray(test[i][0]).tobytes() for i in range(len(test))]
    assert sum(content in seen for content in others) < 5, "the splits overlap"


def test_digits_have_the_labels_of_scikit_learn():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    known = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(pixels, labels, strict=True)
    }
    test = open_images("digits", "val")
    assert all(known[np.asarray(image).tobytes()] == label for image, label in (test[i] for i in range(len(test))))


def test_batches_of_different_shapes_are_refused():
    pairs = [(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 8), 1)]
    with pytest.raises(
        DataError, match=r"different shapes, \(3, 8, 8\) and \(3, 9, 8\); open the data set with a transform"
    ):
        collate_images(pairs)
    with pytest.raises(DataError, match=r"gives images as Image, not as tensors; open it with a transform"):
        collate_images([open_images("digits", "val")[0]])


def test_reading_does_not_hold_the_file_of_a_folder(tmp_path):
    folder = write_folder(tmp_path / "data", ["a/1.png"])
    image, _ = open_images(folder, "train")[0]
    (folder / "a/1.png").unlink()
    written = io.BytesIO()
    image.save(written, "PNG")
    assert written.getvalue().startswith(b"\x89PNG")
