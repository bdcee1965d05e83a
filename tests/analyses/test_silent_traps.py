"""Forms in which a forward could be followed wrongly without anyone noticing."""

import copy
from dataclasses import dataclass

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dfpc_plugin import bgsc, composed, find_couplings, prune, rule_scope
from dfpc_plugin.errors import DFPCError, ExampleInputsError, ForwardError, RuleError

X = torch.ones(2, 3, dtype=torch.float64)


class Two(nn.Module):
    """Two producers, a function of both, one reader."""

    def __init__(self, function, after=4):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c, self.b = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(after, 2)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x), self.c(x)))


def scores(function, after=4):
    return bgsc(Two(function, after).double(), X)


def into(operator, a, b, **kwargs):
    """Call an operator with out=."""
    out = torch.empty_like(a)
    operator(a, b, out=out, **kwargs)
    return out


INDEX = torch.tensor([1, 0, 3, 2])
SAME = {
    "detach": (lambda a, c: a.detach() + c.data, lambda a, c: a + c),
    "out": (lambda a, c: into(torch.add, a, c), lambda a, c: a + c),
    "out_constant": (lambda a, c: into(torch.mul, a, 2.0) + c, lambda a, c: 2 * a + c),
    "maximum_of_a_constant": (lambda a, c: torch.max(a, torch.tensor(5.0)) + c, lambda a, c: a + c),
    "maximum_of_two": (lambda a, c: torch.max(a, c), torch.maximum),
    "lerp_by_a_tensor": (lambda a, c: torch.lerp(a, c, torch.tensor(0.25)), lambda a, c: torch.lerp(a, c, 0.25)),
    "integer_constants": (lambda a, c: a + c + torch.arange(4) * 1000, lambda a, c: a + c),
    "boolean_mask": (lambda a, c: a * (INDEX > 0) + c, lambda a, c: a * (INDEX > 0).double() + c),
    "inner": (
        lambda a, c: torch.inner(a + c, torch.arange(16.0).view(4, 4).double()),
        lambda a, c: (a + c) @ torch.arange(16.0).view(4, 4).double().T,
    ),
    "einsum_ellipsis": (
        lambda a, c: torch.einsum("...i,...i->...i", a, c),
        lambda a, c: torch.einsum("bi,bi->bi", a, c),
    ),
    "einsum_implicit": (
        lambda a, c: torch.einsum("bi,bj", a, c).mean(0) + a,
        lambda a, c: torch.einsum("bi,bj->ij", a, c).mean(0) + a,
    ),
    "variance_by_position": (lambda a, c: a.var(1, False, True) + c, lambda a, c: a.var(1, keepdim=True) + c),
}


@pytest.mark.parametrize("case", SAME)
def test_two_spellings_have_the_same_scores(case):
    found, expected = (scores(function) for function in SAME[case])
    assert set(found) == {"a", "c"} == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_parts_of_a_constant_that_are_filled_one_by_one():
    def filled(a, c):
        canvas = a.new_zeros(2, 8)
        for part, value in zip(canvas.chunk(2, 1), (a, c), strict=True):
            part.copy_(value)
        return canvas

    def viewed_before(a, c):
        canvas = a.new_zeros(2, 8)
        left = canvas[:, :4]
        canvas[:] = torch.cat([a, c], 1)
        return torch.cat([left, canvas[:, 4:]], 1)

    expected = scores(lambda a, c: torch.cat([a, c], 1), 8)
    for function in (filled, viewed_before):
        torch.testing.assert_close(dict(scores(function, 8)), dict(expected))


def test_a_list_index_copies():
    def copied(a, c):
        picked = a[:, [0, 1]]
        picked.mul_(100)
        return a + c

    torch.testing.assert_close(dict(scores(copied)), dict(scores(lambda a, c: a + c)))


def test_every_operand_of_a_maximum_gets_its_share():
    maxout = scores(lambda a, c: torch.maximum(*(a + c).split(2, 1)), 2)
    assert all((value > 0).all() for value in maxout.values())
    unequal = scores(lambda a, c: torch.maximum(0.01 * a, c))
    assert (unequal["a"] > 0).all() and (unequal["c"] > 0).all()


@pytest.mark.parametrize(
    "function", [lambda a, c: a.masked_fill(a.new_ones(4) > 0, c.mean()), lambda a, c: torch.clamp(a, min=c)]
)
def test_data_where_a_rule_expects_a_constant_is_loud(function):
    with pytest.raises(RuleError, match="it gets data in an argument that its rule takes for a constant"):
        scores(function)


def test_sampling_at_places_that_depend_on_data_keeps_scores_positive():
    class Sampling(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.b(F.grid_sample(self.a(x), self.c(x).permute(0, 2, 3, 1), align_corners=False))

    found = bgsc(Sampling(), torch.ones(1, 3, 5, 5))
    assert set(found) == {"a", "c"} and all((value > 0).all() for value in found.values())


def test_powers():
    torch.testing.assert_close(dict(scores(lambda a, c: a**3 + c)), dict(scores(lambda a, c: 3 * a + c)))
    factor = float(torch.tensor(2.0).double().log())
    for function in (lambda a, c: 2.0**a + c, lambda a, c: torch.pow(torch.tensor(2.0).double(), a) + c):
        torch.testing.assert_close(dict(scores(function)), dict(scores(lambda a, c: factor * a + c)))


def test_the_final_state_of_a_recurrent_layer_is_read():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[1][0][-1])

    model, x = Last().double(), torch.ones(1, 7, 3, dtype=torch.float64)
    quiet = bgsc(model, x)
    assert "head" in quiet.couplings[0].feed_out
    with torch.no_grad():
        model.head.weight *= 1000
    assert (bgsc(model, x)["lstm.weight_ih_l0"] > 5 * quiet["lstm.weight_ih_l0"]).all()


def test_inputs_that_never_reach_the_model_are_an_error():
    @dataclass
    class Batch:
        x: torch.Tensor

    class Wrapped(Two):
        def forward(self, batch):
            return super().forward(batch.x)

    with pytest.raises(ExampleInputsError, match="holds no tensor of data"):
        bgsc(Wrapped(torch.add), (Batch(X.float()),))
    with pytest.raises(ExampleInputsError, match="did nothing with the example inputs"):
        bgsc(Two(torch.add).double(), X, forward_fn=lambda model, inputs: model(X))


def test_a_weight_used_in_two_widths_is_two_layers():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)
            self.head = nn.Linear(11, 2)

        def forward(self, ids):
            return self.head(F.linear(self.mix(self.embed(ids)), self.embed.weight))

    found = bgsc(Tied(), torch.zeros(1, 4, dtype=torch.long))
    assert {name: len(value) for name, value in found.items()} == {"embed": 6, "mix": 6, "embed#2": 11}


def test_a_transposed_parameter_is_a_layer_with_its_name():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(2, 5))

        def forward(self, x):
            return x @ self.first @ self.last.t()

    assert set(bgsc(Raw(), X.float())) == {"first"}


def test_dtypes_are_what_the_model_asked_for():
    seen = {}

    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, ids):
            x = self.embed(ids)
            seen.update(
                embedded=x.dtype, float=x.float().dtype, to=x.to(torch.bfloat16).dtype, like=x.half().to(x).dtype
            )
            return self.head(x)

    bgsc(Casting(), torch.zeros(1, 3, dtype=torch.long))
    assert seen == {"embedded": torch.float32, "float": torch.float32, "to": torch.bfloat16, "like": torch.float32}


@pytest.mark.parametrize("inputs", [X.float(), X.float().numpy(), [X.float().numpy()]], ids=["tensor", "array", "list"])
def test_an_error_inside_a_rule_names_operator_and_module(inputs):
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with rule_scope(), pytest.raises(RuleError) as error:
        composed(torch.special.bessel_j0)(lambda x: x.reshape(7, 11))
        bgsc(nn.Sequential(nn.Linear(3, 4), Bessel()), inputs)
    assert "called by 1, could not be applied without data" in str(error.value)
    assert "If the model runs with these example inputs, register a rule that can do this" in str(error.value)
    assert isinstance(error.value, DFPCError) and isinstance(error.value, RuntimeError)


def _pruned(model, x):
    return prune(model, x, "macs=0.5")


@pytest.mark.parametrize("call", [bgsc, find_couplings, _pruned])
def test_inputs_that_the_model_itself_refuses_are_no_matter_of_rules(call):
    """A flattened classifier fixes their size."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4 * 4, 5)).eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ForwardError) as error:
        call(model, torch.rand(1, 3, 8, 8))
    assert str(error.value) == (
        "The model cannot be called with inputs (1, 3, 8, 8) of torch.float32 (RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (1x288 and 128x5) in '3'); give inputs of the shape and type that it takes."
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_width_that_is_still_the_old_one_is_suspected():
    """After a step of Torch-Pruning, which leaves `head_dim` as it was."""
    model = timm.create_model("test_vit").eval()
    model.blocks[0].attn.qkv = nn.Linear(64, 3 * 48)
    with pytest.raises(ForwardError, match=r"was pruned, update the widths in attributes there, such as head_dim\.$"):
        bgsc(model, torch.rand(1, 3, 160, 160))


def test_printing_data_does_not_stop_a_forward():
    assert "Proxy(shape=(2, 4), dtype=torch.float64)" in str([repr(part) for part in _seen(lambda a, c: a + c)])


def _seen(function):
    parts = []
    scores(lambda a, c: (parts.append(a), function(a, c))[1])
    return parts
