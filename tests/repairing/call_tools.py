"""Calls of layers as the package sees them, and forwards to the end with weights changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.repairing.calls import LayerCall, layer_call
from dfpc_plugin.repairing.follow import Settlement
from dfpc_plugin.repairing.lockstep import SteppedForward
from dfpc_plugin.tracing.names import ModelNames


class Calls(TorchFunctionMode):
    """Notes what `layer_call` makes of everything that a model calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = ModelNames(model)
        self.found: list[LayerCall] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = layer_call(func, args, kwargs or {}, self.names)
        if call is not None:
            self.found.append(call)
        return func(*args, **(kwargs or {}))


def calls_of(model: nn.Module, *inputs: Tensor) -> list[LayerCall]:
    with torch.no_grad(), Calls(model) as calls:
        model(*inputs)
    return calls.found


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Double precision, evaluation, and no weight or statistic of any kind left at its default."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.3, 2, generator=generator)
            elif value.is_floating_point():
                value.normal_(generator=generator).mul_(0.5)
    return model


def stepped(model: nn.Module, inputs: Any, each: Callable[[Settlement], None]) -> Any:
    """The result of a forward that `each` settlement of is shown on the way."""
    results = []

    def forward_fn(model: nn.Module, inputs: Any) -> None:
        results.append(model(*inputs) if isinstance(inputs, tuple) else model(inputs))

    with closing(SteppedForward(model, inputs, forward_fn)) as forward, torch.no_grad():
        while (settlement := forward.advance()) is not None:
            each(settlement)
    return results[0]


def changer(seed: int = 5) -> Callable[[Settlement], None]:
    """Changes the weights of every layer when its output is settled, and lets the forward go on with them."""
    seeds: Iterator[int] = iter(range(seed, seed + 1000))

    def change(settlement: Settlement) -> None:
        matrix = settlement.call.matrix
        settlement.call.write(matrix + 0.3 * random(next(seeds), *matrix.shape))
        settlement.refresh()

    return change
