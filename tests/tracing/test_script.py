"""TorchScript: scripted modules, scripted functions and traces score like the Python they came from."""

import pytest
import torch
from torch import nn

from dfpc_plugin import bgsc
from dfpc_plugin.errors import DFPCError, UnsupportedOperatorError
from dfpc_plugin.tracing import script

X = torch.ones(1, 3, 8, 8, dtype=torch.float64)


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:")


def swish(x, beta: float = 1.5):
    return x * torch.sigmoid(x * beta)


@pytest.fixture
def scripted_swish():
    return torch.jit.script(swish)


class Act(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.act(x)


class Branching(nn.Module):
    """Constants, attributes, conditions, loops, lists, in-place and keyword-only arguments."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 2)
        self.scale, self.double_it = 2.0, True

    def forward(self, x):
        y = self.bn(self.conv(x))
        if self.double_it:
            y = y * self.scale + torch.add(y, y, alpha=3)
        for _ in range(2):
            y = y.relu_()
        a, b = y.chunk(2, 1)
        y = torch.cat([a, b], 1)
        y = y.mean([2, 3]).view(y.shape[0], -1)
        return self.head(y)


def assert_same_scores(python, scripted, rename=lambda name: name):
    expected, found = bgsc(python.double(), X), bgsc(scripted.double(), X)
    assert list(found) == list(expected)
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores)


def test_a_scripted_function_inside_a_python_model(scripted_swish):
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
    assert_same_scores(nn.Sequential(first, Act(swish), last), nn.Sequential(first, Act(scripted_swish), last))


def test_scripted_functions_called_on_ordinary_tensors_are_left_alone(scripted_swish):
    original = torch._C.ScriptFunction.__call__
    with script.scripted_functions_redirected(), script.scripted_functions_redirected():
        torch.testing.assert_close(scripted_swish(torch.ones(2)), swish(torch.ones(2)))
    assert torch._C.ScriptFunction.__call__ is original
    with pytest.raises(ZeroDivisionError), script.scripted_functions_redirected():
        raise ZeroDivisionError
    assert torch._C.ScriptFunction.__call__ is original


def test_a_scripted_submodule_with_layers_of_its_own():
    torch.manual_seed(0)
    first, inner = nn.Conv2d(3, 4, 3), Branching().eval()
    assert_same_scores(nn.Sequential(first, inner), nn.Sequential(first, torch.jit.script(inner)))


def test_a_wholly_scripted_and_a_traced_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Branching()).double().eval()
    assert_same_scores(model, torch.jit.script(model))
    assert_same_scores(model, torch.jit.trace(model, X))


def collect(x):
    parts = []
    for i in range(2):
        parts.append(x[:, 2 * i : 2 * i + 2].relu())
    return torch.cat(parts, 1) + parts[0].mean()


def test_lists_and_slices_in_scripted_code():
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
    scripted = torch.jit.script(collect)
    assert_same_scores(nn.Sequential(first, Act(collect), last), nn.Sequential(first, Act(scripted), last))


def test_flags_of_scripted_modules_are_restored():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), Branching())).double().train()
    bgsc(scripted, X)
    assert all(module.training for module in scripted.modules())


def test_a_scripted_operator_without_a_rule_is_named():
    @torch.jit.script
    def unknown(x):
        return torch.special.i1e(x)

    with pytest.raises((UnsupportedOperatorError, DFPCError), match="i1e"):
        bgsc(nn.Sequential(nn.Conv2d(3, 4, 3), Act(unknown), nn.Conv2d(4, 2, 3)), X.float())


def test_what_scripted_code_raises_is_told():
    @torch.jit.script
    def picky(x):
        if x.size(1) != 3:
            raise ValueError("three channels, please")
        return x

    with pytest.raises(DFPCError, match="three channels, please"):
        bgsc(nn.Sequential(nn.Conv2d(3, 4, 3), Act(picky), nn.Conv2d(4, 2, 3)), X.float())
