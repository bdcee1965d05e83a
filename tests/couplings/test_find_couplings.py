"""Finding couplings: errors, and a model that is as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from dfpc_plugin.couplings import DataFlowCoupling, find_couplings, map_couplings
from dfpc_plugin.errors import ExampleInputsError, UnsupportedOperatorError, ValueDependentError
from residual_net import IMAGE, Network, network, places

# Errors.


class Odd(nn.Module):
    """Calls a function that nothing is known about."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(3, 4), nn.Module()
        self.inner.forward = lambda x: x
        self.part = Part(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.first(x))


class Part(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.last = function, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x))


def test_an_unknown_operator_is_named_with_the_module_that_calls_it() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"torch.(special\.|)i0e?.*called by part") as caught:
        find_couplings(Odd(torch.special.i0e), torch.rand(2, 3))
    assert [entry.modules for entry in caught.value.missing] == [("part",)]


def test_all_unknown_operators_are_named_at_once() -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        find_couplings(Odd(lambda x: torch.special.i1e(torch.special.i0e(x))), torch.rand(2, 3))
    assert len(caught.value.missing) == 2


@pytest.mark.parametrize(
    "function", [lambda x: x if x.sum() > 0 else -x, lambda x: x * x.max().item(), lambda x: x[x > 0][:4]]
)
def test_a_forward_that_needs_values(function: Any) -> None:
    with pytest.raises(ValueDependentError, match="'part'"):
        find_couplings(Odd(function), torch.rand(2, 3))


@pytest.mark.parametrize("inputs", [(), [], {}, "image", 3, None, (None,)])
def test_inputs_that_are_none(inputs: Any) -> None:
    with pytest.raises(ExampleInputsError):
        find_couplings(network(), inputs)


def test_the_models_own_errors_are_its_own() -> None:
    def fail(x: Tensor) -> Tensor:
        raise LookupError("of the model")

    with pytest.raises(LookupError, match="of the model"):
        find_couplings(Odd(fail), torch.rand(2, 3))


# Nothing of the model changes.


def everything(model: nn.Module) -> list[Any]:
    """Objects, values, attributes and hooks of every module."""
    found: list[Any] = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            kept = dict(value) if isinstance(value, dict) else value
            plain = isinstance(value, int | float | str | tuple | list)
            found.append((path, name, type(value), repr(value) if plain else id(value)))
            if isinstance(kept, dict):
                found += [(path, name, key, id(entry)) for key, entry in kept.items()]
    tensors = [*model.parameters(), *model.buffers()]
    found += [(id(t), t.data_ptr(), t._version, t.requires_grad, type(t)) for t in tensors]
    return found


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before = everything(model)
    values = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    yield
    assert everything(model) == before
    for kept, tensor in zip(values, (*model.parameters(), *model.buffers()), strict=True):
        assert torch.equal(kept, tensor)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_model_is_as_it_was(name: str) -> None:
    model = timm.create_model(name)
    for training in (True, False):
        model.train(training)
        with unchanged(model):
            assert find_couplings(model, torch.rand(1, 3, 96, 96))


def test_a_model_is_as_it_was_after_an_error() -> None:
    def fail(x: Tensor) -> Tensor:
        raise LookupError

    for function in (fail, torch.special.i0e, lambda x: x * x.sum().item()):
        model = Odd(function).train()
        model.first.eval()
        with unchanged(model), pytest.raises(Exception):  # noqa: B017
            find_couplings(model, torch.rand(2, 3))
        assert model.training and not model.first.training


def as_text(couplings: list[DataFlowCoupling]) -> list[str]:
    return [str(c) + str([(p.tensor, p.dim, p.indices.tolist()) for p in c.slices]) for c in couplings]


def test_grad_modes_devices_and_training_do_not_matter() -> None:
    model = network()
    expected = as_text(find_couplings(model, IMAGE))
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert as_text(find_couplings(model, IMAGE)) == expected
    assert as_text(find_couplings(model.train(), IMAGE)) == expected
    assert all(module.training for module in model.modules())
    with torch.device("meta"):
        on_meta = Network()
    assert as_text(find_couplings(on_meta, IMAGE.to("meta"))) == expected
    assert as_text(find_couplings(model.double(), IMAGE.double())) == expected
    assert as_text(find_couplings(model.requires_grad_(False), IMAGE.double())) == expected


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = network().requires_grad_(False)
    assert as_text(find_couplings(model, IMAGE)) == as_text(find_couplings(network(), IMAGE))


def test_example_values_and_batches_do_not_matter() -> None:
    expected = as_text(find_couplings(network(), IMAGE))
    for inputs in (torch.zeros(2, 3, 8, 8), torch.full((1, 3, 8, 8), float("nan")), (IMAGE,), {"x": IMAGE}):
        assert as_text(find_couplings(network(), inputs)) == expected


def test_a_function_of_ones_own_calls_the_model() -> None:
    model = network()
    expected = as_text(find_couplings(model, IMAGE))
    assert as_text(find_couplings(model, {"image": IMAGE}, lambda m, inputs: m(inputs["image"]))) == expected
    features = find_couplings(model, IMAGE, lambda m, x: m.blocks(m.stem(x)))
    (stream,) = [c for c in features if ("stem.weight", 0, "feed-in") in places(c)]
    assert stream.protected == "is the model's output"


def test_shared_parameters_have_one_set_of_channels() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.stem = nn.Linear(3, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.second(self.first(self.stem(x))))

    couplings = find_couplings(Shared().eval(), torch.rand(2, 3))
    free = [c for c in couplings if c.protected is None]
    assert len(free) == 1 and free[0].channels == 4
    assert ("first.weight", 0) in {(p.tensor, p.dim) for p in free[0].slices}
    assert ("second.weight", 0) not in {(p.tensor, p.dim) for p in free[0].slices}, "the same tensor"


def test_couplings_are_in_the_order_of_the_model_and_the_same_every_time() -> None:
    model = timm.create_model("test_resnet").eval()
    first, second = (find_couplings(model, torch.rand(1, 3, 96, 96)) for _ in range(2))
    assert as_text(first) == as_text(second)
    starts = [int(c.blocks.min()) for c in first]
    assert starts == sorted(starts)
    assert first[0].name.startswith("conv1")


def test_the_map_has_the_same_couplings() -> None:
    assert as_text(map_couplings(network(), IMAGE).couplings) == as_text(find_couplings(network(), IMAGE))


def test_a_layer_that_is_not_called_is_in_no_free_coupling() -> None:
    model = network()
    model.unused = nn.Linear(6, 6)
    couplings = find_couplings(model, IMAGE)
    free = {p.tensor for c in couplings if c.protected is None for p in c.slices}
    assert not any(tensor.startswith("unused") for tensor in free)


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_couplings(network(), IMAGE)


class OwnKernels(nn.Module):
    """Convolves with weights that it computes from parameters outside of layers, one of them depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(6, 2)
        self.plain, self.scale = nn.Parameter(torch.rand(6, 8, 3, 5)), nn.Parameter(torch.rand(6, 1, 1, 1))
        self.depthwise = nn.Parameter(torch.rand(6, 1, 3, 3))
        self.normalised = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(self.first(x).relu(), self.plain * self.scale).relu()
        x = nn.functional.conv2d(x, self.depthwise * 2, groups=x.size(1))
        return self.last(self.normalised(x).mean((2, 3)))


def test_positions_of_a_kernel_are_no_coupling() -> None:
    couplings = find_couplings(OwnKernels(), torch.rand(1, 3, 16, 16))
    assert [c.width for c in couplings if c.protected is None] == [6, 8, 6]
    assert [c.width for c in couplings if c.protected is not None] == [3, 2]
