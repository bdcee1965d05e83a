"""Runs without a model, for tests of single operators."""

from torch import nn

from dfpc_plugin.analyses.bounds import Bounds, bound_dtype
from dfpc_plugin.trace import trace_model
from dfpc_plugin.tracing.traced_run import TracedRun


def bound_run(model=None, *, expected=False):
    """A run that carries bounds, or variances."""
    model = nn.Linear(1, 1) if model is None else model
    run = TracedRun(model)
    run.dtype = bound_dtype(model)
    run.bounds = Bounds(run, "variances" if expected else "bounds")
    return run


def traced_bounds(model, inputs, forward_fn=None, *, expected=False):
    """What flows through a model."""
    return trace_model(model, inputs, forward_fn, flow="variances" if expected else "bounds").bounds


def traced_channels(model, inputs, forward_fn=None):
    """What a model demands of channels."""
    return trace_model(model, inputs, forward_fn, channels=True).channels
