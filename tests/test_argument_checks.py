"""Arguments that a function does not take, lacks, or takes in another type are answered with one sentence."""

import inspect
import re

import pytest
import torch
import torch_pruning as tp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.arguments import TORCH_PRUNING
from dfpc_plugin.errors import ArgumentError, DFPCError, OptionNameError, RepairError
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.selection import BUDGETS, Target, TargetError
from dfpc_plugin.workflow.sections import RepairSection

OF_PRUNERS = set(inspect.signature(tp.pruner.BasePruner).parameters)
MISSPELT = {
    "bgsc": ("forward_func", "forward_fn"),
    "evaluate_model": ("batchsize", "batch_size"),
    "export_onnx": ("toleranc", "tolerance"),
    "export_program": ("dynamicbatch", "dynamic_batch"),
    "find_couplings": ("whole_head", "whole_heads"),
    "finetune": ("setting", "settings"),
    "prune": ("max_ratios", "max_ratio"),
    "prune_and_tune": ("setting", "settings"),
    "quantize_onnx": ("perchannel", "per_channel"),
    "repair": ("remove", "removed"),
    "replay": ("remove", "removed"),
    "save_pruned": ("overwrit", "overwrite"),
    "sensitivity": ("share", "shares"),
    "measure_latency": ("thread", "threads"),
    "FinetuneSettings": ("epoch", "epochs"),
    "LatencySettings": ("warmups", "warmup"),
    "RepairSettings": ("methods", "method"),
    "ScheduleSettings": ("stepsizes", "step_sizes"),
    "DFPCPruner": ("max_ratio", "max_pruning_ratio"),
}


@pytest.mark.parametrize(("name", "typed", "meant"), [(name, *words) for name, words in MISSPELT.items()])
def test_a_misspelt_option_is_answered_with_the_nearest(name, typed, meant):
    with pytest.raises(OptionNameError) as caught:
        getattr(dfpc, name)(**{typed: None})
    assert str(caught.value) == f"{name} has no option '{typed}'; did you mean {meant}?"
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("pruning_ratio", 'give a target: "ratio=0.3", "macs=0.5", "params=0.5", "speedup=1.5" or "max_drop=2".'),
        ("global_pruning", "leave it out: all couplings are ranked together."),
        ("max_pruning_ratio", "give max_ratio, a hard limit for every coupling."),
        ("ch_sparsity", 'give a target: "ratio=0.3", "macs=0.5", "params=0.5", "speedup=1.5" or "max_drop=2".'),
        ("iterative_steps", "give rescore=0.1, or use prune_and_tune to train between the steps."),
    ],
)
def test_options_of_torch_pruning_are_answered_with_ours(option, answer):
    with pytest.raises(OptionNameError) as caught:
        dfpc.prune(None, None, **{option: 1})
    assert str(caught.value) == f"prune has no option '{option}' (Torch-Pruning's pruners have it); {answer}"


def test_a_keyword_and_a_target_from_another_tool_get_the_same_answer():
    with pytest.raises(OptionNameError) as keyword:
        dfpc.prune(None, None, flops=0.5)
    with pytest.raises(TargetError) as target:
        Target.parse("flops=0.5")
    assert str(keyword.value).partition("; ")[2] == str(target.value).partition("; ")[2] != ""


def test_a_name_of_older_versions_of_torch_pruning_is_known():
    with pytest.raises(OptionNameError, match="'max_ch_sparsity'; give max_ratio, a hard limit for every coupling"):
        dfpc.prune(None, None, max_ch_sparsity=0.5)


def test_every_option_of_torch_prunings_pruners_has_an_answer():
    assert OF_PRUNERS - set(inspect.signature(dfpc.prune).parameters) == set(TORCH_PRUNING)


def test_other_options_are_listed():
    with pytest.raises(
        OptionNameError, match="has no option 'xyz'; there are model, example_inputs, forward_fn, whole_heads"
    ):
        dfpc.find_couplings(None, None, xyz=1)


@pytest.mark.parametrize(
    ("name", "option", "where"),
    [
        ("finetune", "epochs", "settings=FinetuneSettings(epochs=...)"),
        ("prune_and_tune", "epochs", "settings=ScheduleSettings(tuning=FinetuneSettings(epochs=...))"),
        ("prune_and_tune", "max_ratio", "pruning=PruneSettings(max_ratio=...)"),
        ("prune", "threads", "latency=LatencySettings(threads=...)"),
        ("repair", "count", "how=RepairSettings(count=...)"),
        ("ScheduleSettings", "lr", "tuning=FinetuneSettings(lr=...)"),
    ],
)
def test_options_that_belong_to_settings_are_answered_with_their_place(name, option, where):
    with pytest.raises(OptionNameError) as caught:
        getattr(dfpc, name)(**{option: 2})
    assert str(caught.value) == f"{name} has no option '{option}'; it belongs to the settings: {where}."


def test_signatures_stay():
    assert list(inspect.signature(dfpc.prune).parameters)[:3] == ["model", "example_inputs", "target"]


@pytest.mark.parametrize(
    ("option", "text"), [(name, f'the target, such as "{name}={budget.example:g}"') for name, budget in BUDGETS.items()]
)
def test_a_budget_belongs_into_the_target(option, text):
    with pytest.raises(OptionNameError) as caught:
        dfpc.prune(None, None, **{option: 0.5})
    assert str(caught.value) == f"prune has no option '{option}'; give it as {text}."


def test_other_functions_do_not_advise_options_of_prune():
    for function in (dfpc.prune_and_tune, dfpc.sensitivity, dfpc.finetune, PruneSettings):
        with pytest.raises(OptionNameError) as caught:
            function(pruning_ratio=0.5)
        assert "Torch-Pruning" not in str(caught.value)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 4)).eval()


X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES = TensorDataset(X, torch.zeros(4).long())
NEEDED = {
    "bgsc": {"model": small, "example_inputs": X},
    "build_model": {"spec": "test_resnet"},
    "compare": {"model": small, "example_inputs": X},
    "evaluate_model": {"model": small, "dataset": IMAGES},
    "export_onnx": {"model": small, "example_inputs": X, "path": "x.onnx"},
    "export_program": {"model": small, "example_inputs": X, "path": "x.pt2"},
    "find_couplings": {"model": small, "example_inputs": X},
    "finetune": {"model": small, "train": IMAGES},
    "follow_recipe": {"recipe": None, "output": "run"},
    "from_pretrained": {"name": "user/name"},
    "measure_latency": {"models": small, "inputs": X},
    "missing_operators": {"model": small, "example_inputs": X},
    "open_images": {"source": "digits", "split": "val"},
    "prune": {"model": small, "example_inputs": X, "target": "macs=0.8"},
    "prune_and_tune": {"model": small, "example_inputs": X, "target": "macs=0.8", "train": IMAGES},
    "push_to_hub": {"saved": "nowhere", "repo_id": "user/name"},
    "quantize_onnx": {"source": "x.onnx", "path": "y.onnx", "images": X},
    "repair": {"model": small, "original": small, "example_inputs": X},
    "replay": {"model": small, "example_inputs": X, "removed": {}},
    "save_pruned": {"pruned": small, "directory": "saved"},
    "sensitivity": {"model": small, "example_inputs": X},
    "DFPCPruner": {"model": small, "example_inputs": X, "importance": tp.importance.MagnitudeImportance()},
}
"""Arguments that functions need, by name."""
OPTIONS = {
    "compare": ("data", "score", "save_to"),
    "build_model": ("weights",),
    "evaluate_model": ("progress",),
    "finetune": ("val", "settings", "checkpoint"),
    "prune": ("evaluate", "latency", "forward_fn", "progress", "repair"),
    "prune_and_tune": ("settings", "pruning", "forward_fn"),
    "replay": ("forward_fn",),
    "save_pruned": ("directory",),
    "sensitivity": ("shares", "forward_fn"),
}
"""Options that take paths, functions, settings or images."""
NOTHING = {"int": 3, "list": ["a"], "dict": {"a": 1}, "object": object(), "dtype": torch.float32}


def arguments_of(name):
    return {own: value() if value is small else value for own, value in NEEDED[name].items()}


def test_every_function_is_here():
    found = {name for name in dfpc.__all__ if inspect.isfunction(getattr(dfpc, name))}
    of_operators, of_saved = {"composed", "rule", "rule_scope", "registered_rules"}, {"load_pruned", "read_manifest"}
    assert found - of_operators - of_saved == set(NEEDED) - {"DFPCPruner"}
    for name, needed in NEEDED.items():
        required = [p.name for p in inspect.signature(getattr(dfpc, name)).parameters.values() if p.default is p.empty]
        assert [own for own in required if own not in ("self", "options")] == list(needed)


@pytest.mark.parametrize("name", NEEDED)
def test_arguments_that_are_missing_are_named(name):
    needed = arguments_of(name)
    with pytest.raises(ArgumentError) as caught:
        getattr(dfpc, name)()
    assert str(caught.value) == f"{name} needs {' and '.join(needed)}, too: {name}({', '.join(needed)})."
    assert isinstance(caught.value, TypeError)


def test_too_many_positions_are_answered_with_the_signature():
    """As in Torch-Pruning's order: the model, the inputs, the importance."""
    model = torch.nn.Linear(2, 2)
    with pytest.raises(
        ArgumentError, match=r"^prune cannot be called so \(too many positional arguments\): prune\(model, "
    ) as info:
        dfpc.prune(model, torch.ones(1, 2), dfpc.DFPCImportance(), "macs=0.5")
    assert str(info.value).endswith("prune(model, example_inputs, target, option=...).")


def test_a_result_alone_is_not_enough_to_repair_or_export_it():
    with pytest.raises(
        ArgumentError, match=r"^repair needs original and example_inputs, too: repair\(model, original, ex"
    ):
        dfpc.repair(small())
    with pytest.raises(
        ArgumentError, match=r"^export_onnx needs path, too: export_onnx\(model, example_inputs, path\)\.$"
    ):
        dfpc.export_onnx(small(), "x.onnx")


@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize(
    ("name", "argument"), [(name, own) for name in NEEDED for own in (*NEEDED[name], *OPTIONS.get(name, ()))]
)
def test_an_argument_of_a_wrong_type_is_one_of_our_errors(name, argument, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if (argument, kind) == ("inputs", "list") or (argument, kind) == ("inputs", "dict"):
        pytest.skip("arguments of the user's own forward")
    if name == "push_to_hub" and argument == "repo_id":
        pytest.skip("is checked by the hub")
    with pytest.raises(DFPCError):
        getattr(dfpc, name)(**arguments_of(name) | {argument: NOTHING[kind]})


@pytest.mark.parametrize("function", [dfpc.evaluate_model, dfpc.finetune])
def test_the_name_of_a_data_set_is_opened_first(function):
    with pytest.raises(DFPCError, match=r"the text 'digits'; open the images first: open_images\('digits', split\)"):
        function(small(), "digits")


def test_images_without_labels():
    said = r"gives a Tensor in place of a pair of (images and labels|an image and its label)\."
    for images in (X, DataLoader(X)):
        with pytest.raises(DFPCError, match=said):
            dfpc.evaluate_model(small(), images)


def test_what_an_export_returns_is_quantized(tmp_path):
    pytest.importorskip("onnxruntime")
    exported = dfpc.export_onnx(small(), X, tmp_path / "x.onnx")
    assert dfpc.quantize_onnx(exported, tmp_path / "y.onnx", X).path.exists()


def test_a_single_share():
    assert dfpc.sensitivity(small(), X, shares=0.5).shares == (0.5,)


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda how: dfpc.prune(small(), X, "macs=0.8", repair=how), "repair"),
        (lambda how: dfpc.prune_and_tune(small(), X, "macs=0.8", IMAGES, repair=how), "repair"),
        (lambda how: dfpc.repair(small(), small(), X, how), "how"),
        (dfpc.RepairedImportance, "how"),
        (dfpc.RepairSettings, "method"),
        (RepairSection, "repair.method"),
    ],
)
def test_an_unknown_repair_is_answered_with_the_option_that_was_given(call, option):
    with pytest.raises(RepairError, match=rf"^{re.escape(option)}='merg' is none of .*; did you mean merge\?$"):
        call("merg")
    if option != "repair.method":
        with pytest.raises(RepairError, match=rf"^{option}='calibrate' needs images"):
            call("calibrate")
