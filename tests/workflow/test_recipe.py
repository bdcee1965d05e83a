import dataclasses
import math
from pathlib import Path

import pytest
import yaml

from dfpc_plugin.data import DataError
from dfpc_plugin.errors import DFPCError, RepairError
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.workflow import Recipe, RecipeError, recipe_text
from dfpc_plugin.workflow.recipe import changes_text
from dfpc_plugin.workflow.sections import DataSection, ModelSection, PruneSection, RepairSection

MODEL = ModelSection("test_resnet")
IMAGES = DataSection(train="digits", val="digits")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: ModelSection("m", pretrained=True, weights=Path("w")),
            "pretrained and weights both say where weights come from",
        ),
        (lambda: ModelSection("m", size=0), "size must be 1 or more, not 0."),
        (lambda: ModelSection("m", batch_size=-3), "batch_size must be 1 or more, not -3."),
        (lambda: DataSection(limit=0), "limit must be 1 or more, not 0."),
        (lambda: DataSection(batch_size=0), "batch_size must be 1 or more, not 0."),
        (lambda: DataSection(workers=-1), "workers must be 0 or more, not -1."),
        (lambda: DataSection(std=(0.2, 0.0, 0.2)), "std[1] must be above 0, not 0.0."),
        (lambda: DataSection(std=(math.nan,)), "std[0] must be above 0, not nan."),
        (lambda: PruneSection("dfcp"), "importance='dfcp' is none of auto, dfpc, "),
        (lambda: PruneSection("dfcp"), "did you mean dfpc?"),
        (lambda: PruneSection("zzz"), "choose one of them."),
        (lambda: RepairSection("merge", count=1), "count must be 2 or more, not 1."),
        (lambda: RepairSection("calibrate", ridge=-1.0), "ridge must be 0 or more, not -1.0"),
        (lambda: RepairSection(memory_gib=0), "memory_gib must be above 0, not 0"),
        (lambda: RepairSection(seed=-1), f"seed must be 0 to {2**63 - 1}, not -1."),
        (lambda: Recipe(MODEL, seed=2**63), f"seed must be 0 to {2**63 - 1}, not {2**63}."),
        (lambda: Recipe(MODEL, target="mac=0.5"), "Unknown target 'mac=0.5'; did you mean macs?"),
        (
            lambda: Recipe(MODEL, target="speedup=2, max_drop=1"),
            "max_drop in the target needs images; say where they are in data.val.",
        ),
        (lambda: Recipe(MODEL, curve=(0.5,)), "a curve needs images; say where they are in data.val."),
        (
            lambda: Recipe(MODEL, repair=RepairSection("calibrate")),
            "repair.method=calibrate needs images; say where they are in data.train.",
        ),
        (
            lambda: Recipe(MODEL, finetune=FinetuneSettings()),
            "fine-tuning needs images; say where they are in data.train.",
        ),
        (
            lambda: Recipe(MODEL, data=IMAGES, curve=(0.5, 1.5)),
            "curve[1] must be above 0 and below 1, not 1.5; give 0.8, say.",
        ),
        (
            lambda: Recipe(MODEL, "speedup=2", IMAGES, schedule=ScheduleSettings()),
            "goes step by step towards a target that is counted, and 'speedup=2' is measured",
        ),
        (
            lambda: Recipe(MODEL, data=IMAGES, schedule=ScheduleSettings(), finetune=FinetuneSettings()),
            "schedule has its own final tuning",
        ),
        (
            lambda: Recipe(MODEL, data=IMAGES, schedule=ScheduleSettings(), latency=LatencySettings()),
            "leave out schedule",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(make, text):
    with pytest.raises(DFPCError) as caught:
        make()
    assert text in str(caught.value)


def test_refusals_have_their_own_types():
    with pytest.raises(RecipeError):
        PruneSection("nothing")
    with pytest.raises(RecipeError):
        RepairSection("synthetic", steps=0)
    with pytest.raises(RepairError):
        RepairSection("synthetical")
    with pytest.raises(DataError):
        dataclasses.replace(IMAGES.augment, padding=-1)


def test_the_text_reads_back():
    recipe = Recipe(
        ModelSection("cifar/resnet20", {"num_classes": 7, "x": "null"}, weights=Path("a b/ü.pth")),
        "macs=0.5, params=0.5",
        dataclasses.replace(IMAGES, mean=(0.1, 1e-7, 0.3), root=Path("r")),
        PruneSection("lamp", ignored_layers=("layer4.*", "*", "no")),
        finetune=FinetuneSettings(lr=1e-5, mixed_precision="no"),
        latency=LatencySettings(threads=1),
        curve=(0.8, 0.5),
    )
    content = yaml.safe_load(recipe_text(recipe))
    assert content["model"] == {
        "name": "cifar/resnet20", "options": {"num_classes": 7, "x": "null"}, "pretrained": False, "weights": "a b/ü.pth",
        "ignore_surplus": False, "size": None, "batch_size": 1, "factory": None,
    }  # fmt: skip
    assert content["prune"]["ignored_layers"] == ["layer4.*", "*", "no"]
    assert content["data"]["mean"] == [0.1, 1e-7, 0.3]
    assert content["finetune"]["mixed_precision"] == "no"
    assert content["curve"] == [0.8, 0.5]
    assert content["schedule"] is None


def test_every_course_of_training_is_known():
    tuning, final = FinetuneSettings(steps=3), FinetuneSettings(steps=4)
    schedule = ScheduleSettings(step_sizes=(0.1, 0.2), tuning=tuning, final=final)
    assert Recipe(MODEL, data=IMAGES, schedule=schedule).courses == [
        dataclasses.replace(tuning, lr=0.1), dataclasses.replace(tuning, lr=0.2), final
    ]  # fmt: skip
    assert Recipe(MODEL, data=IMAGES, schedule=dataclasses.replace(schedule, step_sizes=(), final=None)).courses == []
    assert Recipe(MODEL, data=IMAGES, finetune=tuning).courses == [tuning]


@pytest.mark.parametrize(
    ("changes", "tunes", "long"),
    [
        ({}, False, False),
        ({"repair": RepairSection("merge")}, False, False),
        ({"repair": RepairSection("synthetic")}, False, True),
        ({"repair": RepairSection("calibrate")}, False, True),
        ({"finetune": FinetuneSettings()}, True, True),
        ({"schedule": ScheduleSettings()}, True, True),
    ],
)
def test_what_takes_long_is_known(changes, tunes, long):
    recipe = Recipe(MODEL, data=IMAGES, **changes)
    assert (recipe.tunes, recipe.takes_long) == (tunes, long)


def test_changes_are_what_differs_from_the_defaults():
    recipe = Recipe(
        ModelSection("resnet50", pretrained=True),
        "macs=0.5",
        IMAGES,
        repair=RepairSection("merge"),
        finetune=FinetuneSettings(epochs=3),
    )
    found = yaml.safe_load(changes_text(recipe))
    assert found.pop("data") == {"train": IMAGES.train, "val": IMAGES.val}
    assert found == {
        "target": "macs=0.5",
        "model": {"name": "resnet50", "pretrained": True},
        "repair": {"method": "merge"},
        "finetune": {"epochs": 3},
    }
