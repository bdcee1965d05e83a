"""Options that a function does not have are answered with those that it has."""

import inspect

import pytest
import torch_pruning as tp

import dfpc_plugin as dfpc
from dfpc_plugin.errors import OptionNameError
from dfpc_plugin.option_names import TORCH_PRUNING
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.selection import BUDGETS

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
        ("iterative_steps", "give rescore=0.1, or use prune_and_tune to train between the steps."),
    ],
)
def test_options_of_torch_pruning_are_answered_with_ours(option, answer):
    with pytest.raises(OptionNameError) as caught:
        dfpc.prune(None, None, **{option: 1})
    assert str(caught.value) == f"prune has no option '{option}' (Torch-Pruning's pruners have it); {answer}"


def test_every_option_of_torch_prunings_pruners_has_an_answer():
    assert OF_PRUNERS - set(inspect.signature(dfpc.prune).parameters) == set(TORCH_PRUNING)


def test_other_options_are_listed():
    with pytest.raises(
        OptionNameError, match="has no option 'xyz'; there are model, example_inputs, forward_fn, whole_heads"
    ):
        dfpc.find_couplings(None, None, xyz=1)


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
