"""The table of rules: strict, scoped, keyed by function object."""

import pytest
import torch
import torch.nn.functional as F

from dfpc_plugin import bgsc, missing_operators, registered_rules, rule, rule_scope
from dfpc_plugin.errors import DuplicateRuleError
from dfpc_plugin.tracing.operator import Convention, find_operator, forms, function_name, register


def nobody_knows(input):
    if torch.overrides.has_torch_function_unary(input):
        return torch.overrides.handle_torch_function(nobody_knows, (input,), input)
    return input * 3


class Custom(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.last(nobody_knows(self.first(x)))


def test_a_second_rule_for_an_operator_is_refused_with_the_way_out():
    with pytest.raises(DuplicateRuleError) as error:
        rule(F.gelu)(lambda input: input)
    assert "already has a data-flow rule" in str(error.value)
    assert "override=True" in str(error.value) and "rule_scope()" in str(error.value)
    assert "gelu" in str(error.value)


def test_a_scoped_rule_replaces_a_built_in_one_and_ends_with_the_block():
    before = find_operator(torch.relu)
    with rule_scope():

        @rule(torch.relu)
        def doubled(input):
            """2 x."""
            return 2 * input

        assert find_operator(torch.relu).bound is doubled
        assert registered_rules()[torch.relu].summary == "2 x."
        with rule_scope():
            rule(torch.relu)(lambda input: input)
            assert find_operator(torch.relu).bound is not doubled
        assert find_operator(torch.relu).bound is doubled
    assert find_operator(torch.relu) is before


def test_a_scope_ends_when_its_block_raises():
    with pytest.raises(KeyError), rule_scope():
        rule(nobody_knows)(lambda input: input)
        raise KeyError
    assert find_operator(nobody_knows) is None


def test_a_user_rule_makes_an_unknown_operator_count():
    model, x = Custom().double(), torch.ones(1, 3, dtype=torch.float64)
    assert [entry.function for entry in missing_operators(model, x)] == [function_name(nobody_knows)]
    with rule_scope():

        @rule(nobody_knows, convention="exact")
        def tripled(input):
            """3 x."""
            return 3 * input

        scores = bgsc(model, x)["first"]
    expected = 3 * model.first.weight.abs().sum(1) * model.last.weight.abs().sum(0)
    torch.testing.assert_close(scores, expected.detach())


def test_process_rules_can_be_overridden_on_purpose():
    original = find_operator(torch.erf)
    try:
        rule(torch.erf, override=True)(lambda input: 0 * input)
        assert find_operator(torch.erf) is not original
    finally:
        register((torch.erf,), original, override=True)


def test_rule_takes_operators_not_names():
    with pytest.raises(TypeError, match="takes the operators themselves, not 'relu'"):
        rule("relu")(lambda input: input)
    with pytest.raises(TypeError, match="needs at least one operator"):
        rule()


def test_forms_lists_every_spelling_and_refuses_unknown_names():
    assert {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__iadd__} <= set(forms("add"))
    assert {F.relu, torch.relu, torch.relu_} <= set(forms("relu"))
    with pytest.raises(AttributeError, match="no function named frobnicate"):
        forms("frobnicate")


def test_every_rule_documents_its_formula_and_its_convention():
    for operator, entry in registered_rules().items():
        assert entry.summary, function_name(operator)
        assert isinstance(entry.convention, Convention)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "torch.nn.functional.relu"),
        (torch.Tensor.add_, "torch.Tensor.add_"),
        (torch.conv2d, "torch.conv2d"),
        (torch.Tensor.__getitem__, "torch.Tensor.__getitem__"),
        (torch.Tensor.T.__get__, "torch.Tensor.T"),
        (torch.fft.fft2, "torch.fft.fft2"),
        (torch.special.i0e, "torch.special.i0e"),
    ],
)
def test_operators_are_named_as_their_users_write_them(function, name):
    assert function_name(function) == name
