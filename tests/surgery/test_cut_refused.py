"""A cut is whole or not at all."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from cut_nets import IMAGE, TOKENS, Attention, Residual, assert_same, built, inputs_of, only, snapshot, with_gradients
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.errors import CutError, DFPCError
from dfpc_plugin.surgery import cut
from zero_cut import random_units, removed_channels


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Residual, "_kept"),
        (Residual, "_kept_of_groups"),
        (Residual, "described"),
        (Attention, "_kept"),
        (Attention, "described"),
    ],
)
def test_a_cut_that_fails_half_way_leaves_everything_as_it_was(
    kind: type[nn.Module], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("dfpc_plugin.surgery.cut")
    model = with_gradients(built(kind))
    couplings = map_couplings(model, inputs_of(model))
    channels = removed_channels(couplings, random_units(couplings, least=1))
    before, gone = snapshot(model), couplings.channels.removed.clone()
    native, calls = getattr(module, broken), []

    def fail_later(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > 2 or broken == "_kept_of_groups":
            raise KeyboardInterrupt
        return native(*args)

    monkeypatch.setattr(module, broken, fail_later)
    with pytest.raises(KeyboardInterrupt):
        cut(model, couplings, channels)
    assert_same(before, snapshot(model))
    assert torch.equal(gone, couplings.channels.removed)
    monkeypatch.undo()
    cut(model, couplings, channels)
    assert torch.isfinite(model(inputs_of(model))).all()


def test_a_cut_that_is_refused_changes_nothing() -> None:
    model = with_gradients(built(Attention))
    couplings = map_couplings(model, TOKENS)
    number = only(couplings, "qkv.weight")
    before = snapshot(model)
    with pytest.raises(CutError, match=r"These channels cannot be cut: .* (equally many|asks for)"):
        cut(model, couplings, couplings.couplings[number].blocks[:1, 0])
    assert_same(before, snapshot(model))
    assert not couplings.channels.removed.any()
    assert issubclass(CutError, DFPCError)


def test_a_model_that_is_not_the_one_that_was_looked_at() -> None:
    couplings = map_couplings(built(Residual), IMAGE)
    channels = couplings.couplings[only(couplings, "stem.weight")].blocks[:, 0]
    wider = built(Residual)
    wider.stem = nn.Conv2d(3, 9, 3)
    before = snapshot(wider)
    with pytest.raises(CutError, match=r"'stem.weight' has 9 entries in dimension 0 where 6 were found"):
        cut(wider, couplings, channels)
    assert_same(before, snapshot(wider))
    del wider.head
    with pytest.raises(CutError, match=r"The model has no 'head.weight' any more|'stem.weight' has 9"):
        cut(wider, couplings, channels)


def test_what_is_protected_is_not_cut() -> None:
    model = built(Residual)
    couplings = map_couplings(model, IMAGE)
    classes = couplings.couplings[only(couplings, "head.weight")]
    with pytest.raises(CutError, match="cannot be pruned: it is the model's output"):
        cut(model, couplings, classes.blocks[:, 0])
    with pytest.raises(CutError, match="cannot be pruned: it is not a channel"):
        cut(model, couplings, torch.tensor([0]))


def test_what_is_gone_cannot_go_again() -> None:
    model = built(Residual)
    couplings = map_couplings(model, IMAGE)
    channels = couplings.couplings[only(couplings, "stem.weight")].blocks[:, 0]
    cut(model, couplings, channels)
    with pytest.raises(CutError, match="cut before"):
        cut(model, couplings, channels)
