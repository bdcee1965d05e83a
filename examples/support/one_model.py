"""Prune one model in this process, and report; the sweep starts one such process per model.

    python examples/support/one_model.py --name resnet50 --backend dfpc

Prints JSON objects, each as soon as its part is known, so that results remain if the process is killed. Later objects
complete earlier ones.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch_pruning as tp
from backends import BACKENDS, findings
from jsonargparse import auto_cli
from torch import Tensor, nn

from dfpc_plugin.families import data_flow_forward
from dfpc_plugin.inputs import as_call
from dfpc_plugin.models import build_model, example_inputs
from dfpc_plugin.tracing.tree import tensors

LEAST_REMOVED = {"dfpc": 0.2, "torch_pruning": 0.05}
"""Smallest share of the parameters that has to be removed for pruning 30 % of the channels to count as a success."""


class UnlikeBeforeError(Exception):
    """The pruned model's outputs have other shapes than the unpruned model's."""


def main(
    name: str,
    backend: Literal["dfpc", "torch_pruning"] = "dfpc",
    ratio: float = 0.3,
    seconds: float = 60,
    memory: float = 6144,
) -> None:
    """Measure one model.

    Args:
        name: A timm name, or `torchvision/NAME`.
        backend: The back end that prunes it.
        ratio: Share of the channels to remove from every coupling.
        seconds: Time limit for finding couplings, pruning and one forward pass together.
        memory: Memory limit of the process, in MiB.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    say(stage="build")
    model = build_model(name).eval()
    inputs = example_inputs(model, name)
    before, was_finite = outputs(model, inputs)
    params, macs = count(model, inputs)
    say(params_before=params, macs_before=macs, stage="trace")
    with limits(seconds, memory):
        record = prune(model, inputs, backend, ratio, before, was_finite)
    say(peak_mib=round(peak_mib()), **record)
    if record["status"] == "ok":
        left, macs = count(model, inputs)
        status = "ok" if left <= (1 - LEAST_REMOVED[backend]) * params else "too_little"
        say(params_after=left, macs_after=macs, status=status)


def prune(
    model: nn.Module, inputs: Any, backend: str, ratio: float, before: list[tuple[int, ...]], was_finite: bool
) -> dict[str, Any]:
    """Prune `model` in place and call it; return the outcome and the time it took."""
    begin, stage = time.perf_counter(), "trace"
    names = {id(module): path for path, module in model.named_modules()}  # before pruning
    record: dict[str, Any] = {"status": "ok"}
    try:
        pruner = BACKENDS[backend](model, inputs, ratio)
        say(stage=(stage := "prune"), **(findings(pruner) if backend == "dfpc" else {}))
        pruner.step()
        say(stage=(stage := "forward"))
        after, finite = outputs(model, inputs)
        if after != before:
            raise UnlikeBeforeError(f"outputs {after} instead of {before}")
        if was_finite and not finite:
            record["status"] = "nonfinite"
    except Exception as error:  # any failure of a library is a result
        record |= {"status": f"{stage}_failed", "error": one_line(error, names)}
    return record | {"seconds": round(time.perf_counter() - begin, 2)}


@torch.no_grad()
def outputs(model: nn.Module, inputs: Any) -> tuple[list[tuple[int, ...]], bool]:
    """Call the model; return its outputs' shapes and whether all are finite.

    The first dimension is left out if the forward depends on values, such as the number of boxes that a detector finds.
    """
    args, kwargs = as_call(inputs)
    found: list[Tensor] = list(tensors(model(*args, **kwargs)))
    first = 0 if data_flow_forward(model) is None else 1
    return [tuple(t.shape[first:]) for t in found], all(bool(t.isfinite().all()) for t in found)


def count(model: nn.Module, inputs: Any) -> tuple[int, float | None]:
    """Parameters, and MACs by Torch-Pruning; None if it does not know the model."""
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        return params, float(tp.utils.count_ops_and_params(model, inputs)[0])
    except Exception:  # MACs are optional in the table
        return params, None


def one_line(error: BaseException, names: dict[int, str]) -> str:
    """The error's class and first line, with the path of the innermost module that it passed through."""
    message = (str(error).strip().splitlines() or [""])[0]
    text = f"{type(error).__name__}: {message}"[:300]
    found, trace = "", error.__traceback__
    while trace is not None:
        paths = [names.get(id(value), "") for value in list(trace.tb_frame.f_locals.values())]
        found, trace = next(filter(None, paths), found), trace.tb_next
    return f"{found}: {text}" if found else text


def peak_mib() -> float:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


@contextmanager
def limits(seconds: float, memory: float) -> Iterator[None]:
    """Report and end the process if the block takes too long or the process too much memory."""
    done, begin = threading.Event(), time.perf_counter()

    def watch() -> None:
        while not done.wait(0.1):
            elapsed, peak = time.perf_counter() - begin, peak_mib()
            facts = {"seconds": round(elapsed, 2), "peak_mib": round(peak)}
            if elapsed > seconds:
                end(status="timeout", error=f"not done after {seconds:g} s", **facts)
            if peak > memory:
                end(status="memory", error=f"more than {memory:g} MiB", **facts)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def end(**facts: object) -> None:
    say(**facts)
    os._exit(0)  # the thread that prunes may be deep in a loop that takes no signals


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
