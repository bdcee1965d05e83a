"""What it costs to remove channels, against least squares done anew for every set that is left."""

from __future__ import annotations

import pytest
import torch
from call_tools import calls_of, random, randomised
from torch import Tensor, nn

from dfpc_plugin.repairing.elimination import Reader, Sensitivity, StandingInReader, elimination_costs, readers_of
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.moments import LayerMoments, layer_moments

Entries = dict[int, list[int]]


def covariance(seed: int, size: int, rank: int | None = None) -> Tensor:
    x = random(seed, 40, rank or size) @ random(seed + 1, rank or size, size)
    return torch.cov(x.T, correction=0)


def unexplained(matrix: Tensor, cov: Tensor, gone: list[int]) -> float:
    """The least squared error when the entries `gone` are zero and all others may change."""
    left = [e for e in range(len(cov)) if e not in gone]
    values, vectors = torch.linalg.eigh(cov)
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T  # root' root = cov
    wanted = root @ matrix.T
    if not left:
        return float(wanted.square().sum())
    fitted = root[:, left] @ torch.linalg.lstsq(root[:, left], wanted, driver="gelsd").solution
    return float((wanted - fitted).square().sum())


def greedy(
    units: int,
    readers: list[tuple[Tensor, Tensor, Entries]],
    ridge: float,
    order: list[int] | None = None,
    whole: float | None = None,
) -> Tensor:
    """Remove the unit that adds least to the error, by trying all, until none is left; note the `order`."""
    ridged = [
        (m, c + ridge * c.diagonal().mean() * torch.eye(len(c)), e, whole or float((m @ c @ m.T).trace()))
        for m, c, e in readers
    ]
    result = torch.zeros(units, dtype=torch.float64)
    gone: list[int] = []
    before, highest = 0.0, 0.0
    while len(gone) < units:
        totals = {}
        for unit in set(range(units)) - set(gone):
            totals[unit] = sum(
                unexplained(m, c, [i for u in (*gone, unit) for i in e.get(u, ())]) / total for m, c, e, total in ridged
            )
        best = min(totals, key=lambda unit: totals[unit])
        highest = max(highest, totals[best] - before)
        result[best], before = highest, totals[best]
        gone.append(best)
    if order is not None:
        order.extend(gone)
    return result


def own_costs(units: int, readers: list[tuple[Tensor, Tensor, Entries]], ridge: float) -> Tensor:
    grams = [m.T @ m if c.dim() == 2 else m.square().sum(0) for m, c, _ in readers]
    own = [
        StandingInReader(gram.clone(), c, e, scale, ridge) if c.dim() == 2 else Reader(gram, c, e, scale)
        for gram, (_, c, e) in zip(grams, readers, strict=True)
        for scale in (1 / float((gram * c).sum()),)
    ]
    return elimination_costs(units, own)


CASES: dict[str, tuple[int, list[tuple[Tensor, Tensor, Entries]]]] = {
    "one entry each": (6, [(random(0, 4, 6), covariance(1, 6), {u: [u] for u in range(6)})]),
    "several entries": (4, [(random(0, 3, 8), covariance(1, 8), {u: [u, 4 + u] for u in range(4)})]),
    "of different sizes": (4, [(random(0, 3, 7), covariance(1, 7), {0: [1], 1: [0, 2], 2: [3, 5, 6], 3: [4]})]),
    "entries of no unit": (3, [(random(0, 3, 6), covariance(1, 6), {0: [1], 1: [3], 2: [4]})]),
    "two readers": (
        4,
        [
            (random(0, 3, 4), covariance(1, 4), {u: [3 - u] for u in range(4)}),
            (random(2, 2, 5), covariance(3, 5), {0: [1], 2: [2, 3]}),
        ],
    ),
    "low rank": (6, [(random(0, 4, 6), covariance(1, 6, rank=3), {u: [u] for u in range(6)})]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 0.5])
def test_costs_are_those_of_trying_everything(name: str, ridge: float) -> None:
    units, readers = CASES[name]
    if name == "low rank":
        ridge = max(ridge, 1e-4)
    found, wanted = own_costs(units, readers, ridge), greedy(units, readers, ridge)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_costs_is_that_of_removal(seed: int) -> None:
    matrix, cov = random(seed, 3, 5), covariance(seed + 50, 5)
    readers = [(matrix, cov, {u: [u] for u in range(5)})]
    order: list[int] = []
    greedy(5, readers, 1e-9, order)
    found = own_costs(5, readers, 1e-9)
    assert found.sort(stable=True).indices.tolist() == order
    everything = float((matrix @ cov @ matrix.T).trace())
    for count in range(1, 6):  # costs that are lifted to that of one before make it more, never less
        assert found[order[:count]].sum() * everything >= unexplained(matrix, cov, order[:count]) * (1 - 1e-5)


def test_of_two_equal_channels_one_costs_nothing() -> None:
    x = random(0, 50, 5)
    x[:, 3] = x[:, 1]
    cov = torch.cov(x.T, correction=0)
    costs = own_costs(5, [(random(1, 4, 5), cov, {u: [u] for u in range(5)})], 1e-9)
    first, second = sorted((float(costs[1]), float(costs[3])))
    assert first < 1e-6 and second > 0.01
    assert first == costs.min()


def test_without_correlations_it_is_weights_times_variance() -> None:
    matrix, variance = random(0, 3, 6), random(1, 6).square()
    entries = {0: [0, 3], 1: [1], 2: [2, 4, 5]}
    own = matrix.square().sum(0) * variance
    wanted = torch.stack([own[entries[u]].sum() for u in range(3)]) / own.sum()
    torch.testing.assert_close(own_costs(3, [(matrix, variance, entries)], 0.01), wanted)
    ridge = 1e-12
    torch.testing.assert_close(own_costs(3, [(matrix, variance.diag(), entries)], ridge), wanted)


def test_units_that_nobody_reads_cost_nothing() -> None:
    assert torch.equal(own_costs(3, [], 0.1), torch.zeros(3, dtype=torch.float64))
    costs = own_costs(3, [(random(0, 2, 2), covariance(1, 2), {0: [0], 2: [1]})], 0.1)
    assert costs[1] == 0 and costs[0] > 0 and costs[2] > 0


def moments_with(matrix: Tensor, cov: Tensor) -> LayerMoments:
    return LayerMoments(matrix, cov, mean=torch.zeros(cov.shape[:2]), samples=1000)


def test_groups_are_readers_of_their_own() -> None:
    """Three groups of two channels each; some units are pairs of channels in different groups."""
    matrix = random(0, 3, 4, 2)
    cov = torch.stack([covariance(seed, 2) for seed in range(3)])
    entries = {0: [0, 2], 1: [1, 3], 2: [4], 3: [5]}
    readers = readers_of([moments_with(matrix, cov)], entries, 0.01)
    assert len(readers) == 3
    owns: list[Entries] = [{0: [0], 1: [1]}, {0: [0], 1: [1]}, {2: [0], 3: [1]}]
    by_hand = list(zip(matrix, cov, owns, strict=True))
    whole = sum(float((m @ c @ m.T).trace()) for m, c in zip(matrix, cov, strict=True))
    torch.testing.assert_close(
        elimination_costs(4, readers), greedy(4, by_hand, 0.01, whole=whole), rtol=1e-6, atol=1e-9
    )
    assert len(readers_of([moments_with(matrix, cov)], {0: [2]}, 0.01)) == 1


@pytest.mark.parametrize("taps", [1, 3])
def test_errors_of_outputs_count_by_how_much_they_matter(taps: int) -> None:
    """Rows are those of outputs, each with all its taps; all entries together cost the layer's share."""
    matrix, cov, weights = random(0, 1, 4 * taps, 5), covariance(1, 5)[None], torch.tensor([0.1, 3, 0, 1]).double()
    entries = {unit: [unit] for unit in range(5)}
    readers = readers_of([moments_with(matrix, cov)], entries, 0.0, Sensitivity(weights, 0.3))
    weighted = matrix[0] * weights.sqrt().repeat_interleave(taps)[:, None]
    by_hand = 0.3 * greedy(5, [(weighted, cov[0], entries)], 0.0)
    found = elimination_costs(5, readers)
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-9)
    assert float(found.sum()) >= 0.3 * (1 - 1e-6)


def test_matrices_of_one_layer_share_its_sensitivity() -> None:
    """As attention's three projections in one weight do."""
    parts, cov = random(0, 3, 1, 2, 4), covariance(1, 4)[None]
    weights, entries = random(2, 6).abs(), {unit: [unit] for unit in range(4)}
    several = readers_of([moments_with(part, cov) for part in parts], entries, 0.1, Sensitivity(weights, 0.7))
    one = readers_of([moments_with(parts.flatten(0, 2)[None], cov)], entries, 0.1, Sensitivity(weights, 0.7))
    torch.testing.assert_close(elimination_costs(4, several), elimination_costs(4, one))


def test_many_units_go_some_at_a_time() -> None:
    units = 200
    matrix, cov = random(0, 20, units), covariance(1, units, rank=60)
    readers = [(matrix, cov, {u: [u] for u in range(units)})]
    costs = own_costs(units, readers, 0.01)
    assert costs.shape == (units,) and bool((costs >= 0).all()) and bool(torch.isfinite(costs).all())
    one = own_costs(100, [(matrix[:, :100], cov[:100, :100], {u: [u] for u in range(100)})], 0.01)
    assert len(one.unique()) > 50


def net() -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, 2),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Flatten(),
            nn.Linear(4 * 4 * 4, 5),
        )
    )


def test_moments_are_those_of_all_rows() -> None:
    """The covariance of channels at all places that a kernel sees, and weights that hold that of places."""
    model, batches = net(), [random(0, 3, 3, 5, 5), random(1, 2, 3, 5, 5) + 1]
    found = layer_moments(model, Batches(batches), None, rows=10**6, seed=0)
    assert list(found) == ["0", "2", "4", "8"]  # the depthwise one passes channels on
    calls = [calls_of(model, batch) for batch in batches]
    for first, second in zip(*calls, strict=True):
        if first.name not in found:
            continue
        rows = torch.cat([call.rows(torch.arange(call.positions(call.run()))) for call in (first, second)])
        taps = first.taps()
        seen = rows.unflatten(2, (-1, taps))  # positions, groups, channels, taps
        seen = seen - seen.mean((0, 3), keepdim=True)
        places = torch.einsum("ngci,ngcj->ij", seen, seen)
        places = places / places.diagonal().mean()
        (moments,) = found[first.name]
        for group in range(first.groups):
            channels = torch.einsum("nci,ndi->cd", seen[:, group], seen[:, group]) / len(rows) / taps
            torch.testing.assert_close(moments.covariance[group], channels, rtol=1e-10, atol=1e-12)
            weights = first.matrix[group]
            squared = (weights @ torch.kron(channels, places) @ weights.T).trace()
            own = (moments.matrix[group] @ channels @ moments.matrix[group].T).trace()
            assert float(own) == pytest.approx(float(squared), rel=5e-3)


def test_moments_of_fewer_rows_are_near_and_the_same_by_seed() -> None:
    model, batches = net(), [random(0, 40, 3, 9, 9)]
    model[8] = nn.Linear(4 * 12 * 12, 5).double()
    whole, some, again, other = (
        layer_moments(model, Batches(batches), None, rows=rows, seed=seed)["2"][0].covariance
        for rows, seed in ((10**6, 0), (500, 0), (500, 0), (500, 1))
    )
    assert torch.equal(some, again) and not torch.equal(some, other)
    assert (some - whole).norm() < 0.3 * whole.norm()


def test_of_attention_every_projection_has_moments() -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    x = random(0, 6, 30, 4)
    found = layer_moments(randomised(Self()), Batches([x]), None, rows=1000, seed=0)
    assert sorted(found) == ["attention.in_proj_weight", "attention.out_proj"]
    assert len(found["attention.in_proj_weight"]) == 3
    for moments in found["attention.in_proj_weight"]:
        torch.testing.assert_close(moments.covariance[0], torch.cov(x.flatten(0, 1).T, correction=0))


def test_wide_layers_are_only_given_variances(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = net(), random(0, 5, 3, 5, 5)
    whole = layer_moments(model, Batches([batch]), None, rows=10**6, seed=0)
    monkeypatch.setattr("dfpc_plugin.repairing.moments._WIDEST", 2)
    found = layer_moments(model, Batches([batch]), None, rows=10**6, seed=0)
    assert [moments.covariance.dim() for (moments,) in found.values()] == [2, 3, 2, 2]
    for name, (moments,) in found.items():
        wanted = whole[name][0].covariance
        wanted = wanted.diagonal(dim1=1, dim2=2) if moments.covariance.dim() == 2 else wanted
        torch.testing.assert_close(moments.covariance, wanted)


def test_places_that_vary_together_have_moments_too() -> None:
    """Grey images given as RGB, flat but for a step, with a border of zeros: places are no more independent than that."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).double()
    flat = torch.rand(16, 1, 1, 1, dtype=torch.float64).expand(16, 3, 4, 4) + 10.0
    for moments in layer_moments(model, Batches([flat, flat + 5]), None, rows=4096, seed=0).values():
        assert all(torch.isfinite(entry.matrix).all() for entry in moments)
