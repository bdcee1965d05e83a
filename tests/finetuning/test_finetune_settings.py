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
        ({"epochs": 0}, r"^epochs must be above 0, not 0; give 10, or steps=1000\.$"),
        ({"epochs": math.inf}, "epochs must be above 0, not inf"),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"lr": "0.1"}, "lr must be a number, not '0.1'"),
        ({"lr": -1}, "lr must be above 0, not -1; give 0.01, say"),
        ({"momentum": 1}, "momentum must be 0 or more and below 1, not 1; give 0.9, say"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more, not -1"),
        ({"schedule": "linear"}, "schedule must be one of 'cosine', 'constant', 'step', not 'linear'"),
        ({"schedule": "cosin"}, r"not 'cosin'; did you mean cosine\?$"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, not -1"),
        ({"label_smoothing": 1}, "label_smoothing must be 0 or more and below 1, not 1"),
        ({"distill": 1.5}, "distill must be 0 to 1, not 1.5"),
        ({"temperature": 0}, "temperature must be above 0, not 0"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of 'no', 'bf16', 'fp16', not 'fp8'"),
        ({"gradient_clip": 0}, "gradient_clip must be above 0, not 0"),
        ({"seed": -1}, f"seed must be 0 to {2**63 - 1}, not -1"),
        ({"workers": 0.5}, "workers must be a whole number, not 0.5"),
        ({"checkpoint_every": 0}, "checkpoint_every must be 1 or more, not 0"),
        ({"epochs": None}, "epochs must be a number, not None"),
    ],
)
def test_settings_that_cannot_be_followed(arguments, message):
    with pytest.raises(FinetuneError, match=message):
        FinetuneSettings(**arguments)


def test_schedules_that_cannot_be_followed():
    for share in (0, 1):
        with pytest.raises(FinetuneError, match=f"share must be above 0 and below 1, not {share}; give 0.01, say"):
            ScheduleSettings(share=share)
    with pytest.raises(FinetuneError, match=r"step_sizes\[1\] must be above 0, not 0"):
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
