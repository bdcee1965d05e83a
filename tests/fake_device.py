"""A device that is not there, whose tensors are held on the CPU: a tensor on the wrong device is an error, as it is with a GPU.

For a process of its own, as torch has one such device for all of it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend(rename="pretended")
DEVICE = torch.device("pretended:0")
torch.accelerator.synchronize = lambda device=None: None  # what is computed here is done at once
_DATA = torch._C.TensorBase.data


class OnDevice(torch.Tensor):
    """A tensor that says it is on `DEVICE`; its values are in `held`, on the CPU."""

    @staticmethod
    def __new__(cls, held):
        result = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, layout=held.layout,
            device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip
        result.held = held
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    @property
    def data(self):
        return OnDevice(self.held.data)

    @data.setter
    def data(self, value):
        assert isinstance(value, OnDevice), f"{value.device} takes the place of {DEVICE}"
        _DATA.__set__(self, value)
        self.held = value.held

    def tolist(self):
        return self.held.tolist()

    def numpy(self, **options):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            own = OnDevice(self.held.detach().clone())
            memo[id(self)] = nn.Parameter(own, self.requires_grad) if isinstance(self, nn.Parameter) else own
        return memo[id(self)]

    def __repr__(self):
        return f"OnDevice({self.held!r})"


MOVES = {torch.ops.aten._to_copy.default}
INDEXED = {
    torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default,
    torch.ops.aten._index_put_impl_.default,
}  # fmt: skip
"""Operators that take indices on the CPU, with a GPU too."""


def computed(func, args, kwargs):
    """Compute on the CPU what a device would compute, and refuse what it would refuse."""
    found = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    here = [value for value in found if isinstance(value, OnDevice)]
    others = [value for value in found if not isinstance(value, OnDevice) and value.dim()]
    if func is torch.ops.aten.copy_.default:
        target, source = (value.held if isinstance(value, OnDevice) else value for value in args[:2])
        target.copy_(source)
        return args[0]
    if others and func not in MOVES and not (func in INDEXED and isinstance(args[0], OnDevice)):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {DEVICE} and {others[0].device}")
    to = kwargs.get("device")
    stays = to is None or torch.device(to).type == DEVICE.type
    kwargs = kwargs | ({} if to is None else {"device": "cpu"})
    wrapped = {id(value.held): value for value in here}
    args, kwargs = tree_map_only(OnDevice, lambda value: value.held, (args, kwargs))
    result = func(*args, **kwargs)
    if not stays:
        return result
    return tree_map_only(
        torch.Tensor, lambda value: wrapped[id(value)] if id(value) in wrapped else OnDevice(value), result
    )


def _registered():
    """Let factories make tensors on `DEVICE`, in every thread."""
    library = torch.library.Library("aten", "IMPL")
    factories = (
        "empty.memory_format empty_strided arange arange.start arange.start_step eye eye.m randperm randperm.generator full "
        "linspace"
    ).split()
    for name in factories:
        packet, _, overload = name.partition(".")
        function = getattr(getattr(torch.ops.aten, packet), overload or "default")

        def make(*args, _function=function, **kwargs):
            return OnDevice(_function(*args, **(kwargs | {"device": "cpu", "pin_memory": None})))

        library.impl(name, make, "PrivateUse1")

    def copy_from(source, target, non_blocking=False):
        mine, other = (value.held if isinstance(value, OnDevice) else value for value in (target, source))
        mine.copy_(other)
        return target

    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library


LIBRARY = _registered()


def moved(model):
    """Put a model on `DEVICE`, in place."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnDevice(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer.detach())
    return model


def held(model):
    """The values of a model's parameters and buffers, all of which are on `DEVICE`."""
    found = model.state_dict()
    assert all(isinstance(tensor, OnDevice) for tensor in found.values()), [
        name for name, tensor in found.items() if not isinstance(tensor, OnDevice)
    ]
    return {name: tensor.held for name, tensor in found.items()}
