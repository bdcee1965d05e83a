"""Forward hooks run during a pass and keep nothing of it."""

import functools

import pytest
import torch
from torch import nn

from dfpc_plugin import bgsc, find_couplings, prune
from dfpc_plugin.errors import HookError

features: list = []
handles: list = []
last = None


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3))


def in_closure(model):
    kept = []
    model[0].register_forward_hook(lambda module, args, output: kept.append(output.detach()))
    return lambda: kept


def in_dict_of_lists(model):
    kept = {}
    model[0].register_forward_hook(lambda module, args, output: kept.setdefault(type(module), []).append(output))
    return lambda: list(kept)


def in_filled_dict_of_lists(model):
    kept = {"conv": ["before"]}
    model[0].register_forward_hook(lambda module, args, output: kept["conv"].append(output))
    return lambda: kept["conv"][1:]


def in_global_list(model):
    features.clear()
    model[0].register_forward_hook(lambda module, args, output: features.append(output))
    return lambda: features


def in_global_variable(model):
    global last
    last = None

    def hook(module, args, output):
        global last
        last = output

    model[0].register_forward_hook(hook)
    return lambda: [] if last is None else [last]


def in_enclosing_variable(model):
    seen = None

    def hook(module, args):
        nonlocal seen
        seen = args[0]

    model[0].register_forward_pre_hook(hook)
    return lambda: [] if seen is None else [seen]


def in_default(model):
    kept = []

    def hook(module, args, output, kept=kept):
        kept.append(output)

    model[0].register_forward_hook(hook)
    return lambda: kept


def in_partial(model):
    kept = set()
    model[0].register_forward_hook(functools.partial(lambda kept, module, args, output: kept.add(output), kept))
    return lambda: kept


class Extractor:
    def __init__(self):
        self.features, self.last = {}, None

    def hook(self, module, args, output):
        self.last = self.features[module] = output

    __call__ = hook


def in_object(model):
    extractor = Extractor()
    model[0].register_forward_hook(extractor.hook)
    return lambda: [*extractor.features, *([] if extractor.last is None else [extractor.last])]


def in_callable(model):
    extractor = Extractor()
    model[0].register_forward_hook(extractor)
    return lambda: [*extractor.features]


def in_hook_of_all_modules(model):
    kept = []

    def hook(module, args, output):
        if module is model[0]:
            kept.append(output)

    handles.append(nn.modules.module.register_module_forward_hook(hook))
    return lambda: kept


KEEPERS = [
    in_closure,
    in_dict_of_lists,
    in_filled_dict_of_lists,
    in_global_list,
    in_global_variable,
    in_enclosing_variable,
    in_default,
    in_partial,
    in_object,
    in_callable,
    in_hook_of_all_modules,
]


@pytest.mark.parametrize("run", [bgsc, find_couplings, lambda *args: prune(*args, "ratio=0.3", repair="merge")])
@pytest.mark.parametrize("keeper", KEEPERS, ids=lambda keeper: keeper.__name__)
def test_a_hook_that_looks_keeps_nothing(keeper, run):
    model = net()
    kept = keeper(model)
    try:
        result = run(model, torch.ones(1, 3, 8, 8))
        assert len(kept()) == 0
        model(torch.ones(1, 3, 8, 8))
        assert len(kept()) > 0  # the hook is still there
    finally:
        while handles:
            handles.pop().remove()
    assert len(result.removed if hasattr(result, "removed") else result) > 0


def test_a_hook_that_changes_data_is_part_of_the_forward():
    model, doubled = net(), net()
    doubled[2].register_forward_pre_hook(lambda module, args: (args[0] * 2.0,))
    x = torch.ones(1, 3, 8, 8)
    assert torch.allclose(bgsc(doubled, x)["0"], 2 * bgsc(model, x)["0"])


@pytest.mark.parametrize("run", [bgsc, find_couplings])
def test_a_hook_that_needs_values_is_named(run):
    model, seen = net(), {}
    model[2].register_forward_hook(lambda module, args, output: seen.update(std=float(output.std())))
    with pytest.raises(HookError, match=r"forward hook .*<lambda> of module '2' cannot run without data .*remove"):
        run(model, torch.ones(1, 3, 8, 8))
    assert not seen


def test_of_two_modules_with_one_hook_the_one_that_ran_is_named():
    model = net()

    def needs_values(module, args, output):
        if module is model[2]:
            output.sum().item()

    for layer in model:
        layer.register_forward_hook(torch.no_grad()(needs_values))
    with pytest.raises(HookError, match=r"needs_values of module '2'"):
        bgsc(model, torch.ones(1, 3, 8, 8))


def test_an_error_of_the_forward_is_not_put_down_to_a_hook():
    class Needs(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return x * float(x.sum())

    model = nn.Sequential(net(), Needs())
    model[0].register_forward_hook(torch.no_grad()(lambda module, args, output: None))
    with pytest.raises(Exception, match="in module '1' needs the values"):
        bgsc(model, torch.ones(1, 3, 8, 8))
