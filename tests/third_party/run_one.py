"""Prune one model of another library in this process, check what came of it, and print one JSON line.

    python tests/third_party/run_one.py hf_vit

`PYTHONPATH` chooses the checkout of `dfpc_plugin` that is tested. The exit status is 0 if every check passes. Every check
is "ok" or the error that it ended with; `tracebacks` has the calls that led to it. What libraries print goes to the
standard error.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import third_party_models as table
import torch
from torch.utils._pytree import tree_map_only

Record = dict[str, Any]
TARGET, LEAST = 0.6, 0.4
"""The share of the MACs that is asked for, and how much less is still what was asked for: a group norm loses 32 channels at once."""
TOLERANCE = 1e-4
"""Rounding in single precision, as a share of the largest output."""
APPROXIMATE_TOLERANCE = 1e-2
"""The same where channels of zeros are not quite the same as none; an index out of place is larger by far."""
FRAMES = 12
"""How many of an error's innermost calls are kept."""
EVERYWHERE = {"target": "ratio=0.25", "max_ratio": 0.3}
"""A cut that takes channels from nearly every coupling: none may lose more than 30 %, and 25 % of all have to go."""


class CheckError(AssertionError):
    """A check failed."""


class Checks:
    """Runs checks, and keeps how each ended."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        self.tracebacks: dict[str, str] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Run a block as the check `name`."""
        try:
            yield
        except Exception as error:  # whatever happens to a model that nobody has tried is the result
            self.results[name] = f"{type(error).__name__}: {error}"
            self.tracebacks[name] = "".join(traceback.format_exception(error, limit=-FRAMES))
        else:
            self.results[name] = "ok"


def require(condition: bool, message: str) -> None:
    """Raise where a condition does not hold.

    Raises:
        CheckError: It does not.
    """
    if not condition:
        raise CheckError(message)


def look_at(name: str) -> Record:
    """Prune the model `name` of the table and check everything about it."""
    import dfpc_plugin as dfpc
    import zero_cut

    case, checks = table.MODELS[name], Checks()
    record: Record = {
        "name": name,
        "library": table.PACKAGES[case.library],
        "version": version(table.PACKAGES[case.library]),
        "checkout": str(Path(dfpc.__file__).parents[1]),
        "note": case.note,
        "approximate": case.approximate,
    }
    begin = time.perf_counter()
    model, inputs = zero_cut.randomise(table.build(name)), case.inputs()
    before = snapshot(model)
    result = None
    with checks.of("prune"):
        result = dfpc.prune(model, inputs, f"macs={TARGET}", forward_fn=case.forward)
        record["seconds_prune"] = round(time.perf_counter() - begin, 1)
    with checks.of("unchanged"):
        require_unchanged(before, snapshot(model))
    couplings: list[Any] = []
    with checks.of("couplings"):
        couplings = dfpc.find_couplings(model, inputs, case.forward)
        record |= {"couplings": len(couplings), "prunable_macs": prunable(dfpc, model, inputs, case.forward)}
        record["protected"] = reasons(couplings)
    with checks.of("everywhere"):
        require_exact_everywhere(dfpc, model, couplings, inputs, case)
    if result is None:
        record["missing"] = missing(dfpc, model, inputs, case.forward)
    else:
        record["reached"] = result.reached["macs"]
        with checks.of("reached"):
            reached = result.reached["macs"]
            require(LEAST <= reached <= TARGET, f"{reached:.1%} of the MACs are left")
        with checks.of("exact"):
            record["difference"] = difference(model, result, couplings, inputs, case)
            require_close(record["difference"], case)
        with checks.of("runs"):
            require_runs(model, result.model, inputs, same=not case.pinned and not case.undecided)
        with checks.of("saved"), tempfile.TemporaryDirectory() as place:
            require_saved(dfpc, name, result, inputs, case.forward, Path(place) / "artifact")
    if case.stream:
        with checks.of("stream"):
            require_free(couplings, case.stream)
    if case.pinned:
        with checks.of("pinned"):
            require_pinned(dfpc, model, inputs, case.stream)
    if case.undecided:
        with checks.of("undecided"):
            require_undecided(dfpc, model, inputs)
    if checks.results["unchanged"] == "ok":
        with checks.of("unchanged"):
            require_unchanged(before, snapshot(model))
    record["seconds"] = round(time.perf_counter() - begin, 1)
    ok = all(outcome == "ok" for outcome in checks.results.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)
    return {
        **record,
        "status": "ok" if ok else "failed",
        "checks": checks.results,
        "peak_mib": peak,
        "tracebacks": checks.tracebacks,
    }


def missing(dfpc: Any, model: Any, inputs: Any, forward: Any) -> list[str]:
    """Operators without a rule, for who looks at an error; empty if even that cannot be told."""
    try:
        return [str(operator) for operator in dfpc.missing_operators(model, inputs, forward_fn=forward)]
    except Exception as error:  # the error that is looked at may be in the way of this, too
        return [f"cannot be told: {type(error).__name__}: {error}"]


def prunable(dfpc: Any, model: Any, inputs: Any, forward: Any) -> float:
    """The share of MACs that lies in couplings that can be pruned."""
    graph = dfpc.DataFlowGraph().build_dependency(model, inputs, forward_fn=forward)
    return round(float(graph.prunable_macs), 4)


def reasons(couplings: list[Any]) -> dict[str, int]:
    """Why couplings are protected, and how many for that reason."""
    found: dict[str, int] = {}
    for coupling in couplings:
        if coupling.protected is not None:
            found[coupling.protected] = found.get(coupling.protected, 0) + 1
    return found


def outputs(model: Any, inputs: Any, forward: Callable[[Any, Any], Any] | None) -> list[Any]:
    """Everything real that the model returns, or that `forward` returns of it."""
    import zero_cut

    if forward is None:
        return zero_cut.outputs(model, inputs)

    def call(_: Any) -> Any:
        return forward(model, inputs)

    return zero_cut.outputs(call, (None,))


def difference(model: Any, result: Any, couplings: list[Any], inputs: Any, case: table.ThirdPartyModel) -> float:
    """How far the pruned model is from the model in which the same channels are zero, as a share of the largest output.

    In double precision, as detectors that pick the best of many candidates pick others where two are equal but for rounding.
    """
    from zoo_statistics import masked_statistics

    import zero_cut

    zeroed, waiting = copy.deepcopy(model), list(result.couplings)
    for coupling in couplings:  # both lists are in the order of the model's parameters
        cut = waiting[0] if waiting else None
        same = cut is not None and (cut.name, tuple(cut.layers), cut.before) == (
            coupling.name,
            tuple(coupling.feed_in),
            coupling.channels,
        )
        if cut is None or not same or coupling.protected is not None:
            continue
        waiting.pop(0)
        if cut.gone:
            zero_cut.zero(zeroed, coupling, torch.tensor(cut.gone))
    require(not waiting, f"the coupling '{waiting[0].name if waiting else ''}' of the result is not among the model's")
    pruned = copy.deepcopy(result.model)
    if not case.single_precision:
        zeroed, pruned, inputs = zeroed.double(), pruned.double(), in_double_precision(inputs)
    with masked_statistics():
        first, second = (outputs(each, inputs, case.forward) for each in (zeroed, pruned))
    return zero_cut.difference(first, second)


def in_double_precision(inputs: Any) -> Any:
    """The same inputs, real tensors as `torch.float64`."""
    return tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, inputs)


def require_close(found: float, case: table.ThirdPartyModel) -> None:
    """Raise where outputs differ by more than rounding.

    Raises:
        CheckError: They do.
    """
    require(found <= (APPROXIMATE_TOLERANCE if case.approximate else TOLERANCE), f"outputs differ by {found:.3g}")


def require_exact_everywhere(dfpc: Any, model: Any, couplings: list[Any], inputs: Any, case: Any) -> None:
    """Cut nearly every coupling at random, which needs no scores, and compare with channels of zeros.

    Raises:
        CheckError: Outputs differ.
    """
    import torch_pruning as tp

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        some = tp.importance.RandomImportance()
        result = dfpc.prune(model, inputs, **EVERYWHERE, importance=some, forward_fn=case.forward)
    require_close(difference(model, result, couplings, inputs, case), case)
    require_runs(model, result.model, inputs, same=not case.pinned and not case.undecided)


def require_runs(model: Any, pruned: Any, inputs: Any, *, same: bool) -> None:
    """Call the pruned model as anybody would; `same` if outputs are to have the shapes that they had.

    Raises:
        CheckError: Shapes differ, or something is not finite.
    """
    whole, found = (outputs(copy.deepcopy(each), inputs, None) for each in (model, pruned))
    require(all(bool(tensor.isfinite().all()) for tensor in found), "outputs are not finite")
    shapes = [[tuple(tensor.shape) for tensor in some] for some in (whole, found)]
    require(not same or shapes[0] == shapes[1], f"outputs have the shapes {shapes[1]} instead of {shapes[0]}")


def require_saved(dfpc: Any, name: str, result: Any, inputs: Any, forward: Any, place: Path) -> None:
    """Save the pruned model, load it into a new one, and compare outputs bit by bit.

    Raises:
        CheckError: They differ.
    """
    spec = dfpc.ModelSpec("third_party_models:build", {"name": name})
    dfpc.save_pruned(result, place, model=spec)
    loaded = dfpc.load_pruned(place, factory=lambda: table.build(name))
    mine, other = (outputs(each, inputs, forward) for each in (result.model.eval(), loaded))
    pairs = list(zip(mine, other, strict=True))
    require(all(torch.equal(a, b) for a, b in pairs), "the loaded model has other outputs")


def require_free(couplings: list[Any], stream: str) -> None:
    """The stream that the parameter `stream` belongs to may be pruned.

    Raises:
        CheckError: It may not; the message has the reason.
    """
    found = why_protected(couplings, stream)
    require(bool(found), f"no coupling has '{stream}'")
    require(None in found, f"the stream of '{stream}' must stay: {found}")


def require_pinned(dfpc: Any, model: Any, inputs: Any, stream: str) -> None:
    """Without a `forward_fn`, the stream is protected as an output.

    Raises:
        CheckError: It is not.
    """
    found = why_protected(dfpc.find_couplings(model, inputs), stream)
    told = bool(found) and all(reason is not None and "output" in reason for reason in found)
    require(told, f"the stream of '{stream}' is not protected as an output: {found}")


def why_protected(couplings: list[Any], tensor: str) -> list[str | None]:
    """Why couplings that hold a parameter are protected; None for each that is not."""
    return [c.protected for c in couplings if any(piece.tensor == tensor for piece in c.slices)]


def require_undecided(dfpc: Any, model: Any, inputs: Any) -> None:
    """Without a `forward_fn`, the error says what the forward does with values, and that a `forward_fn` helps.

    Raises:
        CheckError: It does not.
    """
    try:
        dfpc.find_couplings(model, inputs)
    except dfpc.errors.DFPCError as error:
        require("forward_fn" in str(error), f"the error does not tell of forward_fn: {error}")
    else:
        raise CheckError("the forward needs values, and there is no error")


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model that a user could see change."""

    def frozen(value: Any, depth: int = 0) -> Any:
        if isinstance(value, torch.Tensor):
            return ("tensor", id(value), value.detach().clone(), value.requires_grad, value.grad is None)
        if isinstance(value, Mapping) and depth < 3:
            return {str(key): frozen(entry, depth + 1) for key, entry in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and depth < 3:
            return [type(value).__name__, *(frozen(entry, depth + 1) for entry in value)]
        plain = value is None or isinstance(value, bool | int | float | str)
        return repr(value) if plain else ("object", type(value).__name__, id(value))

    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            found[f"{path}.{key}"] = frozen(value)
    return found


def require_unchanged(before: Any, after: Any, path: str = "") -> None:
    """Raise where two snapshots differ.

    Raises:
        CheckError: Says where.
    """
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        alike = before.shape == after.shape and before.dtype == after.dtype
        require(alike and torch.allclose(before, after, rtol=0, atol=0, equal_nan=True), f"{path} has other values")
        return
    if isinstance(before, dict) and isinstance(after, dict):
        require(before.keys() == after.keys(), f"{path} has other entries: {sorted(before.keys() ^ after.keys())[:3]}")
        for key in before:
            require_unchanged(before[key], after[key], f"{path}.{key}" if path else str(key))
        return
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        require(len(before) == len(after), f"{path} has another length")
        for mine, other in zip(before, after, strict=True):
            require_unchanged(mine, other, path)
        return
    require(before == after, f"{path} is {after!r} and was {before!r}")


@contextmanager
def quiet() -> Iterator[Any]:
    """Send what libraries print to the standard error; yields the true standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(kept, "w", encoding="utf-8") as stream:
        try:
            yield stream
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)


def main(name: str) -> int:
    """Look at one model, print its record, and return the exit status."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("YOLO_OFFLINE", "true")  # ultralytics looks for updates otherwise
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with quiet() as stream:
        try:
            record = look_at(name)
        except Exception as error:  # it cannot even be built or looked at: that is a record, too
            record = {
                "name": name,
                "status": "failed",
                "checks": {"build": f"{type(error).__name__}: {error}"},
                "tracebacks": {"build": "".join(traceback.format_exception(error, limit=-FRAMES))},
            }
        print(json.dumps(record), file=stream, flush=True)
    return 0 if record["status"] == "ok" else 1


def find_tests() -> None:
    """Let the helpers of the tested checkout be found, which fit it; else those beside this file."""
    import dfpc_plugin

    beside = Path(dfpc_plugin.__file__).resolve().parents[1] / "tests"
    own = Path(__file__).resolve().parents[1]
    sys.path.append(str(beside if (beside / "zero_cut.py").exists() else own))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(__file__).name} NAME; names are in third_party_models.py")
    find_tests()
    raise SystemExit(main(sys.argv[1]))
