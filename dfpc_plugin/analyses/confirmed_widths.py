"""Widths that a model states in attributes, but that its forward need not use.

Models of timm and similar ones state the width of their features in `num_features`, `head_hidden_size`, `embed_dim` and
`feature_info`; `reset_classifier` and feature extractors rely on them. Where a pass sees a tensor of the stated width, the
statement is noted with that axis, so that the attribute can be updated after pruning. A statement that no tensor confirms is
not noted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dfpc_plugin.analyses.channels import ChannelTrace
from dfpc_plugin.analyses.forward import follow
from dfpc_plugin.analyses.width_attributes import INFO, Place, StatedWidth, statements_of
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.tracing.proxy import Proxy
from dfpc_plugin.tracing.sizes import Expression, TracedInt, expression_of
from dfpc_plugin.tracing.tree import returned_tensors


class Statements:
    """The widths that a model's modules state; those that the pass confirms are noted."""

    def __init__(self, notes: ChannelTrace) -> None:
        """Read the attributes, which are still plain numbers; confirmed ones are noted in `notes.stated`."""
        self._notes = notes
        self._open = [
            statement for path in notes.names.modules for statement in statements_of(notes.names.modules, path)
        ]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for plain numbers that the forward makes from widths, and for its features, whose widths are compared at exit."""
        run = self._notes.run
        seen: dict[tuple[str, str], list[torch.Size]] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._notes.casts.watched(run.names.caller, lambda: run.busy))
            for path, what in dict.fromkeys(place[:2] for statement in self._open for place in statement.places):
                module = self._notes.names.modules[path]
                if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                    stack.callback(_WATCHES[what](module, _keeper(seen, (path, what))))
            yield
        self._compare(seen)

    def look_aside(self, model: nn.Module, example_inputs: ExampleInputs) -> None:
        """Get the features in `feature_info` that no module has returned from `forward_intermediates`."""
        place = Place("", "intermediates")
        entries = [statement for statement in self._open if (statement.module, statement.name) == ("", INFO)]
        if not entries or not callable(getattr(type(model), "forward_intermediates", None)):
            return
        self._open = [dataclasses.replace(each, places=(place._replace(number=each.entry),)) for each in entries]
        seen: dict[tuple[str, str], list[torch.Size]] = {}
        try:
            with self._notes.aside():
                _keeper(seen, place[:2])(follow(self._notes.run, model, example_inputs, _intermediates))
        except Exception:  # no such features for these inputs: the statements stay unconfirmed
            return
        self._compare(seen)

    def _compare(self, seen: Mapping[tuple[str, str], list[torch.Size]]) -> None:
        found = [dataclasses.replace(each, expression=_expression_of(each, seen)) for each in self._open]
        self._open = [each for each in found if each.expression is None]
        self._notes.stated += [each for each in found if each.expression is not None]


def _intermediates(model: Any, inputs: ExampleInputs) -> Any:
    args, kwargs = as_call(inputs)
    return model.forward_intermediates(*args, **kwargs, intermediates_only=True)


def _keeper(seen: dict[tuple[str, str], list[torch.Size]], key: tuple[str, str]) -> Callable[[Any], None]:
    """Return a function that keeps the sizes of tensors seen at one place; the last call counts."""

    def keep(tree: Any) -> None:
        seen[key] = [tensor.sizes() for tensor in returned_tensors(tree) if isinstance(tensor, Proxy)]

    return keep


def _watch_inputs(module: nn.Module, keep: Callable[[Any], None]) -> Callable[[], None]:
    return module.register_forward_pre_hook(lambda _, args, kwargs: keep((args, kwargs)), with_kwargs=True).remove


def _watch_outputs(module: nn.Module, keep: Callable[[Any], None]) -> Callable[[], None]:
    return module.register_forward_hook(lambda _, args, output: keep(output)).remove


def _watch_features(module: nn.Module, keep: Callable[[Any], None]) -> Callable[[], None]:
    """Replace the method, which has no hooks, while it is watched."""
    attributes: dict[str, Any] = vars(module)
    own: Any = attributes.get("forward_features")
    original: Any = module.forward_features

    def forward_features(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        keep(output)
        return output

    def undo() -> None:
        del attributes["forward_features"]
        attributes.update({} if own is None else {"forward_features": own})

    attributes["forward_features"] = forward_features
    return undo


_WATCHES = {"in": _watch_inputs, "out": _watch_outputs, "features": _watch_features}


def _expression_of(statement: StatedWidth, seen: Mapping[tuple[str, str], list[torch.Size]]) -> Expression | None:
    """The width of a tensor that confirms a statement, in terms of labels, or None."""
    for place in statement.places:
        shapes = seen.get(place[:2], [])
        if place.number is not None:
            shapes = shapes[place.number :][:1]
        for width in _widths(shapes):
            if width == statement.value:
                return expression_of(width)
    return None


def _widths(shapes: Sequence[torch.Size]) -> Iterator[TracedInt]:
    """Sizes of the axes that hold channels: of each tensor, then of all together."""
    for shape in shapes:
        yield from (size for size in reversed(shape) if isinstance(size, TracedInt))
    for axis in (-1, 1) if len(shapes) > 1 else ():
        total = sum(shape[axis] for shape in shapes if len(shape) > 1)
        yield from (total,) if isinstance(total, TracedInt) else ()
