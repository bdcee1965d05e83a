"""One pass over a model: who is missing, who called, what it takes."""

import pytest
import torch
from torch import nn

from dfpc_plugin import bgsc, missing_operators
from dfpc_plugin.errors import ExampleInputsError, UnsupportedOperatorError, ValueDependentError
from dfpc_plugin.trace import trace_model
from traced_runs import traced_bounds


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Other(nn.Module):
    def forward(self, x):
        return torch.special.i0e(torch.special.bessel_j0(x))


class Peeking(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


def net(*middle):
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Linear(4, 2))


X = torch.ones(1, 3)


def test_all_missing_operators_are_listed_with_every_module_that_calls_them():
    with pytest.raises(UnsupportedOperatorError) as error:
        bgsc(net(Unknown(), nn.Sequential(Other()), Unknown()), X)
    entries = {entry.function: entry.modules for entry in error.value.missing}
    (j0,) = [modules for name, modules in entries.items() if "bessel_j0" in name]
    (i0e,) = [modules for name, modules in entries.items() if "i0e" in name]
    assert j0 == ("1", "2.0", "3") and i0e == ("2.0",)
    text = str(error.value)
    assert text.startswith("2 operator(s) of this model have no data-flow rule:")
    assert "called by 1, 2.0, 3" in text
    assert '@dfpc_plugin.rule(the_operator, kind="pointwise")' in text and "rule_scope()" in text


def test_missing_operators_returns_what_bgsc_raises():
    assert missing_operators(net(nn.ReLU()), X) == ()
    (entry,) = missing_operators(net(Unknown()), X)
    assert "bessel_j0" in entry.function and entry.modules == ("1",)


def test_the_model_itself_is_named_as_such():
    with pytest.raises(UnsupportedOperatorError, match="bessel_j0, called by the model itself"):
        bgsc(Unknown(), X)


@pytest.mark.parametrize("flow", ["bounds", "variances"])
def test_everything_flows_on_the_meta_device_through_written_out_activations(flow):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.norm(self.first(x)).relu()
            return self.second(x * torch.sigmoid(1.702 * x))

    with torch.device("meta"):
        model = Net()
    bounds = trace_model(model, torch.empty(1, 4, device="meta"), flow=flow).bounds
    assert [writer.name for writer in bounds.writers] == ["first", "second"]
    assert [reader.name for reader in bounds.readers] == ["second"]


def test_missing_operators_works_on_the_meta_device_without_weights():
    with torch.device("meta"):
        model, x = net(Unknown()), torch.empty(1, 3)
    assert len(missing_operators(model, x)) == 1
    assert all(parameter.is_meta for parameter in model.parameters())


def test_control_flow_on_values_is_an_error_that_says_where():
    with pytest.raises(ValueDependentError) as error:
        bgsc(net(Peeking()), X)
    assert "in module '1' needs the values of the data" in str(error.value)
    assert "forward_fn" in str(error.value) and "families.register_forward" in str(error.value)


def test_missing_operators_before_a_value_dependent_one_are_not_lost():
    with pytest.raises(UnsupportedOperatorError) as error:
        bgsc(net(Unknown(), Peeking()), X)
    assert "bessel_j0" in str(error.value) and "The pass stopped there" in str(error.value)


def test_an_error_of_the_model_itself_is_not_hidden():
    with pytest.raises(RuntimeError, match=r"shape|size|mat1|dimension"):
        bgsc(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 5))), X)


def test_inputs_as_tensor_tuple_list_and_dict():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, a, b, mask=None):
            total = self.left(a) + self.right(b)
            return self.last(total if mask is None else total.masked_fill(mask, 0.0))

    model = Two().double()
    x = torch.ones(1, 3, dtype=torch.float64)
    by_tuple = bgsc(model, (x, x))
    assert set(by_tuple) == {"left", "right"}
    assert len(by_tuple.couplings) == 1 and by_tuple.couplings[0].feed_in == ("left", "right")
    for inputs in ([x, x], {"a": x, "b": x}):
        torch.testing.assert_close(dict(bgsc(model, inputs)), dict(by_tuple))
    mask = torch.tensor([[True, False, False, False]])
    masked = bgsc(model, {"a": x, "b": x, "mask": mask})
    assert masked["left"][0] == 0 and masked["left"][1:].gt(0).all()


def test_example_inputs_of_another_kind_are_refused():
    with pytest.raises(ExampleInputsError, match="must be a tensor, a tuple or list of arguments, or a dict"):
        bgsc(net(), 224)


def test_forward_fn_replaces_the_call():
    model = net().double()
    x = torch.ones(1, 3, dtype=torch.float64)
    called = bgsc(model, {"pixels": x}, forward_fn=lambda m, inputs: m(inputs["pixels"]))
    torch.testing.assert_close(called["0"], bgsc(model, x)["0"])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_gradient_mode_will_do(context):
    model = net(nn.ReLU())
    expected = bgsc(model, X)["0"]
    with context():
        torch.testing.assert_close(bgsc(model, X)["0"], expected)


def test_readers_and_writers_are_named_by_their_parameters_and_by_the_running_module():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight, self.bias)

    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.standardised, self.matrix = Standardised(3, 4, 3), nn.Parameter(torch.randn(4, 5))

        def forward(self, x):
            return self.standardised(x).mean((2, 3)) @ self.matrix

    run = traced_bounds(Raw(), torch.ones(1, 3, 5, 5))
    assert [writer.name for writer in run.writers] == ["standardised", "matrix"]
    assert [reader.name for reader in run.readers] == ["matrix"]


def test_tied_weights_are_told_apart_by_the_running_module():
    first, last = nn.Linear(3, 3), nn.Linear(3, 3)
    last.weight = first.weight
    run = traced_bounds(nn.Sequential(first, nn.ReLU(), last), X)
    assert [writer.name for writer in run.writers] == ["0", "2"]


def test_a_forward_that_also_needs_values_is_told_to_pass_a_forward_fn():
    """A rule for what is missing would not help: the values would be asked for behind it."""
    with pytest.raises(UnsupportedOperatorError, match="pass a forward_fn that leaves out what depends on values"):
        bgsc(net(Unknown(), Peeking()), X)


def test_a_forward_that_assigns_to_entries_of_its_weight_is_scored():
    """An assignment returns nothing; what it makes is the tensor that it changes."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(3, 3, 3)

        def forward(self, x):
            self.conv.weight.data[:, :, -1] = 0
            return self.conv(x[..., None].expand(-1, -1, 3)).sum(-1)

    model = nn.Sequential(nn.Linear(3, 3), Masked(), nn.Linear(3, 2))
    before = model[1].conv.weight.clone()
    assert set(bgsc(model, X)) == {"0", "1.conv"}
    assert torch.equal(model[1].conv.weight, before)
