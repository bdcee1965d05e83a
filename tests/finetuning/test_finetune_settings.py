"""Settings that cannot be followed are refused by name, and step sizes follow their formulas."""

import math

import pytest
import torch

from dfpc_plugin.finetuning import FinetuneError, FinetuneSettings, ScheduleSettings
from dfpc_plugin.finetuning.optimiser import build_optimiser, build_schedule
from digit_runs import digit_net


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"epochs=0 is no number above 0; give 10, or steps=1000\."),
        ({"epochs": math.inf}, "epochs=inf is no number"),
        ({"steps": 2.5}, "steps=2.5 is no whole number of 1 or more"),
        ({"batch_size": 0}, "batch_size=0 is no whole number of 1 or more"),
        ({"batch_size": True}, "batch_size=True is no whole number"),
        ({"lr": "0.1"}, "lr='0.1' is no step size; give 0.01, say"),
        ({"lr": -1}, "lr=-1 is no step size"),
        ({"momentum": 1}, "momentum=1 is no momentum"),
        ({"weight_decay": -1}, "weight_decay=-1 is no number of 0 or more"),
        ({"schedule": "linear"}, "schedule='linear' is none of cosine, constant, step; choose one of them"),
        ({"warmup_steps": -1}, "warmup_steps=-1 is no whole number of 0 or more"),
        ({"label_smoothing": 1}, "label_smoothing=1 is no share of 0 to below 1"),
        ({"distill": 1.5}, "distill=1.5 is no share between 0 and 1"),
        ({"temperature": 0}, "temperature=0 is no number above 0"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8' is none of no, bf16, fp16"),
        ({"gradient_clip": 0}, "gradient_clip=0 is no number above 0; None for no limit"),
        ({"seed": -1}, "seed=-1 is no whole number"),
        ({"workers": 0.5}, "workers=0.5 is no whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every=0 is no whole number of 1 or more; None is allowed, too"),
        ({"epochs": None}, "epochs=None is no number above 0"),
    ],
)
def test_settings_that_cannot_be_followed(arguments, message):
    with pytest.raises(FinetuneError, match=message):
        FinetuneSettings(**arguments)


def test_schedules_that_cannot_be_followed():
    for share in (0, 1):
        with pytest.raises(FinetuneError, match=f"share={share} is no share of the channels"):
            ScheduleSettings(share=share)
    with pytest.raises(FinetuneError, match="lr=0 is no step size"):
        ScheduleSettings(step_sizes=(0.1, 0))
    with pytest.raises(
        FinetuneError, match="tuning has mixed_precision='no' and final 'bf16'; one run has one of them"
    ):
        ScheduleSettings(final=FinetuneSettings(mixed_precision="bf16"))


def test_the_defaults_are_the_papers():
    schedule = ScheduleSettings()
    assert schedule.share == 0.01
    assert [(c.lr, c.epochs, c.batch_size, c.schedule) for c in schedule.courses()] == [
        (lr, 1, 256, "constant") for lr in (1e-3, 1e-4, 1e-5)
    ]
    final = schedule.final
    assert (final.epochs, final.batch_size, final.lr, final.momentum, final.weight_decay) == (90, 512, 0.1, 0.9, 1e-4)
    assert final.schedule == "cosine"


def closed_form(settings, step, steps):
    if step < settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    return (
        settings.lr
        * {
            "cosine": (1 + math.cos(math.pi * step / steps)) / 2,
            "constant": 1.0,
            "step": 0.1 ** ((step >= steps / 2) + (step >= 3 * steps / 4)),
        }[settings.schedule]
    )


@pytest.mark.parametrize("schedule", ["cosine", "constant", "step"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_step_sizes_follow_the_formula(schedule, warmup):
    settings = FinetuneSettings(lr=0.3, schedule=schedule, warmup_steps=warmup)
    optimiser = build_optimiser(digit_net(), settings)
    follow = build_schedule(optimiser, settings, 40)
    for step in [*range(40), 3, 39, 0]:  # in any order: a run that is taken up starts in the middle
        follow.step_update(step)
        for group in optimiser.param_groups:
            assert group["lr"] == pytest.approx(closed_form(settings, step, 40), abs=1e-12)


def test_norms_and_biases_do_not_decay():
    model = digit_net()
    groups = build_optimiser(model, FinetuneSettings(weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    assert decayed == {id(p) for p in model.parameters() if p.dim() > 1}


def test_unknown_optimisers_and_frozen_models():
    with pytest.raises(FinetuneError, match=r"timm has no optimizer='sdg' .*list_optimizers"):
        build_optimiser(digit_net(), FinetuneSettings(optimizer="sdg"))
    with pytest.raises(FinetuneError, match="no parameter that requires a gradient"):
        build_optimiser(digit_net().requires_grad_(False), FinetuneSettings())


def test_sgd_is_sgd():
    """One step by hand: Nesterov's momentum and decay, from zero."""
    model = torch.nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    optimiser = build_optimiser(model, FinetuneSettings(lr=0.5, momentum=0.9, weight_decay=0.1))
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    gradient = 1 + 0.1 * before
    assert torch.allclose(model.weight, before - 0.5 * (gradient + 0.9 * gradient), atol=1e-6)
