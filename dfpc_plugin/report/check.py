"""Find out whether a model can be scored, without its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dfpc_plugin.errors import DFPCError, MissingOperator, UnsupportedOperatorError
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.saliency import couplings_of
from dfpc_plugin.trace import trace_model


@dataclass(frozen=True)
class ModelCheck:
    """What came of one model.

    Attributes:
        layers: Number of feed-in layers that some layer reads.
        couplings: Number of couplings they form.
        missing: Operators without a rule.
        error: What else stands in the way of scoring it; '' if nothing does.
    """

    model: str
    layers: int
    couplings: int
    missing: tuple[MissingOperator, ...]
    error: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the model can be scored."""
        return not self.missing and not self.error

    def to_json(self) -> dict[str, Any]:
        """Return the same as dicts, lists, numbers and strings."""
        return {**to_plain(self), "ok": self.ok}


def check_model(name: str, build: Callable[[], tuple[nn.Module, ExampleInputs]]) -> ModelCheck:
    """Run the forward of a model, which `build` returns with its example inputs, on tensors without values.

    Whatever goes wrong is part of the answer, and is not raised.
    """
    layers, couplings, error_text = 0, 0, ""
    missing: tuple[MissingOperator, ...] = ()
    start = time.perf_counter()
    try:
        model, inputs = build()
        bounds = trace_model(model, inputs, flow="bounds").bounds
        assert bounds is not None
        found = couplings_of(bounds)
        layers, couplings = sum(len(coupling.feed_in) for coupling in found), len(found)
    except UnsupportedOperatorError as error:
        missing = error.missing
    except DFPCError as error:
        error_text = str(error)
    except Exception as error:
        error_text = f"{type(error).__name__}: {error}"
    return ModelCheck(name, layers, couplings, missing, error_text, time.perf_counter() - start)
