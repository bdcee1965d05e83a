"""What `ignored_layers` may hold, and which modules and parameters it then stands for."""

import pytest
import torch
from torch import nn

from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.host.checks import ignored_modules
from residual_net import network


def ids(layers):
    return {id(layer) for layer in layers}


CASES = {
    "a module": (lambda m: [m.stem], lambda m: [m.stem]),
    "a module with others inside": (lambda m: [m.blocks[0]], lambda m: [*m.blocks[0].modules()]),
    "a parameter": (lambda m: [m.stem.weight], lambda m: [m.stem.weight]),
    "a name": (lambda m: ["blocks.0.conv1"], lambda m: [m.blocks[0].conv1]),
    "a name alone": (lambda m: "head", lambda m: [m.head]),
    "the name of what has others inside": (lambda m: ["blocks.1"], lambda m: [*m.blocks[1].modules()]),
    "the name of a parameter": (lambda m: ["blocks.1.bn2.bias"], lambda m: [m.blocks[1].bn2.bias]),
    "a pattern": (lambda m: ["*.conv?"], lambda m: [c for b in m.blocks for c in (b.conv1, b.conv2)]),
    "a pattern of one": (lambda m: ["blocks.[!0].bn1"], lambda m: [m.blocks[1].bn1]),
    "a pattern for parameters": (lambda m: ["*.bn1.weight"], lambda m: [b.bn1.weight for b in m.blocks]),
    "a type": (lambda m: [nn.BatchNorm2d], lambda m: [n for b in m.blocks for n in (b.bn1, b.bn2)]),
    "a type that others inherit": (lambda m: [nn.Module], lambda m: [*m.modules()]),
    "a type that is not there": (lambda m: [nn.LSTM], lambda m: []),
    "several": (lambda m: [m.stem, "head", nn.Sequential], lambda m: [m.stem, m.head, *m.blocks.modules()]),
    "the model": (lambda m: [m], lambda m: [*m.modules()]),
    "nothing": (lambda m: [], lambda m: []),
    "a generator": (lambda m: (b.bn1 for b in m.blocks), lambda m: [b.bn1 for b in m.blocks]),
}


@pytest.mark.parametrize("case", CASES)
def test_it_stands_for(case):
    given, meant = CASES[case]
    model = network()
    assert ids(ignored_modules(model, given(model))) == ids(meant(model))


def test_a_pattern_is_read_as_the_shell_does_with_its_case():
    model = network()
    for pattern in ("Stem", "ste", "blocks.*.Conv1", "^stem$"):
        with pytest.raises(PrunerSettingError, match="no layer of this model is called so"):
            ignored_modules(model, [pattern])


def test_every_name_of_a_shared_layer_will_do():
    first = nn.Linear(4, 4)
    model = nn.Sequential(first, nn.ReLU(), first, nn.Linear(4, 4))
    model[3].weight = first.weight
    assert ids(ignored_modules(model, ["0"])) == ids(ignored_modules(model, ["2"])) == {id(first)}
    assert ids(ignored_modules(model, ["3.weight"])) == {id(first.weight)}


@pytest.mark.parametrize(("layers", "message"), [
    (["blocks.0.conv3"], r"^ignored_layers holds 'blocks\.0\.conv3', and no layer of this model is called so; did you mean "
                         r"blocks\.0\.conv\d"),
    (["*.attn.qkv"], r"^ignored_layers holds '\*\.attn\.qkv', and no layer of this model is called so; "
                     r"named_modules\(\) of the model lists its names\.$"),
    ("zzz", r"named_modules\(\) of the model lists its names\.$"),
    ([nn.Linear(2, 2)], r"^ignored_layers holds Linear 'Linear\(in_features=2, out_features=2, bias=True\)', which is no "
                        r"module, parameter or module type of this model; pass the objects themselves, such as model\.fc, "
                        r"or their names\.$"),
    ([nn.Parameter(torch.zeros(2))], r"^ignored_layers holds Parameter .*, which is no module, parameter or module type"),
    ([None], r"^ignored_layers holds NoneType 'None', which is no module"),
    ([3], r"^ignored_layers holds int '3', which is no module"),
])  # fmt: skip
def test_what_the_model_does_not_have_is_refused(layers, message):
    with pytest.raises(PrunerSettingError, match=message):
        ignored_modules(network(), layers)


def test_a_message_about_something_long_is_short():
    with pytest.raises(PrunerSettingError) as caught:
        ignored_modules(network(), [network()])
    assert len(str(caught.value)) < 280


def test_a_single_layer_needs_no_list():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
    assert ids(ignored_modules(model, model[0])) == ids(ignored_modules(model, [model[0]]))
    assert ids(ignored_modules(model, nn.Linear)) == {id(model[0][0]), id(model[1])}
    assert ignored_modules(model, None) == []
