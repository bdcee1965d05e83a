"""Kill, interrupt and fill the disk while files are written, and call everything in threads: campaigns of `robustness.py`."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from attacks import IMAGES, NAME, equal, network, same
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.finetuning.checkpoints import Checkpoint, Checkpoints
from dfpc_plugin.repairing.store import Store


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
