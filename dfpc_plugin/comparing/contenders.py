"""The criteria that can be compared, by name, and the gradients that some of them need."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.comparing.cells import CompareError
from dfpc_plugin.criteria import AUTO, CRITERIA, TAYLOR, Criterion
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.pruning.trial import copy_of
from dfpc_plugin.repairing.inputs import collected
from dfpc_plugin.repairing.settings import Images

__all__ = ["contenders", "label_of_name", "own_label", "with_gradients"]

_IMAGES, _BATCH = 128, 32

_MORE = {
    AUTO: Criterion(
        AUTO, "Default of prune", lambda: None, "the error at the outputs, after the repair if one follows"
    ),
    TAYLOR.name: TAYLOR,
}
"""Criteria that a comparison knows beside the registered ones."""


def contenders(criteria: Iterable[str | Criterion]) -> list[Criterion]:
    """Look criteria up by name, or take the user's own; raise a CompareError if one is unknown or given twice."""
    found: dict[str, Criterion] = {}
    for given in criteria:
        criterion = _MORE.get(given, given) if isinstance(given, str) else given
        if not isinstance(criterion, Criterion):
            criterion = CRITERIA.find(criterion, CompareError, *_MORE, setting="criteria")
        if criterion.name in found:
            raise CompareError(f"criteria: '{criterion.name}' is given twice; give it once.")
        found[criterion.name] = criterion
    return list(found.values())


def own_label(criterion: Criterion) -> str:
    """How tables call a criterion of the user's own; empty for one that goes by its name."""
    return "" if _known(criterion.name) == criterion else criterion.label


def label_of_name(name: str) -> str:
    """How tables and plots call a criterion; one that is not registered goes by its name."""
    known = _known(name)
    return name if known is None else known.label


def _known(name: str) -> Criterion | None:
    return _MORE.get(name) or CRITERIA.get(name)


def with_gradients(model: nn.Module, images: Images, example_inputs: ExampleInputs) -> nn.Module:
    """Return a copy of a classifier with the gradients of the cross-entropy between its outputs and its own answers.

    Of the images, 128 are used. A model that is no classifier of images raises a CompareError.
    """
    copied = copy_of(model).requires_grad_(True)
    copied.zero_grad()
    parts = collected(images, _IMAGES, model, 0, example_inputs).parts
    with evaluating(copied), torch.inference_mode(False), torch.enable_grad():
        for batch in (batch for part in parts if isinstance(part, Tensor) for batch in part.split(_BATCH)):
            outputs = copied(batch)
            if not isinstance(outputs, Tensor) or outputs.dim() != 2:
                break
            F.cross_entropy(outputs, outputs.argmax(1), reduction="sum").backward()
        gradients = {name: own.grad for name, own in copied.named_parameters() if own.grad is not None}
    if not gradients:
        raise CompareError(
            "The criterion needs gradients of a classifier of images, and the model is none; leave it out."
        )
    for name, parameter in copied.named_parameters():  # at its end, `evaluating` has put back that there were none
        parameter.grad = gradients.get(name)
    return copied
