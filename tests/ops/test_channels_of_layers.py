"""Convolutions of every kind, norms, shared and recurrent layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from brute_force import Between, check, layer, norm
from dfpc_plugin import bgsc
from dfpc_plugin.couplings import find_couplings, map_couplings
from zero_cut import error_of_cut, random_units

ROWS = torch.rand(2, 5, 3, dtype=torch.float64)
IMAGE = torch.rand(2, 2, 4, 4, dtype=torch.float64)
A = [layer("a")]


def conv(into: int, width: int, size: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(into, width, size, padding=size // 2, **options)


def tconv(into: int, width: int, **options: Any) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(into, width, 2, stride=2, **options)


def chain(**layers: nn.Module) -> nn.Module:
    """Layers in the order in which they are given."""

    def run(m: Any, x: Any) -> Any:
        for name in layers:
            x = getattr(m, name)(x)
        return x

    return Between(run, **layers)


def transposed(path: str) -> tuple[tuple[str, int], ...]:
    return ((f"{path}.weight", 1), (f"{path}.bias", 0))


def test_a_plain_chain_of_convolutions() -> None:
    assert check(chain(a=conv(2, 4, 3), out=conv(4, 2, 3, bias=False)), IMAGE, A) == 14


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_every_rank(rank: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    inputs = torch.rand(1, 2, *[3] * rank, dtype=torch.float64)
    assert check(chain(a=kind(2, 3, 2), out=kind(3, 2, 2)), inputs, A) == 6
    assert check(chain(a=kind(2, 3, 2), out=kind(3, 2, 2)), inputs[0], A) == 6, "without a batch axis"


def test_groups_that_read_keep_equally_many() -> None:
    """Every group of inputs may lose another position."""
    assert check(chain(a=conv(2, 6), out=conv(6, 4, 3, groups=2)), IMAGE, A) == 18


def test_groups_that_write_keep_equally_many() -> None:
    assert check(chain(a=conv(4, 6, groups=2), out=conv(6, 2)), torch.cat((IMAGE, IMAGE), 1), A, exact=False) == 18


def test_a_grouped_layer_between_two_others() -> None:
    model = chain(a=conv(2, 4), b=conv(4, 4, 3, groups=2), out=conv(4, 2))
    assert check(model, IMAGE, [layer("a"), layer("b")], ["b", "out"]) == 24


def test_depthwise_convolutions_go_with_their_channel() -> None:
    model = chain(a=conv(2, 4), d=conv(4, 4, 3, groups=4), out=conv(4, 2))
    assert check(model, IMAGE, [layer("a"), layer("d")], ["out"], ["d.groups"]) == 14


def test_a_depthwise_multiplier_makes_channels_that_go_together() -> None:
    """Not all of what could be done: one of the two channels made of each could go as well."""
    model = chain(a=conv(2, 3), d=conv(3, 6, 3, groups=3), out=conv(6, 2))
    assert check(model, IMAGE, [layer("a"), layer("d")], ["out"], ["d.groups"], exact=False) == 6


def test_a_depthwise_convolution_of_the_input_stays() -> None:
    model = chain(d=conv(2, 2, 3, groups=2), a=conv(2, 3), out=conv(3, 2))
    assert check(model, IMAGE, [layer("d")], ["a"], ["d.groups"]) == 0
    assert check(model, IMAGE, A) == 6
    model = chain(d=conv(2, 6, 3, groups=2), out=conv(6, 2))
    check(model, IMAGE, [layer("d")], ["out"], ["d.groups"], exact=False)


def test_transposed_convolutions() -> None:
    assert check(chain(a=tconv(2, 3), out=conv(3, 2)), IMAGE, [transposed("a")]) == 6
    assert check(chain(a=conv(2, 3), out=tconv(3, 2)), IMAGE, A) == 6
    assert check(chain(a=conv(2, 6), out=tconv(6, 4, groups=2)), IMAGE, A) == 18


def test_a_depthwise_transposed_convolution_goes_with_its_channel() -> None:
    model = chain(a=conv(2, 3), d=tconv(3, 3, groups=3), out=conv(3, 2))
    axes = [layer("a"), (("d.weight", 0), ("d.bias", 0))]
    assert check(model, IMAGE, axes, ["out"], ["d.groups"]) == 6


def test_a_transposed_convolution_added_to_a_skip() -> None:
    model = Between(
        lambda m, x: m.out(m.up(m.down(x)) + m.skip(x)),
        down=nn.Conv2d(2, 3, 2, stride=2), up=tconv(3, 3), skip=conv(2, 3), out=conv(3, 2),
    )  # fmt: skip
    assert check(model, IMAGE, [transposed("up"), layer("skip")]) == 6


def test_a_layer_called_twice_on_its_own_output() -> None:
    model = Between(lambda m, x: m.out(m.s(m.s(m.a(x)))), a=nn.Linear(3, 3), s=nn.Linear(3, 3), out=nn.Linear(3, 2))
    assert check(model, ROWS, [layer("a"), layer("s")], ["s", "out"]) == 6


def test_a_layer_shared_between_two_streams_couples_them() -> None:
    model = Between(
        lambda m, x: m.out(m.s(m.a(x)) * m.s(m.b(x))),
        a=nn.Linear(3, 3), b=nn.Linear(3, 3), s=nn.Linear(3, 2), out=nn.Linear(2, 2),
    )  # fmt: skip
    assert check(model, ROWS, [layer("a"), layer("b")], ["s"]) == 6


def test_shared_norms_couple_what_they_normalise() -> None:
    model = Between(
        lambda m, x: m.out(torch.cat((m.n(m.a(x)), m.n(m.b(x))), 1)),
        a=conv(2, 3), b=conv(2, 3), n=nn.BatchNorm2d(3), out=conv(6, 2),
    )  # fmt: skip
    assert check(model, IMAGE, [layer("a"), layer("b"), norm("n")]) == 6


def test_layer_norm_loses_what_it_normalises() -> None:
    model = Between(lambda m, x: m.out(m.n(m.a(x))), a=nn.Linear(3, 4), n=nn.LayerNorm(4), out=nn.Linear(4, 2))
    count = check(model, ROWS, [*A, layer("n")], ["out"], ["n.normalized_shape[0]"], least=2)
    assert count == 10


def test_layer_norm_over_channels_first() -> None:
    """ConvNeXt's norm: channels to the end and back."""
    model = Between(
        lambda m, x: m.out(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=conv(2, 3), n=nn.LayerNorm(3), out=conv(3, 2),
    )  # fmt: skip
    assert check(model, IMAGE, [*A, layer("n")], ["out"], ["n.normalized_shape[0]"], least=2) == 3


def test_norms_of_heads_lose_one_position_of_every_head() -> None:
    model = Between(
        lambda m, x: m.out(m.n(m.a(x).unflatten(-1, (2, -1))).flatten(2)),
        a=nn.Linear(3, 6), n=nn.LayerNorm(3), out=nn.Linear(6, 2),
    )  # fmt: skip
    assert check(model, ROWS, [*A, layer("n")], ["out"], ["n.normalized_shape[0]"], least=2) == 3


def test_groups_of_a_norm_keep_equally_many() -> None:
    model = chain(a=conv(2, 4), n=nn.GroupNorm(2, 4), out=conv(4, 2))
    assert check(model, IMAGE, [*A, layer("n")], ["out"]) == 4


def test_a_group_norm_of_one_group_sets_no_terms() -> None:
    model = chain(a=conv(2, 4), n=nn.GroupNorm(1, 4), out=conv(4, 2))
    assert check(model, IMAGE, [*A, layer("n")], ["out"]) == 14


@pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match")  # the oracle mends no descriptions
def test_instance_norm_and_group_norm_without_parameters() -> None:
    assert check(chain(a=conv(2, 3), n=nn.InstanceNorm2d(3), out=conv(3, 2)), IMAGE, A) == 6
    assert check(chain(a=conv(2, 4), n=nn.GroupNorm(2, 4, affine=False), out=conv(4, 2)), IMAGE, A, exact=False) == 4


class Standardised(nn.Conv2d):
    """Weight standardisation, as in big transfer."""

    def forward(self, input: Any) -> Any:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_standardised_weights_are_cut_as_plain_ones() -> None:
    model = chain(a=Standardised(2, 3, 3, padding=1), out=Standardised(3, 2, 3, padding=1))
    assert check(model, IMAGE, A, ["out"], ["a.out_channels"]) == 6
    model = chain(a=Standardised(2, 4, 3, padding=1), out=Standardised(4, 4, 3, padding=1, groups=2))
    assert check(model, IMAGE, A, ["out"], ["a.out_channels"]) == 4


def test_weight_norm_keeps_a_length_per_output() -> None:
    model = chain(a=nn.Linear(3, 3), out=nn.Linear(3, 2))
    parametrizations.weight_norm(model.a)
    path = "a.parametrizations.weight.original"
    assert check(model, ROWS, [((f"{path}0", 0), (f"{path}1", 0), ("a.bias", 0))]) == 6


GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_hidden_unit_has_a_row_per_gate(kind: Any, bidirectional: bool) -> None:
    """By counting: the indices of unit `u` are `u`, `u + units`, ... in every weight."""
    model = Between(
        lambda m, x: m.out(m.r(x)[0]),
        r=kind(3, 4, batch_first=True, bidirectional=bidirectional),
        out=nn.Linear(8 if bidirectional else 4, 2),
    )  # fmt: skip
    for number, suffix in enumerate(("", "_reverse") if bidirectional else ("",)):
        pieces = {
            (piece.tensor, piece.dim): sorted(map(tuple, piece.indices.tolist()))
            for coupling in find_couplings(model, ROWS)
            for piece in coupling.slices
            if any(piece.tensor == f"r.weight_hh_l0{suffix}" for piece in coupling.slices)
        }
        rows = [tuple(range(unit, 4 * GATES[kind], 4)) for unit in range(4)]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            assert pieces[f"r.{name}_l0{suffix}", 0] == rows
        assert pieces[f"r.weight_hh_l0{suffix}", 1] == [(unit,) for unit in range(4)]
        assert (0, 1) not in pieces
        columns = {index for found in [pieces["out.weight", 1]] for unit in found for index in unit}
        assert {*range(4 * number, 4 * number + 4)} <= columns


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}, {"bias": False}])
def test_recurrent_layers_compute_the_same_without_some_units(kind: Any, options: dict[str, Any]) -> None:
    width = 8 if "bidirectional" in options else 4
    model = Between(lambda m, x: m.out(m.r(x)[0]), r=kind(3, 4, batch_first=True, **options), out=nn.Linear(width, 2))
    couplings = map_couplings(model, ROWS)
    units = random_units(couplings, least=2)
    assert len(units) == 1 or options
    assert error_of_cut(model, couplings, ROWS, units) < 1e-12
    assert model.r.hidden_size == 2


def test_stacked_recurrent_layers_read_each_other() -> None:
    model = Between(lambda m, x: m.out(m.r(x)[0]), r=nn.LSTM(3, 4, 2, batch_first=True), out=nn.Linear(4, 2))
    (lower,) = [c for c in find_couplings(model, ROWS) if any(s.tensor == "r.weight_hh_l0" for s in c.slices)]
    assert {("r.weight_ih_l1", 1), ("r.weight_ih_l0", 0)} <= {(s.tensor, s.dim) for s in lower.slices}


class Started(nn.Module):
    """Recurrent layers whose first states are given."""

    def __init__(self, kind: Any, how: str, **options: Any) -> None:
        super().__init__()
        self.hidden, self.how = 4, how
        self.cells = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        self.r = kind(3, 4, batch_first=True, **options)
        self.init, self.out = nn.Linear(3, 4), nn.Linear(8 if options.get("bidirectional") else 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "layer":
            state = torch.tanh(self.init(x.mean(1)))[None].expand(self.cells, -1, -1).contiguous()
        else:
            state = torch.zeros(self.cells, x.size(0), self.hidden, dtype=x.dtype)
        return self.out(self.r(x, (state, state) if isinstance(self.r, nn.LSTM) else state)[0])


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("how", ["layer", "attribute"])
def test_a_first_state_goes_with_the_hidden_units(kind: Any, how: str) -> None:
    model = Started(kind, how).double().eval()
    couplings = map_couplings(model, ROWS)
    number = next(n for n, coupling in enumerate(couplings.couplings) if "r.weight_ih_l0" in coupling.feed_in)
    assert couplings.couplings[number].protected is None
    assert error_of_cut(model, couplings, ROWS, {number: torch.tensor([1, 2])}) < 1e-12
    assert model.r.hidden_size == model.init.out_features == 2 if how == "layer" else model.hidden == 2


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2}])
def test_first_states_of_several_cells(options: dict[str, Any]) -> None:
    """One size for all of them: as many units go from every cell."""
    model = Started(nn.GRU, "attribute", **options).double().eval()
    couplings = map_couplings(model, ROWS)
    free = {n: torch.tensor([0]) for n, coupling in enumerate(couplings.couplings) if coupling.protected is None}
    assert free
    assert error_of_cut(model, couplings, ROWS, free) < 1e-12
    assert model.hidden == model.r.hidden_size == 3


def test_a_first_state_of_a_size_that_nothing_says_stays() -> None:
    class Fixed(Started):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.r(x, x.new_zeros(1, 2, 3) + self.given)[0])

    model = Fixed(nn.GRU, "").double().eval()
    model.given = nn.Parameter(torch.rand(1, 1, 1, dtype=torch.float64))
    model.r = nn.GRU(3, 3, batch_first=True).double()
    model.out = nn.Linear(3, 2).double()
    couplings = map_couplings(model, ROWS)
    assert [coupling.name for coupling in couplings.couplings if coupling.protected is None] == []


@pytest.mark.parametrize("inputs", [torch.rand(2, 4, 4, dtype=torch.float64), IMAGE[:1]])
def test_a_linear_layer_on_a_vector_without_a_batch(inputs: torch.Tensor) -> None:
    """A whole image flattened; scores are those of a batch of one."""
    model = Between(
        lambda m, x: m.out(m.b(torch.flatten(m.a(x)))), a=conv(2, 4), b=nn.Linear(64, 5), out=nn.Linear(5, 2)
    )
    couplings = map_couplings(model, inputs)
    free = {n: torch.tensor([0, 2]) for n, coupling in enumerate(couplings.couplings) if coupling.protected is None}
    assert len(free) == 2
    assert error_of_cut(model, couplings, inputs, free) < 1e-12
    batched = Between(lambda m, x: m.out(m.b(m.a(x).flatten(1))), a=model.a, b=model.b, out=model.out)
    for ranking in ("published", "expected"):
        vector, batch = bgsc(model, inputs, ranking=ranking), bgsc(batched, inputs.view(1, 2, 4, 4), ranking=ranking)
        assert all(torch.allclose(vector[name], batch[name]) for name in ("a", "b"))


def test_recurrent_functions_take_torchs_names() -> None:
    cell = nn.GRU(3, 4, batch_first=True)

    def forward(m: nn.Module, x: Any) -> Any:
        names = {
            "has_biases": True,
            "num_layers": 1,
            "dropout": 0.0,
            "train": False,
            "bidirectional": False,
            "batch_first": True,
        }
        return m.out(torch.gru(x, x.new_zeros(1, x.shape[0], 4), list(m.r.parameters()), **names)[0])

    model = Between(forward, r=cell, out=nn.Linear(4, 2))
    couplings = map_couplings(model, ROWS)
    assert any(coupling.protected is None and "r.weight_ih_l0" in coupling.feed_in for coupling in couplings.couplings)
    assert bgsc(model, ROWS)
