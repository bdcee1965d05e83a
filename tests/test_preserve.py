"""Scoring leaves a model, and the random generators, bit for bit as they were."""

import copy
import warnings

import pytest
import timm
import torch
from torch import nn

from dfpc_plugin import bgsc, evaluate_model, find_couplings, measure_latency, missing_operators, prune, replay
from dfpc_plugin.preserve import evaluating, watched


def called_with_data(model, inputs):
    """A real forward, as repairs and measurements make it."""
    with evaluating(model), watched():
        model(inputs)


class Restless(nn.Module):
    """Does to itself what forwards of real models do: counters, caches, new attributes, random numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.cache, self.history, self.seen = {}, [], set()
        self.fail = False

    def forward(self, x):
        self.calls += 1
        self.cache["x"] = x.shape
        self.history.append(x.shape)
        self.seen.add(len(self.history))
        self.fresh = torch.rand(3)
        self.noise = 2 if not hasattr(self, "noise") else 3
        self.last.weight.requires_grad_(False)
        x = nn.functional.dropout(self.norm(self.first(x)), 0.5, self.training)
        if self.fail:
            raise OSError("half-way")
        return self.last(x)


def photograph(model):
    """Everything of a model that a user could notice."""
    return {
        "state": {name: (id(t), t._version, t.clone()) for name, t in model.state_dict(keep_vars=True).items()},
        "flags": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad for p in model.parameters()],
        "attributes": [
            {k: copy.copy(v) for k, v in module.__dict__.items() if not k.startswith("_")} for module in model.modules()
        ],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "rng": torch.get_rng_state(),
    }


def assert_same(before, after):
    assert before["flags"] == after["flags"]
    assert before["requires_grad"] == after["requires_grad"] and before["hooks"] == after["hooks"]
    assert all(mine is theirs for mine, theirs in zip(before["grad"], after["grad"], strict=True))
    assert before["state"].keys() == after["state"].keys()
    for name, (identity, _, value) in before["state"].items():
        assert after["state"][name][0] == identity, name
        assert torch.equal(after["state"][name][2], value), name
    assert torch.equal(before["rng"], after["rng"])
    assert [a.keys() for a in before["attributes"]] == [a.keys() for a in after["attributes"]]
    for mine, theirs in zip(before["attributes"], after["attributes"], strict=True):
        for key in mine:
            assert mine[key] is theirs[key] or mine[key] == theirs[key], key


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("score", [bgsc, missing_operators])
def test_a_model_that_changes_itself_is_put_back(training, score):
    model = Restless().train(training)
    model.norm.eval()
    model.register_forward_hook(lambda module, args, output: None)
    before = photograph(model)
    score(model, torch.ones(2, 3))
    assert_same(before, photograph(model))


@pytest.mark.parametrize("score", [bgsc, missing_operators])
def test_also_when_it_raises_half_way(score):
    model = Restless().train()
    model.fail = True
    before = photograph(model)
    with pytest.raises(OSError, match="half-way"):
        score(model, torch.ones(2, 3))
    assert_same(before, photograph(model))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "levit_128s"])
def test_timm_models_are_left_alone(name):
    model = timm.create_model(name).train()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = photograph(model)
    bgsc(model, torch.zeros(1, *model.pretrained_cfg["input_size"]))
    assert_same(before, photograph(model))


def test_a_cache_filled_earlier_keeps_its_contents_and_identity():
    model = nn.Sequential(nn.Linear(2, 2))
    model.cache = cache = {"a": torch.ones(2)}
    held = cache["a"]
    with evaluating(model):
        model.cache["a"] = torch.zeros(2)
        model.cache["b"] = 1
        model.cache = {}
    assert model.cache is cache and cache["a"] is held and list(cache) == ["a"]


def test_random_numbers_drawn_by_the_forward_do_not_count():
    model = Restless()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bgsc(model, torch.ones(2, 3))
    assert torch.equal(torch.rand(3), expected)


class Writes(nn.Module):
    """Writes to its tensors in the forward, in the way that `how` does it."""

    def __init__(self, how):
        super().__init__()
        self.first, self.last, self.how = nn.Linear(3, 4), nn.Linear(4, 2), how
        self.register_buffer("scale", torch.ones(4))
        self.plain, self.listed = torch.ones(4), [torch.ones(4)]

    def forward(self, x):
        self.how(self)
        return self.last(self.first(x) * self.scale)


def renormed(model):
    model.first.weight.data = torch.renorm(model.first.weight.data, 2, 0, 0.1)


def clamped_in_place(model):
    with torch.no_grad():
        model.first.weight.clamp_(0, 0.1)


def with_gradients(model):
    model.first.weight.grad.zero_()
    model.last.weight.grad = torch.ones_like(model.last.weight)


def foreach(model):
    with torch.no_grad():
        torch._foreach_mul_([model.first.weight, model.last.weight], 2.0)


WRITES = {
    "data_replaced": renormed,
    "data_in_place": lambda model: model.first.weight.data.clamp_(0, 0.1),
    "no_grad": clamped_in_place,
    "part": lambda model: model.first.weight.detach()[0].zero_(),
    "foreach": foreach,
    "gradients": with_gradients,
    "new_parameter": lambda model: setattr(model.first, "weight", nn.Parameter(torch.ones(4, 3))),
    "buffer_data": lambda model: model.scale.data.mul_(2),
    "buffer_data_replaced": lambda model: setattr(model.scale, "data", model.scale.data * 2),
    "buffer_resized": lambda model: model.scale.resize_(1).fill_(2.0),
    "statistics": lambda model: nn.functional.batch_norm(  # a write that the operator does not declare
        torch.arange(8.0).view(2, 4), model.scale, torch.ones(4), training=True
    ),
    "plain_attribute": lambda model: model.plain.mul_(2),
    "listed_attribute": lambda model: model.listed[0].mul_(2),
}


def everything(model):
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    tensors = [*model.parameters(), *gradients, *model.buffers(), model.plain, *model.listed]
    return [(tensor, tensor.data_ptr(), tensor.shape, tensor.clone()) for tensor in tensors]


RUNS = [(how, run) for how in WRITES for run in (bgsc, called_with_data)]
RUNS += [(how, find_couplings) for how in WRITES if how not in ("foreach", "gradients")]  # not known to labels


@pytest.mark.parametrize(("how", "run"), RUNS)
def test_a_forward_that_writes_to_its_own_tensors_leaves_them_as_they_were(how, run):
    model = Writes(WRITES[how])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = everything(model)
    run(model, torch.ones(2, 3))
    after = everything(model)
    for (old, place, shape, value), (new, *now, same) in zip(before, after, strict=True):
        assert new is old and now[1] == shape and torch.equal(value, same)
        assert now[0] == place


def test_a_model_that_writes_to_no_weight_is_not_copied(monkeypatch):
    copies = []
    original = torch.UntypedStorage.clone
    monkeypatch.setattr(torch.UntypedStorage, "clone", lambda self: copies.append(self) or original(self))
    bgsc(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train(), torch.ones(2, 3))
    assert not copies


def test_tensors_of_inference_mode_are_put_back():
    with torch.inference_mode():
        model = Writes(lambda model: model.scale.mul_(2))
    with torch.inference_mode():
        called_with_data(model, torch.ones(2, 3))
    assert torch.equal(model.scale, torch.ones(4))


def test_a_model_prepared_for_quantisation_keeps_its_observers():
    quantisation = pytest.importorskip("torch.ao.quantization")
    layers = nn.Sequential(quantisation.QuantStub(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    layers.train().qconfig = quantisation.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantisation
        model = quantisation.prepare_qat(layers)
    before = photograph(model)
    assert (bgsc(model, torch.ones(1, 3, 8, 8))["1"] > 0).all()
    assert_same(before, photograph(model))
    called_with_data(model, torch.ones(1, 3, 8, 8))
    assert_same(before, photograph(model))


@pytest.mark.parametrize("how", ["data_in_place", "data_replaced", "buffer_data"])
@pytest.mark.parametrize("measure", ["evaluate", "latency", "prune", "repair", "replay"])
def test_real_forwards_leave_weights_alone(measure, how):
    if (measure, how) == ("latency", "data_replaced") and not hasattr(torch.compiler, "set_stance"):
        pytest.skip("PyTorch 2.4 does not replace data in inference mode")
    model = Writes(WRITES[how])
    before = everything(model)
    if measure == "evaluate":
        data = [(torch.ones(3), 0), (torch.zeros(3), 1)]
        evaluate_model(model, data, batch_size=1)
    elif measure == "latency":
        measure_latency({"a": model}, torch.ones(2, 3), min_run_time=1e-6)
    elif measure == "repair":
        prune(model, torch.ones(2, 3), "ratio=0.3", repair="merge")
    else:
        result = prune(model, torch.ones(2, 3), "ratio=0.3")
        if measure == "replay":
            replay(copy.deepcopy(model), torch.ones(2, 3), result.removed)
    for (_, place, _, value), (_, now, _, same) in zip(before, everything(model), strict=True):
        assert now == place and torch.equal(value, same)


def test_gradients_are_on_again_after_an_interrupt():
    """Ctrl-C in the `__exit__` of torch.no_grad keeps it from being left."""
    with pytest.raises(KeyboardInterrupt), evaluating(nn.Linear(2, 2)):
        torch.no_grad().__enter__()
        raise KeyboardInterrupt
    assert torch.is_grad_enabled()
