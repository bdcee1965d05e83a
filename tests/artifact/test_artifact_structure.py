"""What was pruned or changed by hand comes back in a freshly built model, and what cannot is refused by name."""

from __future__ import annotations

import copy
import functools
import weakref

import pytest
import torch
from artifact_nets import IMAGE, TOKENS, Attentive, Odd, Positioned, Recurrent, Tied, convolutional, weight_normed
from artifact_tools import assert_same_model, round_trip, ties
from torch import nn

import cut_nets
from dfpc_plugin.artifact import ArtifactError, UnsavableModelError, restructure, save_pruned, structure_of, tensors_of
from dfpc_plugin.artifact.deep_equal import DeepEqual, same_bits
from dfpc_plugin.artifact.plain import NotPlainError, decode, encode
from dfpc_plugin.artifact.records import registered
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.surgery import cut
from zero_cut import random_units, removed_channels


def cut_some(model, inputs):
    couplings = map_couplings(model, inputs)
    units = random_units(couplings, 0.4, least=1)
    assert units
    cut(model, couplings, removed_channels(couplings, units))
    return model


def tied_embedding():
    return cut_nets.Tied()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (convolutional, IMAGE),
        (Recurrent, TOKENS),
        (Attentive, TOKENS),
        (tied_embedding, torch.tensor([[0, 3, 1]])),
        (weight_normed, IMAGE),
        (Positioned, IMAGE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_cut_models_come_back(build, inputs):
    model = build().eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    cut_some(model, inputs)
    loaded = round_trip(model, build(), build()).eval()
    assert sum(parameter.numel() for parameter in loaded.parameters()) < before
    assert_same_model(model, loaded)
    with torch.no_grad():
        assert torch.equal(model(inputs), loaded(inputs))


def odd():
    """A model in which everything is otherwise than it was built."""
    model = Odd().eval()
    model.width, model.scale, model.limit, model.label, model.flag = 6, -0.0, float("nan"), "ü", False
    model.sizes, model.nested = [6], ((1, (6, (7, None))), [float("-inf"), "b"])
    model.size, model.table, model.number_type = torch.Size([6]), {"b": None}, torch.float16
    model.cache = torch.tensor([[1.0, float("nan")]])
    model.kept = [torch.zeros(3, dtype=torch.bool), model.conv.weight, model.cache]
    model.conv.bias = nn.Parameter(torch.rand(8), requires_grad=False)
    model.head.bias = None
    model.norm.weight.requires_grad_(False)
    model.unsaved = torch.rand(3, dtype=torch.float64)
    model.later = torch.arange(3)
    return model


def test_everything_that_was_changed_comes_back():
    model = odd()
    loaded = round_trip(model, Odd(), Odd())
    assert_same_model(model, loaded)
    assert type(loaded.size) is torch.Size and type(loaded.nested[1]) is list and type(loaded.nested[0][1]) is tuple
    assert str(loaded.scale) == "-0.0" and loaded.table == {"b": None} and loaded.number_type is torch.float16
    assert loaded.kept[1] is loaded.conv.weight and loaded.references[0] is loaded.head.weight
    assert loaded.head.bias is None and "unsaved" not in loaded.state_dict() and "later" in loaded.state_dict()


def test_the_model_and_the_fresh_one_stay_as_they_are():
    model, fresh = odd(), Odd()
    tensors = {name: entry[1] for name, entry in registered(model).items()}
    versions = {name: tensor._version for name, tensor in tensors.items() if tensor is not None}
    state = copy.deepcopy(fresh.state_dict())
    tensors_of(model, structure_of(model, fresh))
    assert all(registered(model)[name][1] is tensor for name, tensor in tensors.items())
    assert all(tensors[name]._version == version for name, version in versions.items())
    assert all(same_bits(tensor, state[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_come_back(dtype):
    model = convolutional().to(dtype)
    loaded = round_trip(model, convolutional(), convolutional())
    assert loaded[0].weight.dtype == dtype
    assert_same_model(model, loaded)


def test_ties_come_back_however_they_were():
    tied, untied, otherwise = Tied(), Tied(), Tied()
    untied.second.weight = nn.Parameter(torch.rand(6, 6))
    untied.second.mask = torch.zeros(6)
    otherwise.second.weight = otherwise.third.weight
    found = set()
    for model in (tied, untied, otherwise):
        loaded = round_trip(model, Tied(), Tied())
        assert_same_model(model, loaded)
        assert loaded.again is loaded.third
        found.add(frozenset(ties(loaded)))
    assert len(found) == 3


def test_a_parameter_may_have_become_a_buffer():
    model = convolutional()
    bias = model[0].bias.detach()
    del model[0].bias
    model[0].register_buffer("bias", bias)
    loaded = round_trip(model, convolutional(), convolutional())
    assert_same_model(model, loaded)
    assert not isinstance(loaded[0].bias, nn.Parameter)


class Opaque:
    def __init__(self, width):
        self.width = width


def replaced_layer(model):
    model.head = nn.Sequential(model.head)


def other_class(model):
    model.head = nn.Bilinear(8, 8, 4)


def other_order(model):
    model._modules["conv"] = model._modules.pop("conv")


def hidden_layer(model):
    model.kept = [nn.Linear(2, 2)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (replaced_layer, "The model has Sequential at 'head', where a freshly built one has Linear"),
        (other_class, "The model has Bilinear at 'head'"),
        (other_order, "modules in another order"),
        (lambda m: setattr(m, "extra", nn.Identity()), "has Identity at 'extra', where a freshly built one has nothing"),
        (lambda m: delattr(m, "norm"), "has nothing at 'norm', where a freshly built one has BatchNorm2d"),
        (lambda m: setattr(m, "second", m.conv), "the same as 'conv'"),
        (lambda m: m.norm.register_forward_hook(print), "'norm' has a forward hook"),
        (lambda m: m.register_forward_pre_hook(print), "'Odd' has a forward hook"),
        (lambda m: setattr(m, "new", 3), "'new' is an attribute of the model and unknown to a freshly built one"),
        (lambda m: delattr(m, "width"), "'width' is an attribute of a freshly built one and unknown to the model"),
        (lambda m: m.register_buffer("other", torch.ones(2)), "'other' is a parameter or buffer of the model and unknown"),
        (lambda m: setattr(m, "width", 2.5), "'width' is 2.5, of type float, where a freshly built model has one of type int"),
        (lambda m: setattr(m, "width", Opaque(2)), "a test_artifact_structure.Opaque is no plain value"),
        (lambda m: setattr(m, "activation", lambda x: x), "'activation' is not as in a freshly built model"),
        (hidden_layer, "'kept' is not as in a freshly built model and cannot be saved"),
        (lambda m: m.to("meta"), "'mask' is on the meta device"),
        (lambda m: setattr(m, "mask", torch.ones(2).to_sparse()), "only ordinary tensors are saved"),
        (lambda m: setattr(m, "table", {(1, "a"): {3}}), "builtins.set is no plain value"),
        (lambda m: setattr(m, "conv", torch.jit.script(m.conv)), "at 'conv'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_what_cannot_be_saved_is_refused_by_name(change, text):
    model = Odd(8)
    change(model)
    with pytest.raises(UnsavableModelError) as caught:
        structure_of(model, Odd(8))
    assert text in str(caught.value)


def test_a_closure_over_another_number_is_not_alike():
    with pytest.raises(UnsavableModelError, match=r"'activation' is not as in a freshly built model.*function"):
        structure_of(Odd(8), Odd(6))


@pytest.mark.parametrize(
    ("mine", "other", "same"),
    [
        (Opaque(3), Opaque(3), True),
        (Opaque(3), Opaque(4), False),
        (functools.partial(max, 3, key=abs), functools.partial(max, 3, key=abs), True),
        (functools.partial(max, 3), functools.partial(max, 4), False),
        ([Opaque([1])], [Opaque([2])], False),
        (1, True, False),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (torch.device("cpu"), torch.device("meta"), True),
        (Opaque(3).__init__, Opaque(4).__init__, False),
        ({1, 2}, {2, 1}, True),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), False),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
    ],
)
def test_values_are_alike_by_what_they_hold(mine, other, same):
    assert DeepEqual(nn.Identity(), nn.Identity())(mine, other) is same


def test_cycles_and_references_are_followed_once():
    first, second, third = Opaque(1), Opaque(1), Opaque(2)
    for each in (first, second, third):
        each.own, each.reference = [each], weakref.ref(each)
    alike = DeepEqual(nn.Identity(), nn.Identity())
    assert alike(first, second) and not alike(first, third)


@pytest.mark.parametrize(
    "form",
    [[], {}, {"float": 1}, {"float": "1"}, {"int": 3}, {"tuple": 3}, {"size": [True]}, {"dict": [[1]]}, {"a": 1, "b": 2}, 0.5,
     {"dict": [[1, 2], [1, 3]]}, {"dict": [[{"list": []}, 1]]}, {"dict": [[{"tuple": [{"list": []}]}, 1]]}, {"dtype": "save"},
     {"dict": [[{"tensor": "a"}, 1]]}],
)  # fmt: skip
def test_forms_of_nothing_are_refused(form):
    with pytest.raises(NotPlainError):
        decode(form, lambda name: torch.ones(1))


def test_numbers_keep_their_types():
    value = (1, 1.0, True, None, [float("inf")], {"a": torch.Size([2])}, torch.bfloat16)
    found = decode(encode(value, lambda t: None), lambda t: None)
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("head.weight"), "there is no tensor 'head.weight'"),
        (lambda t: t.update(other=torch.ones(1)), "'other' is not in the list"),
        (
            lambda t: t.update({"head.weight": torch.ones(1)}),
            "'head.weight' is (1,) of torch.float32, and is listed as (4, 8)",
        ),
    ],
)
def test_tensors_that_do_not_fit_leave_the_fresh_model_as_it_is(change, text):
    model, fresh = odd(), Odd()
    structure = structure_of(model, fresh)
    tensors = tensors_of(model, structure)
    change(tensors)
    state = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ArtifactError) as caught:
        restructure(fresh, structure, tensors)
    assert text in str(caught.value)
    assert fresh.width == 8 and all(same_bits(tensor, state[name]) for name, tensor in fresh.state_dict().items())


def test_another_model_is_refused_by_the_first_name_that_differs():
    model = Tied()
    structure = structure_of(model, Tied())
    with pytest.raises(ArtifactError, match=r"lists 'first.bias', which a freshly built model has no place for"):
        restructure(convolutional(), structure, tensors_of(model, structure))


def test_hooks_that_a_library_installs_by_itself_are_no_part_of_a_model():
    """They are registered again at the first call of the model that is loaded."""
    model = convolutional().eval()

    def capture(module, args, output):
        return output

    capture.__module__ = "transformers.utils.output_capturing"
    model.register_forward_hook(capture)
    assert_same_model(model, round_trip(model, convolutional(), convolutional()).eval())


def test_attributes_that_a_detector_fills_at_its_first_call_are_no_part_of_it():
    class Detect(Tied):
        __module__, __qualname__ = "ultralytics.nn.modules.head", "Detect"

    model = Detect()
    model.anchors, model.shape = torch.zeros(2, 3), (1, 3)
    assert structure_of(model, Detect()).attributes == ()


class Declaring(nn.Module):
    """Declares in its class what a forward or a user replaces on the instance."""

    grid = torch.empty(0)
    size: tuple[int, ...] | None = None
    scale = 1.0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        if self.size != x.shape:
            self.grid, self.size = torch.arange(x.shape[-1]) + 0.5, x.shape
        return self.scale * self.conv(x) + self.grid


def test_values_in_place_of_those_of_the_class_come_back():
    model = Declaring()
    model.scale = 2.5
    model(IMAGE)
    loaded = round_trip(model, Declaring(), Declaring())
    assert_same_model(model, loaded)
    assert loaded.scale == 2.5 and loaded.size == IMAGE.shape and torch.equal(loaded.grid, model.grid)
    assert torch.equal(loaded(IMAGE), model(IMAGE))
    assert Declaring.scale == 1.0 and Declaring.size is None and not Declaring.grid.numel()


def test_another_method_on_an_instance_is_no_value_of_the_class():
    model = Declaring()
    model.forward = lambda x: x
    with pytest.raises(UnsavableModelError, match="'forward' is an attribute of the model and unknown"):
        structure_of(model, Declaring())


def test_a_class_in_place_of_its_path_is_refused(tmp_path):
    with pytest.raises(
        UnsavableModelError,
        match=r'^model is Linear, which a file cannot hold; give .* model="torch\.nn\.modules\.linear:Linear"\.$',
    ):
        save_pruned(nn.Linear(2, 2), tmp_path / "a", model=nn.Linear)
