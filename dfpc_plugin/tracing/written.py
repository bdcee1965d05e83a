"""Ordinary tensors that a forward writes data into, such as `torch.zeros(2, 8)`.

They cannot hold what an analysis knows. So at the first write their memory gets a proxy, and every tensor in that memory
(earlier views included) counts as a view of it. The memory is not changed, and the forward keeps its ordinary tensors.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.preserve import has_storage, memory_address
from dfpc_plugin.tracing.proxy import Proxy, Tracer


class WrittenTensors:
    """Proxies of memory that data was written into."""

    def __init__(self, run: Tracer) -> None:
        """Start without any."""
        self._run = run
        self._memory: dict[int, tuple[Tensor, Proxy]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._memory)

    def add(self, tensor: Tensor) -> bool:
        """Give the memory of `tensor` a proxy; returns False if its memory is not accessible."""
        if not has_storage(tensor):
            return False
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        flat = tensor.detach().as_strided((count,), (1,), 0)
        proxy = Proxy(flat.shape, self._run, tensor.dtype, tensor.device, value=lambda: flat)
        self._memory[memory_address(tensor)] = flat, proxy
        return True

    def known(self, tensor: Tensor) -> Tensor:
        """Return a view of the proxy of the tensor's memory, or the tensor itself."""
        with torch._C.DisableTorchFunction():  # these are no operations of the forward
            return self._known(tensor)

    def _known(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, Proxy) or not has_storage(tensor):
            return tensor
        flat, proxy = self._memory.get(memory_address(tensor), (tensor, None))
        if proxy is None:
            return tensor
        if flat.element_size() != tensor.element_size():
            raise DFPCError(
                f"The forward reads a tensor of {tensor.dtype} from where it has written data of {flat.dtype}, which a pass "
                f"without data cannot do; convert the data with .to(...), or pass a forward_fn that leaves this part out."
            )
        layout = tensor.size(), tensor.stride(), int(tensor.storage_offset())
        value = None if proxy.holds_data else lambda: tensor
        view = Proxy(tensor.shape, self._run, tensor.dtype, tensor.device, value=value)
        view.set_view(proxy, functools.partial(_laid_out, layout), looked_at=False)
        return view


def _laid_out(layout: tuple[torch.Size, tuple[int, ...], int], memory: Tensor) -> Tensor:
    """Take a tensor from anything laid out like its memory."""
    return memory.contiguous().as_strided(*layout)
