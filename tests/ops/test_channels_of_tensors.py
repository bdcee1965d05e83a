"""Tensors that a forward makes or writes, tables, TorchScript, several inputs, outputs; what must stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brute_force import Between, check, layer
from dfpc_plugin.couplings import find_couplings

ROWS = torch.rand(2, 5, 3, dtype=torch.float64)
IMAGE = torch.rand(2, 2, 4, 4, dtype=torch.float64)
A = [layer("a")]


def net(function: Any, joint: int = 3, **parts: Any) -> nn.Module:
    return Between(lambda m, x: m.out(function(m, m.a(x))), a=nn.Linear(3, 3), out=nn.Linear(joint, 2), **parts)


def shifted(m: Any, h: Tensor) -> Tensor:
    result = h.new_zeros(h.shape)
    result[:, 1:] = h[:, :-1]
    return result + h


def windows(m: Any, h: Tensor) -> Tensor:
    result = torch.zeros_like(h)
    for start in range(2):
        result[:, start::2] = h[:, start::2] * (start + 1)
    return result


def added_to_a_view(m: Any, h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1:].mul_(2)
    h[:, 0] += 1.5 * h[:, 1]
    return h


def chunk_in_place(m: Any, h: Tensor) -> Tensor:
    first, second = h.clone().chunk(2, 1)[:2]
    first[:, :2].add_(second)
    return first


def padded_by_hand(m: Any, h: Tensor) -> Tensor:
    return torch.cat((h.new_zeros(2, 2, h.shape[-1]), h), 1)


def written_in_halves(m: Any, h: Tensor) -> Tensor:
    result = h.new_empty(2, 5, 2 * h.shape[-1])
    result[..., : h.shape[-1]] = h
    result[..., h.shape[-1] :] = h.sin()
    return result


MADE = {
    "written by strided slices": (windows, 3),
    "views changed in place": (added_to_a_view, 3),
    "chunks changed in place": (chunk_in_place, 3),
    "padded by hand": (padded_by_hand, 3),
    "written in halves": (written_in_halves, 6),
    "filled": (lambda m, h: h * torch.full_like(h, 2.0), 3),
    "masked": (lambda m, h: h.masked_fill(torch.arange(5)[:, None] > 2, 0.0), 3),
    "dropped": (lambda m, h: F.dropout(h, 0.5, training=False), 3),
    "random": (lambda m, h: h * h.new_empty(2, 1, 1).fill_(2.0), 3),
}


@pytest.mark.parametrize("name", MADE)
def test_tensors_that_the_forward_makes(name: str) -> None:
    function, joint = MADE[name]
    assert check(net(function, joint), ROWS, A) == 6


def test_zeros_written_in_part() -> None:
    """Rows that nothing was written to are zero for every channel; it is no mistake to keep the channels."""
    assert check(net(shifted), ROWS, A, exact=False) in (0, 6)


def test_a_token_table_has_columns_that_go_and_rows_that_stay() -> None:
    model = Between(
        lambda m, x: m.out(m.table(x) + m.places(torch.arange(5))),
        table=nn.Embedding(7, 3), places=nn.Embedding(5, 3), out=nn.Linear(3, 2),
    )  # fmt: skip
    reasons = {
        (piece.tensor, piece.dim): coupling.protected
        for coupling in find_couplings(model, torch.rand(2, 5, 1).mul(0).long().squeeze(-1))
        for piece in coupling.slices
    }
    assert "is a row of the table" in (reasons["table.weight", 0] or "")
    assert reasons["table.weight", 1] == reasons["places.weight", 1]


def test_position_embeddings_lose_channels_and_keep_positions() -> None:
    model = net(lambda m, h: h + m.places, places=torch.rand(1, 5, 3))
    assert check(model, ROWS, [*A, (("places", 2),)]) == 6
    assert check(model, ROWS, [(("places", 1),)]) == 0


def test_a_relative_position_table_is_indexed_by_constants() -> None:
    def run(m: Any, h: Tensor) -> Tensor:
        index = (torch.arange(5)[:, None] - torch.arange(5)[None] + 4).reshape(-1)
        bias = m.table[index].view(5, 5, -1).permute(2, 0, 1)
        q = h.unflatten(-1, (m.heads, -1)).transpose(1, 2)
        return (((q @ q.mT) + bias).softmax(-1) @ q).transpose(1, 2).flatten(2)

    model = Between(
        lambda m, x: m.out(run(m, m.a(x))), a=nn.Linear(3, 6), table=torch.rand(9, 2), out=nn.Linear(6, 2), heads=2
    )
    assert check(model, ROWS, A) == 18
    assert check(model, ROWS, [(("table", 1),)]) == 0


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sin(self.fc(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_submodule_is_followed() -> None:
    model = Between(lambda m, x: m.out(m.gate(m.a(x))), a=nn.Linear(3, 3), gate=Gate(), out=nn.Linear(3, 2))
    plain = {frozenset((s.tensor, s.dim) for s in c.slices) for c in find_couplings(model, ROWS) if not c.protected}
    model.gate = torch.jit.script(model.gate)
    scripted = find_couplings(model, ROWS)
    free = {frozenset((s.tensor, s.dim) for s in c.slices) for c in scripted if not c.protected}
    assert free <= plain, "what a scripted module holds may stay, but nothing else may become free"
    assert (
        all(c.protected for c in scripted if any(s.tensor == "a.weight" and s.dim == 0 for s in c.slices))
        or free == plain
    )


def test_two_inputs_meet() -> None:
    model = Between(lambda m, x, y: m.out(m.a(x) + m.b(y)), a=nn.Linear(3, 3), b=nn.Linear(4, 3), out=nn.Linear(3, 2))
    inputs = (ROWS, torch.rand(2, 5, 4, dtype=torch.float64))
    assert check(model, inputs, [layer("a"), layer("b")]) == 6
    named = Between(lambda m, x, y: m.out(m.a(x) * m.b(y)), a=model.a, b=model.b, out=model.out)
    assert check(named, {"y": inputs[1], "x": ROWS}, [layer("a"), layer("b")]) == 6


def test_channels_that_meet_an_input_stay() -> None:
    model = net(lambda m, h: h + ROWS)
    assert check(model, ROWS, A) == 0


def test_channels_in_nested_outputs_stay() -> None:
    model = Between(
        lambda m, x: {"logits": m.out(m.b(m.a(x))), "features": [m.b(m.a(x))]},
        a=nn.Linear(3, 3), b=nn.Linear(3, 3), out=nn.Linear(3, 2),
    )  # fmt: skip
    assert check(model, ROWS, A, ["b"]) == 6
    assert check(model, ROWS, [layer("b")]) == 0
    assert check(model, ROWS, [layer("out")], ["a"]) == 0


STAY = {
    "resampled channels": (lambda m, h: F.interpolate(h, 4), 4, "resamples"),
    "sorted channels": (lambda m, h: h.sort(-1)[0], 3, None),
    "picked channels": (lambda m, h: h[..., [2, 0]], 2, "fixed indices"),
    "scaled by constants": (lambda m, h: h * torch.arange(3.0), 3, "of fixed size"),
    "one channel by its position": (lambda m, h: h[..., 0:1] + h[..., 1:2], 1, None),
    "meets the tokens": (lambda m, h: h[:, :3] + h[:, :3].mT, 3, "of fixed size"),
}


@pytest.mark.parametrize("name", STAY)
def test_what_depends_on_positions_among_channels_stays(name: str) -> None:
    function, joint, reason = STAY[name]
    model = net(function, joint)
    assert check(model, ROWS, A, exact=False) in (0, 1)
    reasons = [c.protected for c in find_couplings(model, ROWS) if c.name == "a" and "a" in c.feed_in]
    assert reason is None or any(reason in (text or "") for text in reasons), reasons
