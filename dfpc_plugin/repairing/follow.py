"""Intercept every layer's output in a forward: it stays pending until something else uses it, and is then settled.

Operations behind a layer that mix nothing (a batch norm in evaluation mode, a scale, a permutation) form its *tail*. If
the tail ends in a sum with other data, as at the end of a residual branch, the layer can be fitted to the *sum*; it
then also corrects errors of the other summand. All other layers are fitted before their output is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.repairing.batch_norms import norm_arguments
from dfpc_plugin.repairing.calls import LayerCall, layer_call
from dfpc_plugin.tracing.calls import in_place
from dfpc_plugin.tracing.names import ModelNames
from dfpc_plugin.tracing.operator import METADATA, forms
from dfpc_plugin.tracing.tree import map_tensors, tensors

_SUMS = frozenset((*forms("add"), torch.Tensor.__radd__))
_MOVES = frozenset(
    forms(
        *"permute transpose swapaxes movedim reshape view flatten unflatten squeeze unsqueeze contiguous roll".split()
    )
)
_SCALES = frozenset((*forms("mul", "multiply"), torch.Tensor.__rmul__))
_DROPOUTS = frozenset(forms("dropout", "dropout1d", "dropout2d", "dropout3d"))
_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(eq=False)
class Settlement:
    """A layer's output, and what was done with it until it is needed.

    Attributes:
        call: The layer's call.
        output: What it returned.
        tail: The operations applied to it since, each a function of one tensor.
        values: The result of each of these.
        norm_mean: The running mean of the batch norm directly behind the layer, which can take up a constant.
        norm_variance: The running variance of that batch norm.
        other: The tensor that `value` is about to be added to; None if it is not added to one of its shape.
    """

    call: LayerCall
    output: Tensor
    tail: list[Callable[[Tensor], Tensor]] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    norm_mean: Tensor | None = None
    norm_variance: Tensor | None = None
    other: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The output after its tail."""
        return self.values[-1] if self.values else self.output

    def through_tail(self, output: Tensor) -> Tensor:
        """Apply the tail to an output."""
        for step in self.tail:
            output = step(output)
        return output

    def refresh(self) -> None:
        """Recompute the output and its tail, in place."""
        value = self.call.run()
        self.output.copy_(value)
        for step, result in zip(self.tail, self.values, strict=True):
            value = step(value)
            result.copy_(value)


class Follower(TorchFunctionMode):
    """Reports every layer's output before anything else uses it.

    Attributes:
        names: Paths of the model's modules and parameters.
        used_elsewhere: With `watch`, the outputs that go into a batch norm and into something else.
    """

    def __init__(self, model: nn.Module, settle: Callable[[Settlement], None], *, watch: bool = False) -> None:
        """Follow forwards of `model`; `settle` is called with each output, in the order in which they are needed.

        With `watch`, outputs that go into a batch norm are held to the end, to see what else uses them.
        """
        super().__init__()
        self.names = ModelNames(model)
        self.used_elsewhere: list[Settlement] = []
        self._settle, self._watch = settle, watch
        self._waiting: dict[int, Settlement] = {}
        self._normed: dict[int, Settlement] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, after settling the pending outputs that it uses."""
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return split_attention(self._linear, self._attend, args, kwargs)
        call = layer_call(func, args, kwargs, self.names)
        operands = tensors((args, kwargs))
        self.used_elsewhere += [self._normed[id(tensor)] for tensor in operands if id(tensor) in self._normed]
        waiting = self._pending(operands)  # settled before anything is overwritten
        if self._waiting and in_place(func, args, kwargs):
            self.settle([other for other in self._with_input_in(operands[0]) if other not in waiting])
        if call is None and len(waiting) == 1 and _is_tail(func, args, kwargs, waiting[0].value):
            return self._extend(waiting[0], func, args, kwargs)
        if call is None and waiting and _is_sum(func, args, kwargs):
            self._settle_sum(args, waiting)
        else:
            self.settle(waiting)
        result = func(*args, **kwargs)
        if call is not None:
            self._waiting[id(result)] = Settlement(call, result)
        return result

    def settle(self, waiting: Iterable[Settlement] | None = None) -> None:
        """Settle outputs; by default all pending ones."""
        for settlement in self._pending() if waiting is None else waiting:
            for tensor in (settlement.output, *settlement.values):
                self._waiting.pop(id(tensor), None)
            self._settle(settlement)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.__torch_function__(F.linear, (), (input, weight, bias))

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        """Settle the projections, then compute the attention between them."""
        self.settle(self._pending(tensors((args, kwargs))))
        return F.multi_head_attention_forward(*args, **kwargs)

    def _pending(self, operands: Iterable[Tensor] | None = None) -> list[Settlement]:
        """Pending outputs among some tensors, or all."""
        waiting = self._waiting
        found = waiting.values() if operands is None else (waiting.get(id(tensor)) for tensor in operands)
        return list({id(settlement): settlement for settlement in found if settlement is not None}.values())

    def _with_input_in(self, target: Tensor) -> list[Settlement]:
        """Pending outputs of layers whose inputs are about to be overwritten."""
        storage = target.untyped_storage().data_ptr()
        return [s for s in self._pending() if s.call.input.untyped_storage().data_ptr() == storage]

    def _extend(self, settlement: Settlement, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Tensor:
        before = settlement.value

        def step(tensor: Tensor) -> Tensor:
            given, named = map_tensors(lambda t: tensor if t is before else t, (args, kwargs))
            return func(*given, **named)

        result = func(*args, **kwargs)
        if func is F.batch_norm and not settlement.tail:
            given = norm_arguments(args, kwargs)
            settlement.norm_mean, settlement.norm_variance = given["running_mean"], given["running_var"]
            if self._watch:
                self._normed[id(before)] = settlement
        if result is not before:
            settlement.tail.append(step)
            settlement.values.append(result)
            self._waiting[id(result)] = settlement
        return result

    def _settle_sum(self, summands: tuple, waiting: list[Settlement]) -> None:
        """Fit one pending summand last, so that it compensates for their error."""
        own = [s for s in waiting if sum(any(t is x for t in (s.output, *s.values)) for x in summands) == 1]
        last = next((s for s in own if any(s.value is summand for summand in summands)), None)
        self.settle([settlement for settlement in waiting if settlement is not last])
        if last is not None:
            last.other = summands[1] if last.value is summands[0] else summands[0]
            self.settle([last])


def _is_sum(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    return (
        func in _SUMS
        and not kwargs
        and len(args) == 2
        and all(isinstance(arg, Tensor) for arg in args)
        and args[0].shape == args[1].shape
    )


def _is_tail(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], value: Tensor) -> bool:
    """Whether `func` only scales or moves the entries of its first argument."""
    if not args or args[0] is not value or in_place(func, args, kwargs):
        return False
    if func in _MOVES:
        return True
    if func is F.batch_norm:
        return not norm_arguments(args, kwargs)["training"]
    if func in _DROPOUTS:
        training = args[2] if len(args) > 2 else kwargs.get("training", True)
        return not training
    return func in _SCALES and len(args) == 2 and not kwargs and _is_scale(args[1], value.shape)


def _is_scale(factor: Any, shape: torch.Size) -> bool:
    """Whether a factor is a number, or has one number per channel of a tensor of that shape."""
    if not isinstance(factor, Tensor):
        return isinstance(factor, int | float)
    return sum(size > 1 for size in factor.shape) <= 1 and torch.broadcast_shapes(factor.shape, shape) == shape


def split_attention(linear: Linear, attend: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Compute `F.multi_head_attention_forward(*args, **kwargs)`, calling `linear` for its four projections.

    `attend`, which is that function or calls it, computes the rest (heads, masks, added keys) with identity
    projections.
    """
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["use_separate_proj_weight"]:
        weights = [given[f"{part}_proj_weight"] for part in "qkv"]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    biases = [None] * 3 if given["in_proj_bias"] is None else list(given["in_proj_bias"].chunk(3))
    inputs = [given["query"], given["key"], given["value"]]
    projected = [linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    nothing = torch.eye(given["embed_dim_to_check"], dtype=projected[0].dtype, device=projected[0].device)
    out_weight, out_bias = given["out_proj_weight"], given["out_proj_bias"]
    given.update(zip(("query", "key", "value"), projected, strict=True))
    given.update(in_proj_weight=None, in_proj_bias=None, use_separate_proj_weight=True, out_proj_bias=None)
    given.update(dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj_weight"), nothing))
    mixed, attention = attend(*bound.args, **bound.kwargs)
    return linear(mixed, out_weight, out_bias), attention
