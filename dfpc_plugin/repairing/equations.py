"""Least squares of one layer, solved in float64 and accepted only if it does better on held-out samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HARDER = 10.0
_TRIES = 4
_LEAST = 1e-6


@dataclass(frozen=True)
class Solution:
    """Weights that fit better.

    Attributes:
        matrix: `(groups, outputs, entries of a row)`.
        bias: `(groups, outputs)`; the old one if it could not change.
        ridge: The ridge that was used.
        before: Squared error of the old weights on held-out samples, over the variance of the targets.
        after: The same of the new weights.
    """

    matrix: Tensor
    bias: Tensor
    ridge: float
    before: float
    after: float


class Equations:
    """The sums that least squares needs, over rows of inputs and their targets.

    With fewer rows than unknowns, the rows themselves are kept and the dual system is solved. Sums are taken around the
    first sample's means, so that large means cost no precision in float32.
    """

    def __init__(self, matrix: Tensor, bias: Tensor, *, rows: int, free_bias: bool) -> None:
        """Start with the weights to be improved: `(groups, outputs, entries)` and `(groups, outputs)`, float64.

        `rows` is their expected number; with `free_bias`, a constant may be added to the outputs.
        """
        self._matrix, self._bias, self._free = matrix, bias, free_bias
        self._among_rows = rows < matrix.shape[2]
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._others: list[tuple[Tensor, Tensor]] = []
        self._count = 0
        self._sums: list[Tensor] = []
        self._center = (torch.zeros(()), torch.zeros(()))

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        """Add `rows`, `(n, groups, entries)`, and their targets, `(n, groups, outputs)`."""
        rows, wanted = rows.transpose(0, 1), wanted.transpose(0, 1)
        if not self._count:
            zero = rows.new_zeros(())
            self._center = (rows.mean(1, keepdim=True), wanted.mean(1, keepdim=True)) if self._free else (zero, zero)
        x, y = rows - self._center[0], wanted - self._center[1]
        if self._among_rows:
            self._kept.append((x, y))
        else:
            sums = [(x.mT @ x).double(), (x.mT @ y).double(), x.sum(1).double(), y.sum(1).double()]
            self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._count else sums
        self._count += rows.shape[1]

    def add_unseen(self, rows: Tensor, wanted: Tensor) -> None:
        """Keep held-out samples to judge solutions by."""
        self._others.append((rows.transpose(0, 1), wanted.transpose(0, 1)))

    def error(self, matrix: Tensor, bias: Tensor) -> float:
        """Squared error on the held-out samples, over the variance of their targets; NaN if that is zero."""
        total = self._varying
        return self._wrong(matrix, bias) / total if total > 0 else math.nan

    def solve(self, ridge: float) -> Solution | None:
        """Minimise the squared error plus a ridge on the change of the weights; None if that improves nothing.

        The ridge is in multiples of the mean square of the rows' entries. It pulls towards the old weights, so whatever
        the samples do not determine stays. A system that cannot be solved, or whose solution does worse than the old
        weights on the held-out samples, is solved again with ten times the ridge.
        """
        if not self._others:
            return None
        before, total = self._wrong(self._matrix, self._bias), self._varying
        for _ in range(_TRIES):
            found = self._solve_among_rows(ridge) if self._among_rows else self._solve_normal(ridge)
            if found is not None:
                after = self._wrong(*found)
                if after <= before:
                    errors = [wrong / total if total > 0 else math.nan for wrong in (before, after)]
                    return Solution(*found, ridge, *errors)
            ridge = max(ridge * _HARDER, _LEAST)
        return None

    def _wrong(self, matrix: Tensor, bias: Tensor) -> float:
        """Squared error on the held-out samples."""
        return sum(float((x.double() @ matrix.mT + bias[:, None] - y).square().sum()) for x, y in self._others)

    @property
    def _varying(self) -> float:
        """Sum of squares of the held-out targets around their mean."""
        if not self._others:
            return 0.0
        wanted = torch.cat([y for _, y in self._others], 1).double()
        return float((wanted - wanted.mean(1, keepdim=True)).square().sum())

    def _solve_normal(self, ridge: float) -> tuple[Tensor, Tensor] | None:
        """Solve the normal equations."""
        xx, xy, x, y = (total / self._count for total in self._sums)
        if self._free:
            xx, xy = xx - x[:, :, None] * x[:, None], xy - x[:, :, None] * y[:, None]
        else:
            xy = xy - x[:, :, None] * self._bias[:, None]
        level = _level(xx.diagonal(dim1=1, dim2=2).mean(1), ridge)
        system = xx + level * torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device)
        factor, info = torch.linalg.cholesky_ex(system)
        if bool(info.any()):
            return None
        matrix = torch.cholesky_solve(xy + level * self._matrix.mT, factor).mT
        return self._with_bias(matrix, x, y)

    def _solve_among_rows(self, ridge: float) -> tuple[Tensor, Tensor] | None:
        """Solve the dual system, with one unknown per row: w = w0 + X' (X X' + n r)^-1 (y - X w0)."""
        x = torch.cat([part for part, _ in self._kept], 1).double()
        y = torch.cat([part for _, part in self._kept], 1).double()
        means = (x.mean(1), y.mean(1))
        if self._free:
            x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        else:
            y = y - self._bias[:, None]
        level = _level(x.square().mean((1, 2)), ridge) * x.shape[1]
        system = x @ x.mT + level * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factor, info = torch.linalg.cholesky_ex(system)
        if bool(info.any()):
            return None
        change = x.mT @ torch.cholesky_solve(y - x @ self._matrix.mT, factor)
        return self._with_bias(self._matrix + change.mT, *means)

    def _with_bias(self, matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Add the bias that corrects the means; None if the weights are not finite."""
        if not bool(torch.isfinite(matrix).all()):
            return None
        if not self._free:
            return matrix, self._bias
        mean_x, mean_y = (c + m[:, None] for c, m in zip(self._center, (x, y), strict=True))
        return matrix, (mean_y - mean_x.double() @ matrix.mT).squeeze(1).double()


def _level(squares: Tensor, ridge: float) -> Tensor:
    """What to add to the diagonal of every group, `(groups, 1, 1)`; groups with constant inputs keep their weights."""
    level = ridge * squares
    if ridge:
        level = torch.where(squares > 1e-12 * squares.mean(), level, torch.ones_like(level))
    return level[:, None, None]
