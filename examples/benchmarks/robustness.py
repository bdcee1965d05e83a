"""Attack saving and loading many times, and count failures: `python examples/benchmarks/robustness.py NAME TRIES`.

Every try has to succeed, or fail with an error of this package, within five seconds and a gibibyte. It must run no code
from a file, and accept only what was saved. Prints one line of JSON per campaign, with every failure.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
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

SECONDS, BYTES = 5.0, 2**30
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


def in_child(act: Callable[[], None], prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run `act` in a child process; return its exit status and output."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code, said = 0, ""
        try:
            prepare()
            act()
        except DFPCError as error:
            code, said = 3, str(error)
        except BaseException:
            code, said = 4, traceback.format_exc()
        os.write(write, said.encode()[-4000:])
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode()
    return os.waitpid(child, 0)[1], said


CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate")


def killed_at(position: int) -> Callable[[], None]:
    """Die by SIGKILL just before file change number `position`."""

    def prepare() -> None:
        count = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if event in CHANGES and not (event == "open" and not isinstance(arguments[2], int | None)):
                if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return
                count += 1
                if count == position:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return prepare


def writes(place: Path, models: list) -> dict[str, tuple[Callable[[], None], Callable[[], str | None]]]:
    """The actions that write files, each with a function that checks the result."""
    run = Checkpoints(place / "run")
    states = [{"w": torch.full((64,), float(number))} for number in range(4)]

    def save() -> None:
        dfpc.save_pruned(models[1], place / "a", model=NAME, example_inputs=IMAGES[:1], overwrite=True)

    def saved() -> str | None:
        found = dfpc.load_pruned(place / "a", factory=network)
        return None if any(same(found, model) for model in models) else "another model"

    def keep() -> None:
        for number in (1, 2, 3):
            run.save(number, Checkpoint({"step": number}, states[number], states[number]))

    def kept() -> str | None:
        name = run.open(True)
        found = None if name is None else run.load(name)
        return None if found is None or equal(found.model, states[found.content["step"]]) else "another state"

    def store() -> None:
        Store(place / "layers", "mark").save_tensors("images", states[1], {"divergence": 1.0})

    def stored() -> str | None:
        own = Store(place / "layers", "mark")
        return None if not own.has("images") or equal(own.load_tensors("images")[0], states[1]) else "other images"

    return {"artifact": (save, saved), "checkpoints": (keep, kept), "repairs": (store, stored)}


def stopped(
    tries: int, place: Path, prepared: Callable[[int], Callable[[], None]], expected: Callable[[int], bool]
) -> Iterator[str | None]:
    """Stop each action at one place after another; then the files must be whole, and a second run must work."""
    models = [dfpc.prune(network(), IMAGES[:1], f"macs={share}").model for share in (0.8, 0.6)]
    done = 0
    for turn in itertools.count():
        for name, (act, fault) in writes(place, models).items():
            for position in range(1, 10**6):
                for path in place.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                dfpc.save_pruned(models[0], place / "a", model=NAME, example_inputs=IMAGES[:1])
                (place / "run").mkdir()
                status, said = in_child(act, prepared(position))
                whole = status == 0
                if not whole and not expected(status):
                    yield f"{name} at {position}: {said or status}"
                problem = fault()
                if not problem:
                    again, said = in_child(act)
                    problem = fault() or (None if again == 0 else f"again: {said}")
                left = [path.name for path in place.iterdir() if path.name.startswith(".")]
                yield f"{name} at {position}: {problem or left}" if problem or left else None
                done += 1
                if done == tries:
                    return
                if whole:
                    break
        if turn > 50:
            return


def kills(tries: int, place: Path) -> Iterator[str | None]:
    """Kill at every file change."""
    yield from stopped(tries, place, killed_at, lambda status: status == signal.SIGKILL)


def moments(tries: int, place: Path) -> Iterator[str | None]:
    """Kill at random moments, also between and during file changes."""
    chance = random.Random(0)

    def prepared(position: int) -> Callable[[], None]:
        seconds = chance.uniform(0.0005, 0.05)

        def prepare() -> None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)

        return prepare

    yield from stopped(tries, place, prepared, lambda status: status == signal.SIGALRM)


def full(tries: int, place: Path) -> Iterator[str | None]:
    """Fill the disk at every 97th byte of any file."""

    def prepared(position: int) -> Callable[[], None]:
        def prepare() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (97 * (position - 1), resource.RLIM_INFINITY))

        return prepare

    yield from stopped(tries, place, prepared, lambda status: os.waitstatus_to_exitcode(status) == 3)


def interrupts(tries: int, place: Path) -> Iterator[str | None]:
    """Ctrl-C at random lines of pruning and repair in place; it must leave the old or the new model, modes included."""
    new = dfpc.prune(network(), IMAGES[:1], "macs=0.7", repair="merge").model
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += 1
        return count

    def work(model: nn.Module) -> None:
        dfpc.prune(model, IMAGES[:1], "macs=0.7", repair="merge", inplace=True)

    sys.settrace(count)
    work(network())
    sys.settrace(None)
    chance, alive = random.Random(0), threading.active_count()
    for _ in range(tries):
        model, position, seen = network(), chance.randrange(lines), 0
        model.stem.train()
        modes = [module.training for module in model.modules()]
        generator = torch.get_rng_state()

        def interrupt(frame, event, argument, position=position):
            nonlocal seen
            seen += 1
            if seen == position:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
            return interrupt

        sys.settrace(interrupt)
        try:
            work(model)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        problem = None
        if not same(model, network()) and not same(model, new):
            problem = "neither the old model nor the new one"
        elif [module.training for module in model.modules()] != modes:
            problem = "other modes"
        elif not torch.equal(torch.get_rng_state(), generator):
            problem = "another random state"
        elif threading.active_count() > alive:
            problem = "a thread is left"
        elif torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
            problem = "a mode is left on PyTorch's stack"
        yield problem and f"line {position}: {problem}"


def threads(tries: int, place: Path) -> Iterator[str | None]:
    """Every pair of calls in eight threads at once, on one model and on eight."""
    x, how = IMAGES[:1], dfpc.RepairSettings("calibrate", IMAGES, count=8)
    pairs = [(image, index % 4) for index, image in enumerate(IMAGES)]
    numbers = itertools.count()

    def saved(model):
        path = dfpc.save_pruned(model, place / f"m{next(numbers)}", model=NAME, example_inputs=x)
        return dfpc.load_pruned(path, factory=network).state_dict()

    calls = {
        "bgsc": lambda model: dict(dfpc.bgsc(model, x)),
        "find_couplings": lambda model: {
            c.name: torch.tensor(c.blocks) for c in map(torch_free, dfpc.find_couplings(model, x))
        },
        "prune": lambda model: dfpc.prune(model, x, "macs=0.7").model.state_dict(),
        "repair": lambda model: dfpc.prune(model, x, "macs=0.7", repair=how).model.state_dict(),
        "measure_latency": lambda model: bool(dfpc.measure_latency({"m": model}, x, forwards=8)) and {},
        "evaluate_model": lambda model: {"loss": torch.tensor(dfpc.evaluate_model(model, pairs, batch_size=4).loss)},
        "save_pruned": saved,
    }
    expected = {name: call(network()) for name, call in calls.items()}
    for one, other in itertools.islice(itertools.combinations_with_replacement(calls, 2), tries):
        for shared in (True, False):
            models = [network()] * 8 if shared else [network() for _ in range(8)]
            names, faults = [one, other] * 4, []

            def run(model, name, faults=faults):
                try:
                    if not equal(calls[name](model), expected[name]):
                        faults.append(f"{name}: another result")
                except BaseException as error:
                    faults.append(f"{name}: {type(error).__name__}: {error}")

            workers = [threading.Thread(target=run, args=pair) for pair in zip(models, names, strict=True)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            faults += [] if all(same(model, network()) for model in models) else ["the model is not what it was"]
            yield f"{one} and {other}, {'one model' if shared else 'eight'}: {faults[:2]}" if faults else None


def torch_free(coupling):
    """A coupling with its channels as numbers."""
    return type("Coupling", (), {"name": coupling.name, "blocks": coupling.blocks.tolist()})


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


CAMPAIGNS: dict[str, tuple[Callable[[int, Path], Iterator[str | None]], int]] = {
    "artifacts": (artifacts, 1000),
    "checkpoints": (checkpoints, 300),
    "files": (files, 200),
    "kills": (kills, 300),
    "moments": (moments, 100),
    "full": (full, 300),
    "interrupts": (interrupts, 1000),
    "threads": (threads, 28),
}
"""Campaigns by name, with the usual number of tries."""


def campaign(name: str, tries: int | None = None) -> dict:
    """Run a campaign and return its results."""
    run, usual = CAMPAIGNS[name]
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(run(tries or usual, Path(place)))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    faults = [fault for fault in found if fault] + ([f"{grown / 2**30:.1f} GiB more memory"] if grown > BYTES else [])
    return {
        "campaign": name, "tries": len(found), "failures": len(faults), "seconds": round(time.monotonic() - begun, 1),
        "mib": round(grown / 2**20), "faults": faults[:20],
    }  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    for chosen in sys.argv[1:2] or CAMPAIGNS:
        print(json.dumps(campaign(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else None)), flush=True)
