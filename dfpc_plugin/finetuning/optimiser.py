"""The loss, timm's optimisers and schedules, and the state of an optimiser, which goes through files and over cuts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from dfpc_plugin.finetuning.settings import CheckpointError, FinetuneError, FinetuneSettings

_DROPS = (0.5, 0.75)
"""Where the schedule "step" divides by ten, as the CIFAR ResNets were trained."""


def build_optimiser(model: nn.Module, settings: FinetuneSettings) -> Optimizer:
    """Build the optimiser of a model's parameters; raise a FinetuneError if it is unknown, or nothing is to be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FinetuneError("The model has no parameter that requires a gradient; set requires_grad of those to tune.")
    try:
        return create_optimizer_v2(
            model, settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise FinetuneError(
            f"timm has no optimizer={settings.optimizer!r} ({error}); timm.optim.list_optimizers() names all."
        ) from error


def build_schedule(optimiser: Optimizer, settings: FinetuneSettings, steps: int) -> Any:
    """Build timm's schedule of a whole course, which sets the learning rate of step `s` when told `step_update(s)`."""
    common: dict[str, Any] = {
        "warmup_t": settings.warmup_steps,
        "warmup_lr_init": 0.0,
        "warmup_prefix": False,
        "t_in_epochs": False,
    }
    if settings.schedule == "cosine":
        return CosineLRScheduler(optimiser, t_initial=steps, **common)
    # timm drops one step before the number it is given.
    drops = [round(share * steps) + 1 for share in _DROPS] if settings.schedule == "step" else []
    return MultiStepLRScheduler(optimiser, decay_t=drops, decay_rate=0.1, **common)


def objective(outputs: Tensor, labels: Tensor, taught: Tensor | None, settings: FinetuneSettings) -> Tensor:
    """Cross-entropy, and the distance from a teacher as far as it is asked for.

    `outputs` are `(N, classes)`; `labels` are `(N,)`, or shares `(N, classes)` of images that were mixed.
    """
    smoothing = 0.0 if labels.dim() == 2 else settings.label_smoothing  # timm's mixup has smoothed already
    loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    if taught is None:
        return loss
    return (1 - settings.distill) * loss + settings.distill * distillation_loss(outputs, taught, settings.temperature)


def distillation_loss(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return how far the student is from the teacher: Hinton's, the divergence of softened outputs.

    It is multiplied by the temperature's square, so that gradients are of one size whatever the temperature.
    """
    student, teacher = F.log_softmax(outputs / temperature, 1), F.log_softmax(taught / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def mixed(images: Tensor, labels: Tensor, classes: int, settings: FinetuneSettings) -> tuple[Tensor, Tensor]:
    """Mix images of one batch in pairs, by timm; as they are if the settings do not ask for it."""
    if not (settings.mixup or settings.cutmix):
        return images, labels
    mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.label_smoothing, num_classes=classes)
    with torch.no_grad():
        return mix(images, labels)


@dataclass(frozen=True)
class OptimiserState:
    """What an optimiser remembers.

    Attributes:
        tensors: By "state/PARAMETER/NAME" or "groups/NUMBER/NAME".
        plain: Everything else, in the same two parts, as JSON has it.
    """

    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def of(cls, optimiser: Optimizer, model: nn.Module) -> OptimiserState:
        """Take the state of a model's optimiser; raise a CheckpointError if it is more than tensors and plain data."""
        content, names = optimiser.state_dict(), _names(optimiser, model)
        kept = {
            "state": {names[number]: values for number, values in content["state"].items()},
            "groups": {
                str(number): {name: value for name, value in group.items() if name != "params"}
                for number, group in enumerate(content["param_groups"])
            },
        }
        tensors: dict[str, Tensor] = {}
        plain: dict[str, dict[str, dict[str, Any]]] = {"state": {}, "groups": {}}
        for part, entries in kept.items():
            for owner, values in entries.items():
                plain[part][owner] = {}
                for name, value in values.items():
                    if isinstance(value, Tensor):
                        tensors[f"{part}/{owner}/{name}"] = (
                            value.detach().cpu().clone(memory_format=torch.contiguous_format)
                        )
                    else:
                        plain[part][owner][name] = _plain(value, name, optimiser)
        return cls(tensors, plain)

    def give_to(self, optimiser: Optimizer, model: nn.Module, *, groups: bool) -> None:
        """Let a fresh optimiser for the same model go on from here; with `groups`, with its learning rate and the like."""
        own = optimiser.state_dict()["param_groups"]
        numbers = {name: number for number, name in _names(optimiser, model).items()}
        kept = {
            part: {owner: dict(values) for owner, values in entries.items()} for part, entries in self.plain.items()
        }
        for key, value in self.tensors.items():
            part, owner, name = key.split("/")
            kept[part][owner][name] = value.clone()
        state = {numbers[name]: values for name, values in kept["state"].items()}
        if groups:
            own = [group | kept["groups"][str(number)] for number, group in enumerate(own)]
        optimiser.load_state_dict({"state": state, "param_groups": own})

    def require_fits(self, optimiser: Optimizer, model: nn.Module) -> None:
        """Raise a CheckpointError unless a fresh optimiser can go on from here, which a step without gradients shows.

        The step changes the parameters of `model`, which has to be a copy.
        """
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        try:
            self.give_to(optimiser, model, groups=True)
            optimiser.step()
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"What the checkpoint holds of the optimiser is not of {type(optimiser).__name__} for this model ({error}); "
                f"take an older checkpoint, or start anew in another directory."
            ) from error

    def after(self, cut: Callable[[nn.Module], nn.Module], model: nn.Module) -> OptimiserState | None:
        """Return the state for the cut model; None if something in it does not have the shape of its parameter.

        The state is put in the place of the parameters of a copy of `model`, the model before the cut, and the copy is cut.
        """
        parameters = dict(model.named_parameters())
        result = {key: value for key, value in self.tensors.items() if not key.startswith("state/") or value.dim() == 0}
        rest = {key: value for key, value in self.tensors.items() if key not in result}
        for kind in {key.split("/")[2] for key in rest}:
            mine = {key.split("/")[1]: value for key, value in rest.items() if key.endswith(f"/{kind}")}
            if any(value.shape != parameters[name].shape for name, value in mine.items()):
                return None
            shadow = copy.deepcopy(model)
            with torch.no_grad():
                for name, parameter in shadow.named_parameters():
                    if name in mine:
                        parameter.copy_(mine[name])
            left = dict(cut(shadow).named_parameters())
            result |= {f"state/{name}/{kind}": left[name].detach().cpu().clone() for name in mine}
        return OptimiserState(result, self.plain)


def _names(optimiser: Optimizer, model: nn.Module) -> dict[int, str]:
    """Names of the parameters by the numbers that the optimiser has for them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    return {number: names[id(parameter)] for number, parameter in enumerate(ordered)}


def _plain(value: Any, name: str, optimiser: Optimizer) -> Any:
    """A value that JSON gives back as it was, tuples as lists."""
    value = list(value) if isinstance(value, tuple) else value
    try:
        survives = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        survives = False
    if not survives:
        raise CheckpointError(
            f"The optimiser {type(optimiser).__name__} keeps '{name}' as {type(value).__name__}, which is neither a tensor nor "
            f"plain data, so that a run with it cannot be saved; choose another optimizer."
        )
    return value
