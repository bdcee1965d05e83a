"""`dfpc bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import ModelOptions, section_of
from dfpc_plugin.cli.output import OptionError, print_json, say
from dfpc_plugin.display import Name, counted, number_columns, plain_table, shapes_text
from dfpc_plugin.errors import system_reason
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.latency import BUSY, Latency, LatencySettings
from dfpc_plugin.latency.turns import Forwards, Threads
from dfpc_plugin.plain_data import Count, Positive
from dfpc_plugin.runtimes import RUNTIMES, GraphModel, runtime_of
from dfpc_plugin.runtimes.graphs import graph_inputs, require_inputs
from dfpc_plugin.workflow.opening import device_of, open_model

_GRAPH = ".onnx"


@dataclass(frozen=True)
class BenchConfig(ModelOptions):
    """Options of `dfpc bench`.

    Attributes:
        models: Directories of saved models, timm models, torchvision/NAME, cifar/NAME, checkpoints that name their
            architecture, or ONNX files, whose names end in .onnx; speed-ups are over the first.
        batch_size: Images of one forward.
        threads: CPU threads; by default as many as PyTorch uses.
        min_run_time: Seconds to spend on each model, at least.
        warmup: Forwards of each model before the first one that is timed.
        forwards: Time this many forwards of each model, however long that takes.
        runtime: What runs the models: torch, compile (what torch.compile makes of them), onnxruntime or openvino. ONNX files
            run in onnxruntime where torch or compile is given.
        json: Print the figures as JSON.
        quiet: Show no progress.
    """

    models: tuple[str, ...] = field(metadata={"metavar": "MODEL"})
    batch_size: Count = 1
    threads: Threads | None = None
    min_run_time: Positive = 1.0
    warmup: Count = 2
    forwards: Forwards | None = None
    runtime: str = "torch"
    json: bool = False
    quiet: bool = False


def run(config: BenchConfig, consoles: Consoles) -> None:
    """Measure the latency of several models side by side, in turns, so that their ratios are fair."""
    settings = LatencySettings(
        config.threads, None, config.min_run_time, config.warmup, config.forwards, config.runtime
    )
    runtime_of(settings.runtime).require()
    device = _device(config)
    names = dict.fromkeys(config.models)
    with bars(consoles.err, config.quiet or config.json) as tell:
        graphs = {name: _graph(Path(name), settings) for name in names if name.endswith(_GRAPH)}
        common = {"size": config.size, "batch_size": config.batch_size}
        sections = {name: section_of(name, config.own, **common) for name in names if name not in graphs}
        opened = {name: open_model(each, device, factory=config.factory) for name, each in sections.items()}
        if not config.quiet:
            say(consoles.err, *(note for each in opened.values() for note in each.notes))
        models = {name: graphs[name] if name in graphs else opened[name].model for name in names}
        inputs = _common_inputs(
            {name: each.inputs for name, each in opened.items()}
            or {name: graph_inputs(graph, config.batch_size, config.size) for name, graph in graphs.items()}
        )
        tell("preparing", 0.0)
        for graph in graphs.values():
            require_inputs(graph, inputs)
        found = settings.measure(models, inputs, lambda share: tell("measuring", share))
    first = found[config.models[0]]
    if config.json:
        rows = {name: _figures(latency, first) for name, latency in found.items()}
        print_json(rows, consoles.out)
    else:
        consoles.out.print(_table(found, first, device))
        worst = max(found, key=lambda name: found[name].noise)
        if found[worst].noise > BUSY:
            say(
                consoles.out,
                f"The machine was busy: the interquartile range is up to {found[worst].noise:.0%} of the median (for {worst}), so "
                f"the speed-ups are uncertain. Run nothing else meanwhile, or give more --min_run_time.",
            )


def _device(config: BenchConfig) -> torch.device:
    """Where models are; the CPU, unless another is asked for, if any of them runs as a graph, which runs there."""
    graphs = runtime_of(config.runtime).load is not None or any(name.endswith(_GRAPH) for name in config.models)
    return device_of("cpu" if graphs and config.device == "auto" else config.device)


def _graph(path: Path, settings: LatencySettings) -> GraphModel:
    """Load an ONNX file in the runtime that is asked for, or in ONNX Runtime where that loads none."""
    load = runtime_of(settings.runtime).load or runtime_of("onnxruntime").load
    assert load is not None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(f"Cannot read '{path}': {system_reason(error)}.") from error
    return load(content, None, settings.used_threads)


def _common_inputs(given: Mapping[str, ExampleInputs]) -> ExampleInputs:
    """What all models are called with."""
    shapes = {name: [tuple(tensor.shape) for tensor in as_call(inputs)[0]] for name, inputs in given.items()}
    (first, expected), *others = shapes.items()
    for name, found in others:
        if found != expected:
            raise OptionError(
                f"'{first}' takes {expected} and '{name}' takes {found}, so their times say nothing of each other; give --size."
            )
    return given[first]


def _figures(latency: Latency, first: Latency) -> dict[str, Any]:
    return {
        "latency_ms": 1e3 * latency.median,
        "iqr_ms": 1e3 * latency.iqr,
        "speedup": latency.speedup_over(first),
        "rounds": len(latency.seconds),
        "threads": latency.threads,
        "runtime": latency.runtime,
    }


def _table(found: Mapping[str, Latency], first: Latency, device: torch.device) -> Table:
    where = "GPU" if device.type == "cuda" else f"CPU, {counted(first.threads, 'thread')}"
    numbers = number_columns("Latency (ms)", "Interquartile range", "Speed-up")
    title = f"{shapes_text(first.shapes)}, {where}; speed-ups are medians of turns"
    table = plain_table(Column("Model", min_width=14), "Runtime", *numbers, title=title, title_justify="left")
    for name, latency in found.items():
        own = _figures(latency, first)
        cells = (f"{own['latency_ms']:.2f}", f"{own['iqr_ms']:.2f}", f"{own['speedup']:.2f}x")
        table.add_row(Name(name, among=found), RUNTIMES[latency.runtime].title, *cells)
    return table
