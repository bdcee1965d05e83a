"""The table of operators: one record each, keyed by function object.

A record describes how bounds, variances, means and channels pass an operator. All analyses read this table. An operator
without a record is an error; nothing falls through to the original function.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from dfpc_plugin.errors import DuplicateRuleError

Rule = TypeVar("Rule", bound=Callable[..., Any])


class Convention(enum.Enum):
    """How a rule's output relates to the largest change of the operator's output."""

    EXACT = "exact"
    """The rule is |M| x for the operator's matrix M, or moves elements unchanged."""
    BOUND = "bound"
    """The operator's output changes by at most what the rule returns."""
    APPROXIMATION = "approximation"
    """The rule is an estimate; no bound exists without data."""


class Means(enum.Enum):
    """How means and variances of data pass an operator."""

    AS_BOUNDS = "as bounds"
    """Variances by the rule for bounds; means become unknown."""
    LINEAR = "linear"
    """Variances by the rule for bounds; means by the operator itself."""
    POINTWISE = "pointwise"
    """Both by integrals of the operator over a normal variable."""
    OWN = "own"
    """Both by the record's `noise`."""


@dataclass(frozen=True)
class Operator:
    """The record of one operator.

    Attributes:
        bound: Maps bounds to bounds. For a `composed` operator: the equivalent function of known operators.
        convention: Whether `bound` is exact, a bound or an approximation.
        channels: The channel rule; takes a `ChannelCall` and the operator's arguments. None: channels that enter are
            protected.
        means: How means and variances pass.
        noise: For `Means.OWN`: takes the arguments by name and the variances from `bound`; returns variances and means.
        compute: For `Means.POINTWISE`: the function to integrate, if it is not the operator itself.
        kind: "pointwise", "combines", "moves", "picks", "joins", "writes", "reduces", "pools", "norm", "products",
            "layer", "composed" or "other".
        context: `bound` takes a `LayerContext` first, to read or write couplings or to tell data from constants.
        couples: Operands are combined element by element, so their channels are pruned together.
        view: The operator returns views of its first argument, which share changes in place.
        additive: Constant tensors only add to the result, so `bound` gets zeros in their place.
        first_only: Only the first argument can be data.
        dtypes: Dtypes of the results where they differ from the data's; None for a result with the data's dtype.
    """

    bound: Callable[..., Any]
    convention: Convention
    channels: Callable[..., Any] | None = None
    means: Means = Means.AS_BOUNDS
    noise: Callable[[Mapping[str, Any], Any], Any] | None = None
    compute: Callable[..., Any] | None = None
    kind: str = "other"
    context: bool = False
    couples: bool = False
    view: bool = False
    additive: bool = False
    first_only: bool = False
    dtypes: tuple[torch.dtype | None, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the rule's docstring: the formula and its assumptions."""
        return (self.bound.__doc__ or "").strip().split("\n", 1)[0]


_BY_NAME: dict[str, Operator] = {}
"""Records of other libraries' operators by dispatcher name, so that the libraries need not be imported."""
_PROCESS: dict[Callable[..., Any], Operator] = {}
_SCOPES: contextvars.ContextVar[tuple[dict[Callable[..., Any], Operator], ...]] = contextvars.ContextVar(
    "dfpc_operators", default=()
)


def register(functions: tuple[Callable[..., Any], ...], record: Operator, *, override: bool = False) -> None:
    """Enter `record` for each of `functions`: in the innermost `rule_scope`, else for the process.

    Raises:
        DuplicateRuleError: One of them has a record, no scope is open, and `override` is not set.
        TypeError: One of them is not callable.
    """
    scopes = _SCOPES.get()
    table = scopes[-1] if scopes else _PROCESS
    for function in functions:
        if not callable(function):
            raise TypeError(f"rule() takes the operators themselves, not {function!r}")
        if not scopes and function in table and not override:
            raise DuplicateRuleError(function_name(function))
    table.update(dict.fromkeys(functions, record))


def register_name(name: str, record: Operator) -> None:
    """Enter `record` for another library's operator, such as "torchvision::roi_align", or raise DuplicateRuleError."""
    if name in _BY_NAME:
        raise DuplicateRuleError(name)
    _BY_NAME[name] = record


@contextlib.contextmanager
def rule_scope() -> Iterator[None]:
    """Limit the rules registered inside the block to the block (and to this thread or task)."""
    token = _SCOPES.set((*_SCOPES.get(), {}))
    try:
        yield
    finally:
        _SCOPES.reset(token)


@contextlib.contextmanager
def process_wide() -> Iterator[None]:
    """Register rules inside the block for the whole process, even inside a `rule_scope`."""
    token = _SCOPES.set(())
    try:
        yield
    finally:
        _SCOPES.reset(token)


def find_operator(function: Callable[..., Any]) -> Operator | None:
    """Return the record in force for an operator, innermost scope first, or None."""
    scopes = _SCOPES.get()
    if scopes:
        for table in reversed(scopes):
            if function in table:
                return table[function]
    found = _PROCESS.get(function)
    if found is None and isinstance(function, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
        packet = function.overloadpacket if isinstance(function, torch._ops.OpOverload) else function
        return _BY_NAME.get(packet._qualified_op_name)
    return found


def registered_rules() -> Mapping[Callable[..., Any], Operator]:
    """Return every record in force, for documentation and tests."""
    merged = dict(_PROCESS)
    for table in _SCOPES.get():
        merged.update(table)
    return merged


_PYTHON_OPERATORS = frozenset("add sub mul truediv div pow matmul neg abs pos and or xor invert".split())


def forms(*names: str) -> tuple[Callable[..., Any], ...]:
    """Return every form of an operator in torch: function, method, functional, in place, `+` and `+=`.

    Reversed operators (`__rsub__`) exchange their operands and are not included.

    Raises:
        AttributeError: torch has none of the names.
    """
    found = present(*names)
    if not found:
        raise AttributeError(f"torch has no function named {' or '.join(names)}")
    return found


def present(*names: str) -> tuple[Callable[..., Any], ...]:
    """Return what `forms` does for the names that the installed torch has; may be empty."""
    found: dict[Callable[..., Any], None] = {}
    for name in names:
        spellings = [name, f"{name}_"]
        if name in _PYTHON_OPERATORS:
            spellings += [f"__{name}__", f"__i{name}__"]
        for spelling in spellings:
            for home in (torch, torch.Tensor, F, torch._C._nn, torch.special):
                function = getattr(home, spelling, None)
                if callable(function):
                    found[function] = None
    return tuple(found)


_ATTRIBUTES = (
    "shape dtype device layout ndim requires_grad is_leaf grad_fn is_cuda is_cpu is_meta is_mps is_xpu is_sparse "
    "is_quantized is_nested is_mkldnn is_vulkan is_ipu is_maia is_mtia is_sparse_csr itemsize nbytes names grad "
    "retains_grad"
).split()
_METHODS = (
    "size dim ndimension numel nelement stride is_floating_point is_complex is_contiguous is_signed is_conj is_neg "
    "is_inference is_same_size element_size get_device storage_offset is_nonzero_size __len__ __hash__ "
    "broadcast_shapes result_type has_names is_tensor is_shared is_pinned dense_dim sparse_dim"
).split()
_VALUE_FUNCTIONS = (
    "item tolist numpy __format__ __bool__ __int__ __float__ __index__ __array__ __complex__ __contains__ nonzero argwhere "
    "equal allclose unique unique_consecutive masked_select is_nonzero multinomial bincount histc"
).split()

METADATA: frozenset[Callable[..., Any]] = frozenset(
    {getattr(torch.Tensor, name).__get__ for name in _ATTRIBUTES if hasattr(torch.Tensor, name)}
    | set(present(*_METHODS))
)
"""Functions answered from shape, dtype and device alone."""

VALUES: frozenset[Callable[..., Any]] = frozenset(present(*_VALUE_FUNCTIONS))
"""Functions that need values. A model that calls them on data cannot run without data."""

CONSTANTS: frozenset[Callable[..., Any]] = frozenset(
    present(
        *"new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like empty_like full_like rand_like randn_like".split()
    )
)
"""Functions that make a constant with the shape, dtype and device of data."""

CASTS: dict[str, torch.dtype] = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "long": torch.int64,
    "int": torch.int32,
    "short": torch.int16,
    "char": torch.int8,
    "byte": torch.uint8,
    "bool": torch.bool,
}
"""Methods named after the dtype that they cast to."""


@functools.lru_cache(maxsize=1024)
def function_name(function: Callable[..., Any]) -> str:
    """Name an operator as users write it: `torch.nn.functional.relu`, `torch.Tensor.add_`."""
    attribute = getattr(function, "__self__", None)  # for Tensor.shape.__get__: the attribute
    if attribute is not None and getattr(attribute, "__objclass__", None) is not None:
        return f"torch.Tensor.{attribute.__name__}"
    name = getattr(function, "__name__", None) or type(function).__name__
    for home, path in ((torch.Tensor, "torch.Tensor"), (torch, "torch"), (F, "torch.nn.functional")):
        if getattr(home, name, None) is function:
            return f"{path}.{name}"
    module = getattr(function, "__module__", None) or ""
    if module.startswith("torch._C._"):  # torch.fft, torch.linalg, torch.special
        namespace = module.removeprefix("torch._C._")
        return f"torch.{namespace}.{name.removeprefix(namespace + '_')}"
    return f"{module}.{name}" if module else name
