"""Functions that a tensor's shape, dtype and device answer, and functions that need its values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


def _present(names: Iterable[str]) -> set[Callable[..., Any]]:
    """Collect the functions and methods of these names in the installed torch."""
    homes = (torch, torch.Tensor)
    return {getattr(home, name) for name in names for home in homes if callable(getattr(home, name, None))}


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
    {getattr(torch.Tensor, name).__get__ for name in _ATTRIBUTES if hasattr(torch.Tensor, name)} | _present(_METHODS)
)
"""Functions answered from shape, dtype and device alone."""

VALUES: frozenset[Callable[..., Any]] = frozenset(_present(_VALUE_FUNCTIONS))
"""Functions that need values. A model that calls them on data cannot run without data."""

CONSTANTS: frozenset[Callable[..., Any]] = frozenset(
    _present(
        "new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like empty_like full_like rand_like randn_like".split()
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
