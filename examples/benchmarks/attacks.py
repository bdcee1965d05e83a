"""Attack saving and loading with damaged and hostile files: campaigns of `robustness.py`, and the network of all of them."""

from __future__ import annotations

import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.finetuning.checkpoints import Checkpoint, Checkpoints
from dfpc_plugin.models import load_weights
from dfpc_plugin.repairing.store import Store

SECONDS = 5.0
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAME = f"{Path(__file__).stem}:Net"


class Net(nn.Module):
    """A residual block and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        return self.head((x + self.conv(x)).relu().mean((2, 3)))


class Trap:
    """Creates a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, insert, repeat, zero or reverse some bytes."""
    for _ in range(chance.choice((1, 1, 1, 3, 20))):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((1, 1, 4, 64, len(data))))
        piece = data[start:end]
        some = (
            bytes(len(piece)),
            chance.randbytes(len(piece)),
            b"",
            piece * 2,
            b"9" * 40,
            b'"',
            b"\xff\xff\xff\x7f",
            piece[::-1],
        )
        flipped = bytes([piece[0] ^ 1 << chance.randrange(8)]) + piece[1:] if piece else b"\0"
        data = data[:start] + chance.choice((*some, flipped, flipped, flipped)) + data[end:]
    return data


def spoil(directory: Path, chance: random.Random) -> list[str]:
    """Damage, remove or replace a file of a directory; return the names of changed files."""
    path = chance.choice(sorted(path for path in directory.rglob("*") if path.is_file()))
    data, how = path.read_bytes(), chance.random()
    if how < 0.06:
        path.unlink()
    elif how < 0.09:
        path.unlink()
        path.mkdir()
    elif how < 0.12:
        path.unlink()
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(damaged(data, chance))
        if path.read_bytes() == data:
            return []
    return [path.name]


def artifacts(tries: int, place: Path) -> Iterator[str | None]:
    """Load artifacts with a damaged file."""
    original = dfpc.prune(network(), IMAGES[:1], "macs=0.7")
    dfpc.save_pruned(original, place / "whole", model=NAME, example_inputs=IMAGES[:1])
    for number in range(tries):
        shutil.copytree(place / "whole", place / "a")
        changed = spoil(place / "a", random.Random(number))

        def load() -> str | None:
            return None if same(dfpc.load_pruned(place / "a", factory=network), original.model) else "another model"

        yield attempt(load, f"{number}: {changed}")
        shutil.rmtree(place / "a")


def checkpoints(tries: int, place: Path) -> Iterator[str | None]:
    """Resume training and repairs from checkpoints with a damaged file."""
    states = {n: {f"w{i}": torch.full((3, n + i), float(n)) for i in range(3)} for n in (1, 2)}
    for number, state in states.items():
        (place / "whole").mkdir(exist_ok=True)
        Checkpoints(place / "whole").save(number, Checkpoint({"step": number}, state, {"m": state["w0"]}))
    Store(place / "layers", "mark").save_tensors("images", states[1], {"divergence": 1.0})
    for number in range(tries):
        shutil.copytree(place / "whole", place / "c")
        shutil.copytree(place / "layers", place / "s")
        changed = [*spoil(place / "c", random.Random(number)), *spoil(place / "s", random.Random(number))]

        def load() -> str | None:
            run = Checkpoints(place / "c")
            name = run.open(True)
            found = run.load(name) if name else None
            if found is not None and not equal(found.model, states[found.content["step"]]):
                return "another state"
            return None

        def take_up() -> str | None:
            store = Store(place / "s", "mark")
            found = store.load_tensors("images")[0] if store.has("images") else states[1]
            return None if equal(found, states[1]) else "other images"

        yield attempt(load if number % 2 else take_up, f"{number}: {changed}")
        shutil.rmtree(place / "c")
        shutil.rmtree(place / "s")


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(tries: int, place: Path) -> Iterator[str | None]:
    """Load hostile weight files, images and archives of images."""
    trap, model = place / "trapped", network()
    whole = [place / name for name in ("w.pth", "w.safetensors", "t.pth", "i.png", "i.jpg", "i.gif", "i.zip")]
    torch.save(model.state_dict(), whole[0])
    from safetensors.torch import save_file

    save_file(model.state_dict(), whole[1])
    torch.save({"state_dict": model.state_dict() | {"x": Trap(trap)}}, whole[2])
    picture = Image.effect_noise((16, 16), 50).convert("RGB")
    for path in whole[3:6]:
        picture.save(path)
    with zipfile.ZipFile(whole[6], "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train/a/1.png", "train/b/2.png"):
            archive.writestr(name, whole[3].read_bytes())
    for number in range(tries):
        chance = random.Random(number)
        source = chance.choice(whole)
        data = damaged(source.read_bytes(), chance) if chance.random() < 0.9 else source.read_bytes()
        target = place / f"x{source.suffix}"
        target.write_bytes(data)

        def load(target: Path = target) -> str | None:
            mine = network()
            before = network()
            try:
                load_weights(mine, target)
            except BaseException:
                if not same(mine, before):
                    return "half loaded"
                raise
            return None

        def look(target: Path = target) -> str | None:
            root = place / "images"
            if target.suffix != ".zip":
                for label in "ab":
                    (root / "train" / label).mkdir(parents=True, exist_ok=True)
                    shutil.copy(target, root / "train" / label / target.name)
            found = dfpc.open_images(target if target.suffix == ".zip" else root, "train")
            for index in range(len(found)):
                found[index]
            return None

        yield attempt(load if source.suffix in (".pth", ".safetensors") else look, f"{number}: {source.name}")
        if trap.exists():
            yield f"{number}: {source.name} ran code"
        shutil.rmtree(place / "images", ignore_errors=True)


def attempt(act: Callable[[], str | None], name: str) -> str | None:
    """Do something that may raise an error of this package; return what is wrong."""
    start = time.monotonic()
    try:
        fault = act()
    except DFPCError as error:
        fault = None if str(error).strip() else "no words"
    except Exception as error:
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    took = time.monotonic() - start
    if fault is None and took > SECONDS:
        fault = f"took {took:.1f} s"
    return fault and f"{name}: {fault}"
