"""Least squares against numpy's, and against formulas that share nothing with the code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from call_tools import random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfpc_plugin.repairing.equations import Equations, Solution


def problem(seed: int, count: int, groups: int = 1, outputs: int = 3, entries: int = 4) -> tuple[Tensor, ...]:
    """Rows with means, outputs wanted of them, and old weights."""
    rows = random(seed, count, groups, entries) + 3 * random(seed + 1, groups, entries)
    truth = random(seed + 2, groups, outputs, entries)
    wanted = torch.einsum("nge,goe->ngo", rows, truth) + 5 + random(seed + 3, count, groups, outputs)
    return (rows, wanted, truth + 0.5 * random(seed + 4, groups, outputs, entries), random(seed + 5, groups, outputs))


def solved(
    rows: Tensor,
    wanted: Tensor,
    matrix: Tensor,
    bias: Tensor,
    *,
    free: bool,
    ridge: float = 0.0,
    primal: bool | None = None,
    parts: int = 1,
) -> Solution:
    count = len(rows) if primal is None else 10**6 if primal else 0
    equations = Equations(matrix, bias, rows=count, free_bias=free)
    for x, y in zip(rows.chunk(parts), wanted.chunk(parts), strict=True):
        equations.add(x, y)
    equations.add_unseen(rows, wanted)
    solution = equations.solve(ridge)
    assert solution is not None and solution.ridge == ridge
    return solution


def expected(
    rows: Tensor, wanted: Tensor, matrix: Tensor, bias: Tensor, free: bool, ridge: float
) -> tuple[Tensor, Tensor]:
    """A stacked system per group: the rows, and one row per weight that holds it where it was."""
    found = []
    for x, y, w, b in zip(rows.transpose(0, 1), wanted.transpose(0, 1), matrix, bias, strict=True):
        a = np.asarray(x)
        spread = a - a.mean(0) if free else a
        weight = np.sqrt(ridge * (spread**2).sum() / a.shape[1])  # n rows, the mean square of an entry
        a = np.hstack([a, np.ones((len(a), 1))]) if free else a
        right = np.asarray(y) if free else np.asarray(y - b)
        hold = weight * np.eye(x.shape[1], a.shape[1])
        stacked = np.vstack([a, hold]) if ridge else a
        right = np.vstack([right, weight * np.asarray(w.T)]) if ridge else right
        answer = torch.from_numpy(np.linalg.lstsq(stacked, right, rcond=None)[0])
        found.append((answer[: x.shape[1]].T, answer[-1] if free else b))
    return torch.stack([m for m, _ in found]), torch.stack([b for _, b in found])


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(
    ("ridge", "primal"), [(0.0, True), *((ridge, primal) for ridge in (1e-4, 0.03, 2.0) for primal in (True, False))]
)  # more rows than unknowns make the dual system singular without a ridge
def test_the_solution_is_that_of_least_squares(groups: int, free: bool, ridge: float, primal: bool) -> None:
    rows, wanted, matrix, bias = problem(3, 40, groups)
    found = solved(rows, wanted, matrix, bias, free=free, ridge=ridge, primal=primal)
    for own, theirs in zip((found.matrix, found.bias), expected(rows, wanted, matrix, bias, free, ridge), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("count", [3, 9, 30])
def test_primal_and_dual_agree(free: bool, groups: int, count: int) -> None:
    data = problem(5, count, groups, entries=10)
    primal, dual = (solved(*data, free=free, ridge=0.1, primal=primal) for primal in (True, False))
    torch.testing.assert_close(primal.matrix, dual.matrix, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(primal.bias, dual.bias, rtol=1e-8, atol=1e-8)
    assert primal.after == pytest.approx(dual.after, rel=1e-8)


@pytest.mark.parametrize("primal", [True, False])
@pytest.mark.parametrize("free", [True, False])
def test_parts_count_as_one(primal: bool, free: bool) -> None:
    data = problem(7, 30, 2)
    whole = solved(*data, free=free, ridge=0.01, primal=primal)
    for parts in (2, 5, 30):
        again = solved(*data, free=free, ridge=0.01, primal=primal, parts=parts)
        torch.testing.assert_close(again.matrix, whole.matrix, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(again.bias, whole.bias, rtol=1e-8, atol=1e-8)


def test_few_rows_are_kept_and_solved_exactly_as_many_would_be() -> None:
    data = problem(9, 6, entries=20)
    found = solved(*data, free=True, ridge=0.01)
    for own, theirs in zip((found.matrix, found.bias), expected(*data, True, 0.01), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-7, atol=1e-7)


def test_large_means_cost_no_precision_in_float32() -> None:
    rows, wanted, matrix, bias = problem(11, 400)
    rows = rows + 1000
    equations = Equations(matrix, bias, rows=400, free_bias=True)
    equations.add(rows.float(), wanted.float())
    equations.add_unseen(rows, wanted)
    found = equations.solve(0.0)
    assert found is not None
    theirs = expected(rows.float().double(), wanted.float().double(), matrix, bias, True, 0.0)
    torch.testing.assert_close(found.matrix, theirs[0], rtol=1e-3, atol=1e-3)
    assert found.after < 1.01 * equations.error(*theirs)


def test_the_error_is_a_share_of_the_variance() -> None:
    rows, wanted, matrix, bias = problem(13, 20, 2)
    equations = Equations(matrix, bias, rows=100, free_bias=True)
    equations.add(rows, wanted)
    equations.add_unseen(rows[:8], wanted[:8])
    equations.add_unseen(rows[8:], wanted[8:])
    wrong = torch.einsum("nge,goe->ngo", rows, matrix) + bias - wanted
    share = wrong.square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert equations.error(matrix, bias) == pytest.approx(float(share))
    mean = wanted.mean(0)
    assert equations.error(torch.zeros_like(matrix), mean) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    unseen=st.integers(1, 6),
    entries=st.integers(1, 6),
    groups=st.integers(1, 2),
    free=st.booleans(),
    ridge=st.sampled_from([0.0, 1e-6, 1e-2, 1.0]),
    sizes=st.sampled_from([1e-8, 1.0, 1e6]),
    kind=st.sampled_from(["apart", "equal", "constant rows"]),
    good=st.booleans(),
)
def test_never_worse_on_samples_that_took_no_part(
    seed: int,
    count: int,
    unseen: int,
    entries: int,
    groups: int,
    free: bool,
    ridge: float,
    sizes: float,
    kind: str,
    good: bool,
) -> None:
    rows, wanted, matrix, bias = problem(seed, count + unseen, groups, entries=entries)
    if good:  # the old weights can hardly be improved
        matrix, bias = random(seed + 2, groups, 3, entries), torch.full_like(bias, 5.0)
    if kind == "equal":
        rows = rows[..., :1].expand_as(rows)
    if kind == "constant rows":
        rows = rows[:1].expand_as(rows)
    rows = rows * sizes
    equations = Equations(matrix, bias, rows=count, free_bias=free)
    equations.add(rows[:count], wanted[:count])
    equations.add_unseen(rows[count:], wanted[count:])
    solution = equations.solve(ridge)
    assert solution is None or not solution.after > solution.before  # NaN where nothing varies
    if solution is not None:

        def wrong(matrix: Tensor, bias: Tensor) -> float:
            made = torch.einsum("nge,goe->ngo", rows[count:], matrix) + bias
            return float((made - wanted[count:]).square().sum())

        assert wrong(solution.matrix, solution.bias) <= wrong(matrix, bias) * (1 + 1e-9)
        assert solution.ridge >= ridge and (free or solution.bias is bias)


@pytest.mark.parametrize("primal", [True, False])
@pytest.mark.parametrize("free", [True, False])
def test_dead_and_equal_inputs_do_not_crash_it(primal: bool, free: bool) -> None:
    rows, wanted, matrix, bias = problem(15, 30)
    for broken in (rows * 0, torch.cat([rows[..., :2], rows[..., :2]], -1), rows * torch.tensor([1.0, 0, 1, 1])):
        equations = Equations(matrix, bias, rows=1000 if primal else 0, free_bias=free)
        equations.add(broken, wanted)
        equations.add_unseen(broken, wanted)
        for ridge in (0.0, 1e-3):
            found = equations.solve(ridge)
            assert found is None or bool(torch.isfinite(found.matrix).all())


def test_a_dead_input_keeps_its_weights() -> None:
    rows, wanted, matrix, bias = problem(17, 30)
    found = solved(rows * torch.tensor([1.0, 0, 1, 1]), wanted, matrix, bias, free=True, ridge=1e-3)
    torch.testing.assert_close(found.matrix[0, :, 1], matrix[0, :, 1])
    assert not torch.allclose(found.matrix[0, :, 0], matrix[0, :, 0])


def test_what_is_not_finite_is_no_solution() -> None:
    rows, wanted, matrix, bias = problem(19, 30)
    rows[3] = torch.inf
    equations = Equations(matrix, bias, rows=30, free_bias=True)
    equations.add(rows, wanted)
    equations.add_unseen(rows, wanted)
    assert equations.solve(0.1) is None


@pytest.mark.parametrize("unseen", [1, 3])
def test_equal_samples_judge_as_well(unseen: int) -> None:
    """What is wanted of them does not vary, so there is no variance to divide by; the old weights are right."""
    rows = random(23, 10, 1, 2)
    matrix, bias = torch.ones(1, 1, 2).double(), torch.zeros(1, 1).double()
    equations = Equations(matrix, bias, rows=10, free_bias=True)
    equations.add(rows, -rows.sum(2, keepdim=True))
    equations.add_unseen(rows[:1].expand(unseen, -1, -1), rows[:1].sum(2, keepdim=True).expand(unseen, -1, -1))
    assert equations.solve(1e-3) is None


def test_a_worse_fit_is_refused_or_held_back() -> None:
    """The samples say the opposite of what is judged by, so the old weights stay, or nearly do."""
    rows, _, matrix, bias = problem(21, 40)
    right = torch.einsum("nge,goe->ngo", rows, matrix) + bias
    equations = Equations(matrix, bias, rows=30, free_bias=True)
    equations.add(rows[:30], -right[:30])
    equations.add_unseen(rows[30:], right[30:])
    assert equations.solve(1e-3) is None
    noisy = right + random(22, *right.shape)
    equations = Equations(matrix + 0.05, bias, rows=30, free_bias=True)
    equations.add(rows[:8], right[:8] + 20 * random(23, *right[:8].shape))
    equations.add_unseen(rows[30:], noisy[30:])
    found = equations.solve(1e-4)
    assert found is None or found.ridge > 1e-4
