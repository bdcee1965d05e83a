"""DFPCImportance inside unmodified Torch-Pruning pruners."""

import copy
import gc
import pickle
import weakref

import pytest
import timm
import torch
import torch_pruning as tp
import torchvision
from torch import nn

import dfpc_plugin.importance as importance_module
from dfpc_plugin import DFPCImportance, RepairedImportance, bgsc
from dfpc_plugin.errors import DFPCError, ExampleInputsError, NonFiniteWeightError

pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters:UserWarning")  # Torch-Pruning, on tokens

X = torch.randn(1, 3, 32, 32)
FRESH = ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")


def small(name="test_resnet"):
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def pruner_for(model, importance=None, *, x=X, kind=tp.MetaPruner, **kwargs):
    """Build a pruner with dictionaries of its own: Torch-Pruning shares its defaults between instances."""
    fresh = {name: kwargs.pop(name, {}) for name in FRESH}
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else model.fc
    return kind(model, x, importance=importance or DFPCImportance(), ignored_layers=[classifier], **fresh, **kwargs)


def groups_of(pruner):
    return list(pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers))


@pytest.fixture
def passes(monkeypatch):
    """Count how often the whole model is scored."""
    count = []

    def counting(*args, **kwargs):
        count.append(1)
        return bgsc(*args, **kwargs)

    monkeypatch.setattr(importance_module, "bgsc", counting)
    return count


OPTIONS = {
    "local": {},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
    "rounded": {"round_to": 8},
    "per layer": {"pruning_ratio_dict": "layer3"},
}


@pytest.mark.parametrize("kind", [tp.MetaPruner, tp.pruner.BasePruner])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_mode_prunes_and_the_model_still_runs(kind, option, passes):
    model = small()
    kwargs = dict(OPTIONS[option])
    if kwargs.get("pruning_ratio_dict"):
        kwargs["pruning_ratio_dict"] = {model.layer3: 0.5}
    before = sum(parameter.numel() for parameter in model.parameters())
    pruner_for(model, kind=kind, pruning_ratio=0.3, **kwargs).step()
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.9 * before
    assert model(X).shape == (1, 1000) and torch.isfinite(model(X)).all()
    assert len(passes) == 1, "one pass serves every group"
    if option == "rounded":
        assert all(m.out_channels % 8 == 0 for m in model.modules() if isinstance(m, nn.Conv2d))


def test_iterative_steps_score_once_a_step(passes):
    model = small()
    pruner = pruner_for(model, pruning_ratio=0.4, iterative_steps=4, global_pruning=True)
    for step in range(1, 5):
        pruner.step()
        assert len(passes) == step


def test_interactive_groups_are_pruned_by_the_caller(passes):
    model = small()
    pruner = pruner_for(model, pruning_ratio=0.3)
    before = sum(parameter.numel() for parameter in model.parameters())
    for group in pruner.step(interactive=True):
        group.prune()
    assert sum(parameter.numel() for parameter in model.parameters()) < before and len(passes) == 1


def test_scores_follow_an_optimiser_step_and_a_write_through_data(passes):
    model = small()
    importance = DFPCImportance()
    pruner = pruner_for(model, importance)
    group = groups_of(pruner)[0]
    first = importance(group)
    assert torch.equal(importance(group), first) and len(passes) == 1
    model(X).sum().backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    second = importance(group)
    assert len(passes) == 2 and not torch.equal(first, second)
    group[0].dep.target.module.weight.data.mul_(torch.rand(len(second), 1, 1, 1))
    third = importance(group)
    assert len(passes) == 3 and not torch.equal(second, third)


def test_one_importance_serves_two_models(passes):
    importance = DFPCImportance()
    one, two = small(), small("test_efficientnet")
    pruners = [pruner_for(one, importance), pruner_for(two, importance)]
    for _ in range(2):
        for pruner in pruners:
            assert importance(groups_of(pruner)[0]) is not None
    assert len(passes) == 2


def test_scores_are_those_of_bgsc_summed_over_the_group():
    model = small()
    importance = DFPCImportance("published")
    saliency = bgsc(model, X)
    names = {module: name for name, module in model.named_modules()}
    compared = 0
    for group in groups_of(pruner_for(model, importance)):
        layers = {
            names[item.dep.target.module]
            for item in group.items
            if names.get(item.dep.target.module) in saliency and item.dep.handler.__name__ == "prune_out_channels"
        }
        torch.testing.assert_close(importance(group), sum(saliency[layer] for layer in layers))
        compared += len(layers)
    assert compared == len(saliency)


def test_rankings_differ_as_documented():
    model = small()
    group = max(groups_of(pruner_for(model)), key=len)  # a residual stream: several layers read it
    published, mean, relative = (DFPCImportance(r)(group) for r in ("published", "coupling-mean", "relative"))
    torch.testing.assert_close(mean, published / published.mean())
    assert not torch.allclose(relative / relative.mean(), mean)
    assert DFPCImportance().ranking == "expected"
    with pytest.raises(
        DFPCError, match="must be one of output, expected, relative, coupling-mean, published, not 'mean'"
    ):
        DFPCImportance("mean")


def test_two_rankings_on_one_graph_do_not_displace_each_other(passes):
    pruner = pruner_for(small())
    importances = [DFPCImportance("relative"), DFPCImportance("published")]
    for group in groups_of(pruner):
        for importance in importances:
            importance(group)
    assert len(passes) == 2


def test_the_ranking_and_the_inputs_can_be_changed():
    model = small()
    importance = DFPCImportance("published")
    group = max(groups_of(pruner_for(model, importance)), key=len)
    at_32 = importance(group)
    importance.example_inputs = torch.randn(1, 3, 64, 64)
    at_64 = importance(group)
    assert (at_64 > 1.5 * at_32).all(), "more positions, larger sums"
    importance.ranking = "coupling-mean"
    torch.testing.assert_close(importance(group), at_64 / at_64.mean())


def test_an_importance_keeps_no_model_alive():
    importance = pickle.loads(pickle.dumps(DFPCImportance()))
    model = small()
    reference = weakref.ref(model)
    importance(groups_of(pruner_for(model, importance))[0])
    del model
    gc.collect()
    assert reference() is None


def test_partial_groups_get_one_score_per_index():
    model = small()
    pruner = pruner_for(model)
    group = groups_of(pruner)[0]
    root, handler = group[0].dep.target.module, group[0].dep.handler
    part = pruner.DG.get_pruning_group(root, handler, [5, 1, 3])
    importance = DFPCImportance("published")
    assert torch.equal(importance(part), importance(group)[[5, 1, 3]])


def test_the_classifier_gets_none_and_survives_forgotten_ignored_layers():
    model = small()
    importance = DFPCImportance()
    pruner = tp.MetaPruner(
        model, X, importance=importance, pruning_ratio=0.5, global_pruning=True, **{name: {} for name in FRESH}
    )
    classifier = pruner.DG.get_pruning_group(model.fc, tp.prune_linear_out_channels, list(range(1000)))
    assert importance(classifier) is None
    pruner.step()
    assert model.fc.out_features == 1000


def test_concatenated_producers_keep_their_own_scores():
    model = small("densenet121")
    importance = DFPCImportance("published")
    saliency = bgsc(model, X)
    scores = [importance(group) for group in groups_of(pruner_for(model, importance))]
    assert all(score is not None and (score > 0).all() for score in scores)
    torch.testing.assert_close(sum(score.sum() for score in scores), sum(v.sum() for v in saliency.values()))


def test_pruning_attention_heads_of_timm_models():
    model = small("vit_tiny_patch16_224")
    heads = {m.qkv: m.num_heads for m in model.modules() if hasattr(m, "qkv")}
    importance = DFPCImportance()
    pruner = pruner_for(
        model,
        importance,
        x=torch.randn(1, 3, 224, 224),
        num_heads=heads,
        pruning_ratio=0.34,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=0.3,
    )
    pruner.step()
    for module in model.modules():
        if hasattr(module, "qkv"):
            module.num_heads = heads[module.qkv]
            module.attn_dim = module.qkv.out_features // 3
    assert set(heads.values()) == {2}
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


def test_multi_head_attention_modules_are_scored():
    model = torchvision.models.vit_b_32(weights=None).eval()
    model.get_classifier = lambda: model.heads
    importance = DFPCImportance("published")
    x = torch.randn(1, 3, 224, 224)
    group = groups_of(pruner_for(model, importance, x=x))[0]
    modules = {type(item.dep.target.module) for item in group.items}
    assert nn.MultiheadAttention in modules
    scores, saliency = importance(group), bgsc(model, x)
    attention = "encoder.layers.encoder_layer_0.self_attention"
    share = saliency[f"{attention}.out_proj"] + saliency[f"{attention}.in_proj_weight"].view(3, -1).sum(0)
    assert scores.shape == (768,) and (scores > share).all()


def test_dict_inputs_and_a_forward_function_are_taken_from_the_pruner():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.fc = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), nn.Linear(4, 2)

        def forward(self, pixels):
            return self.fc(self.net(pixels).mean((2, 3)))

    for kwargs in ({}, {"forward_fn": lambda model, inputs: model(inputs["pixels"])}):
        model = ByName()
        pruner_for(model, x={"pixels": X}, pruning_ratio=0.5, **kwargs).step()
        assert model.net[0].out_channels == 4


def test_a_graph_of_unknown_origin_asks_for_example_inputs():
    model = small()
    graph = tp.DependencyGraph().build_dependency(model, X)
    del graph._dfpc_traced_call
    group = next(iter(graph.get_all_groups(ignored_layers=[model.fc])))
    with pytest.raises(ExampleInputsError, match=r"pass DFPCImportance\(example_inputs=...\)"):
        DFPCImportance()(group)
    assert DFPCImportance(example_inputs=X)(group) is not None


def test_weights_that_are_not_finite_stop_pruning_and_leave_the_model_alone():
    model = small()
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] = float("nan")
    shapes = [parameter.shape for parameter in model.parameters()]
    with pytest.raises(NonFiniteWeightError, match=r"'layer2\.0\.conv1\.weight' holds 1 value"):
        pruner_for(model, pruning_ratio=0.5).step()
    assert [parameter.shape for parameter in model.parameters()] == shapes


def test_copies_of_a_pruned_model_and_of_the_importance_work():
    importance = copy.deepcopy(DFPCImportance())
    model = copy.deepcopy(small())
    pruner_for(model, importance, pruning_ratio=0.2).step()
    assert model(X).shape == (1, 1000)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute:UserWarning"
)  # torch.compile, of what Torch-Pruning's hooks read
@pytest.mark.parametrize("make", [DFPCImportance, RepairedImportance])
def test_a_compiled_model_is_scored_as_the_one_inside(make):
    """Torch-Pruning's groups hold layers of the model inside; without compiling, as only names differ."""
    model = small()
    plain = copy.deepcopy(model)
    for own in (plain, torch.compile(model, backend="eager")):
        fresh = {name: {} for name in FRESH}
        layers = [getattr(own, "_orig_mod", own).fc]
        tp.MetaPruner(own, X, make(), pruning_ratio=0.3, ignored_layers=layers, **fresh).step()
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    assert sum(p.numel() for p in model.parameters()) < 0.8 * 469_688


def test_a_model_in_place_of_the_ranking_is_left_out():
    for given in (nn.Linear(2, 2), torch.ones(1)):
        with pytest.raises(DFPCError, match=r"leave them out, since the pruner passes them: DFPCImportance\(\)"):
            DFPCImportance(given)
    assert repr(DFPCImportance("output")) == "DFPCImportance('output')"
