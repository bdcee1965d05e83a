"""Integer inputs keep the values that the user gave; positions that depend on data are integers that tell of no channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import find_couplings, map_couplings
from dfpc_plugin.errors import ValueDependentError
from zero_cut import error_of_cut, random_units, randomise

IDS = torch.tensor([[3, 1, 4, 2], [5, 2, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


class Reader(nn.Module):
    """A token model in small: `select` makes of features, tokens and mask what the head reads."""

    def __init__(self, select: Callable[..., Tensor]) -> None:
        super().__init__()
        self.select, self.table = select, nn.Embedding(8, 12)
        self.mix, self.score, self.head = nn.Linear(12, 16), nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.select(self, self.mix(self.table(ids)).relu(), ids, mask))


def at_the_end(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """As CLIP picks the token with the largest number."""
    return x[torch.arange(x.shape[0]), ids.argmax(-1)]


def without_padding(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    if bool((mask == 1).all()):
        raise AssertionError("the mask has zeros")
    x = x * mask[..., None]
    return x.sum(1) / mask.sum(1, keepdim=True)


def branches(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    if int(mask.sum()) != 6 or ids.max().item() != 5 or not torch.any(ids.ne(2) & mask.bool()):
        raise AssertionError("values are what the user gave")
    return x[:, 0]


def masked_logits(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    logits = m.score(x).squeeze(-1) + (1.0 - mask.to(x.dtype)) * torch.finfo(x.dtype).min
    return (logits.softmax(-1)[..., None] * x).sum(1)


def one_hot(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    return (F.one_hot(ids, 4 * 2).sum(-1, keepdim=True) * x).mean(1)


def best(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """As detectors pick their queries."""
    _, index = m.score(x).squeeze(-1).topk(2, dim=1)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1])).mean(1)


def best_by_index(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    index = m.score(x).squeeze(-1).argmax(1)
    assert index.dtype == torch.long
    return x[torch.arange(x.shape[0]), index]


def in_order(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    values, index = m.score(x).squeeze(-1).sort(dim=1)
    assert index.dtype == torch.long and values.dtype == x.dtype
    return torch.take_along_dim(x, index[..., None].expand_as(x), 1)[:, -1]


def guarded(m: Any, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    zero = x.abs().amax(-1, keepdim=True) == 0
    assert zero.dtype == torch.bool
    return torch.where(zero, torch.zeros_like(x), x / 2).mean(1)


SELECTIONS = [at_the_end, without_padding, branches, masked_logits, one_hot, best, best_by_index, in_order, guarded]


@pytest.mark.parametrize("select", SELECTIONS)
def test_models_of_tokens_are_scored_and_cut(select: Callable[..., Tensor]) -> None:
    model = randomise(Reader(select).double().eval())
    inputs = (IDS, MASK)
    for ranking in ("published", "relative", "expected"):
        scores = dfpc.bgsc(model, inputs, ranking=ranking)
        assert (scores["mix"] > 0).all() and (scores["table"] > 0).all()
    couplings = map_couplings(model, inputs)
    assert next(c for c in couplings.couplings if c.name == "mix").protected is None
    assert error_of_cut(model, couplings, inputs, random_units(couplings, 0.3)) < 1e-12


def test_an_embedding_writes_its_coupling() -> None:
    found = {c.name: c for c in find_couplings(Reader(at_the_end), (IDS, MASK))}
    assert found["table"].feed_in == ("table",) and "mix" in found["table"].feed_out


@pytest.mark.parametrize("pick", [torch.argmax, torch.argmin, torch.argsort])
def test_positions_among_channels_keep_them(pick: Callable[..., Tensor]) -> None:
    """A class that a network answers with is a position among the outputs of its last layer."""

    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.last = nn.Linear(4, 8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return pick(self.last(self.a(x).relu()), dim=-1)

    found = {c.channels: c.protected for c in find_couplings(Answer(), torch.rand(2, 4))}
    assert found[6] and found[8] is None


@pytest.mark.parametrize(
    "ask", [lambda x: x[x > 0], lambda x: torch.where(x > 0), lambda x: x.sum().item(), lambda x: bool(x.sum() > 0)]
)
def test_what_needs_values_is_refused_in_words(ask: Callable[[Tensor], Any]) -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            ask(x)
            return self.b(x)

    for call in (dfpc.bgsc, find_couplings):
        with pytest.raises(ValueDependentError, match="forward_fn"):
            call(Asks(), torch.rand(2, 4))


def test_bytes_are_data() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x.float() / 255).relu())

    model = Bytes()
    image = torch.randint(0, 255, (1, 3, 8, 8), dtype=torch.uint8)
    as_floats = nn.Sequential(model.a, nn.ReLU(), model.b)
    found, wanted = dfpc.bgsc(model, image), dfpc.bgsc(as_floats, image.float())
    torch.testing.assert_close(found["a"], wanted["0"])


LOOKUPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "table": lambda m, x: torch.linspace(0, 1, 8, dtype=x.dtype)[(x.sigmoid() * 7).long()].mean(1),
    "buffer": lambda m, x: m.levels[(x.sigmoid() * 7).long()].mean(1),
    "embedding": lambda m, x: m.table((x.mean(1).sigmoid() * 7).long()).sum(-1),
    "buckets": lambda m, x: torch.bucketize(x, m.levels).to(x.dtype).mean(1),
    "take": lambda m, x: torch.take(m.levels, (x.sigmoid() * 7).long()).mean(1),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_channels_that_are_positions_stay(name: str) -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.mix, self.head = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)
            self.table = nn.Embedding(8, 5)
            self.register_buffer("levels", torch.linspace(-1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(LOOKUPS[name](self, self.mix(self.a(x).relu())))

    model = Quantised().double().eval()
    inputs = torch.rand(2, 5, 4, dtype=torch.float64)
    assert all(torch.isfinite(scores).all() for scores in dfpc.bgsc(model, inputs).values())
    couplings = map_couplings(model, inputs)
    assert any(c.channels == 6 and c.protected for c in couplings.couplings)
    assert error_of_cut(model, couplings, inputs, random_units(couplings, 0.3)) < 1e-12


def test_one_hot_needs_to_know_how_many() -> None:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.one_hot(self.a(x).argmax(1)).to(x.dtype))

    with pytest.raises(ValueDependentError, match="one_hot without num_classes"):
        find_couplings(Codes(), torch.rand(2, 4))
