"""Draws of an arm's population mean at each batch size: the engine behind the intervals.

An arm is a `Curve` (data); `draw_curve` returns what its population may be (docs/
statistics.md, "The model"): mean_k = share_k * failed_k + (1 - share_k) * standing_k, with
share_k from the logistic of `failure`, and standing_k, failed_k from the t distribution of
a normal mean with unknown variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchcliff.stats.cells import Cell
from batchcliff.stats.failure import Counts, FailureDraws
from batchcliff.stats.noise import chis, normals

Array = NDArray[np.float64]

DRAWS = 2000
SMALLEST_SPREAD = 1e-4  # accuracy: a test set of 10,000 resolves no less


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One arm's measured trials: K batch sizes with at least one, ascending."""

    arm: str
    batch_sizes: tuple[int, ...]
    values: tuple[dict[int, float], ...]  # per size, seed -> accuracy, diverged as chance
    diverged: tuple[frozenset[int], ...]  # per size, seeds that diverged
    lingering: tuple[frozenset[int], ...] = ()  # per size, see `cliff.settled`; (): none

    @property
    def log2_sizes(self) -> Array:
        return np.log2(np.array(self.batch_sizes, dtype=np.float64))

    @property
    def seeds(self) -> int:
        """Most measured trials in a cell: 1 means that nothing is known of the spread."""
        return max((len(v) for v in self.values), default=0)

    @property
    def means(self) -> Array:
        """Plain means per size, [K], diverged trials counted at chance."""
        return np.array([np.mean(list(v.values())) for v in self.values])

    def below(self, k: int, floor: float) -> frozenset[int]:
        """Seeds at size k that diverged or ended below `floor`."""
        low = {seed for seed, value in self.values[k].items() if value < floor}
        return self.diverged[k] | low

    def failing(self, k: int, floor: float) -> frozenset[int]:
        """Those, and what lingers above it where most have collapsed: what the model of the
        collapse counts."""
        return self.below(k, floor) | (self.lingering[k] if self.lingering else frozenset())


def make_curve(arm: str, cells: Sequence[Cell], chance: float) -> Curve:
    """The arm's cells with at least one measured trial; a diverged one counts as chance."""
    own = sorted((c for c in cells if c.arm == arm), key=lambda c: c.batch_size)
    used = [cell for cell in own if cell.measured > 0]
    return Curve(
        arm=arm,
        batch_sizes=tuple(cell.batch_size for cell in used),
        values=tuple(cell.values(chance) for cell in used),
        diverged=tuple(frozenset(cell.diverged_seeds) for cell in used),
    )


def failure_counts(curve: Curve, floor: float) -> Counts:
    """How many trials failed at each size of the curve's grid."""
    sizes = range(len(curve.batch_sizes))
    return Counts(
        tuple(float(x) for x in curve.log2_sizes),
        tuple(len(curve.failing(k, floor)) for k in sizes),
        tuple(len(values) for values in curve.values),
    )


def draw_means(
    curve: Curve,
    failures: FailureDraws,
    floor: float,
    chance: float,
    normal_KD: Sequence[Array],
    stream: int,
) -> Array:
    """Draws of the population means, [D, K]. `normal_KD`: standard normals that drive the
    means of the standing trials, given by the caller so that two arms can share noise.
    `stream` names the arm's other random numbers.
    """
    draws, sizes = failures.share.shape
    failing = [curve.failing(k, floor) for k in range(sizes)]
    stand = [
        np.array([v for s, v in curve.values[k].items() if s not in failing[k]])
        for k in range(sizes)
    ]
    fail = [np.array([curve.values[k][s] for s in sorted(failing[k])]) for k in range(sizes)]
    apart_KD = [normals(draws, stream, 1, k) for k in range(sizes)]
    stand_DK = _draw_group_means(stand, normal_KD, 1.0, (stream, 0))
    fail_DK = _draw_group_means(fail, apart_KD, chance, (stream, 1))
    return failures.share * fail_DK + (1 - failures.share) * stand_DK


def _draw_group_means(
    groups: list[Array], normal_KD: Sequence[Array], default: float, stream: tuple[int, int]
) -> Array:
    """Draws of each group's mean, [D, K]: mean + s / sqrt(n) * t(degrees of freedom).

    A group of one borrows the spread of all groups; an empty one the value of the nearest
    group to its left, else to its right, else `default`.
    """
    sizes, draws = len(groups), normal_KD[0].size
    squares = sum(float(np.sum((g - g.mean()) ** 2)) for g in groups if g.size)
    freedom = sum(g.size - 1 for g in groups if g.size)
    known = [k for k in range(sizes) if groups[k].size]
    out = np.full((sizes, draws), default).T  # columns lie together: they are written whole
    for k in known:
        group, df = groups[k], max(groups[k].size - 1, 0)
        variance = float(np.sum((group - group.mean()) ** 2)) / max(df, 1)
        if df == 0:
            variance, df = (squares / freedom, freedom) if freedom else (0.0, 1)
        spread = np.sqrt(max(variance, SMALLEST_SPREAD**2) / group.size)
        out[:, k] = group.mean() + spread * normal_KD[k] / chis(draws, df, *stream, k)
    for k in range(sizes):
        if not groups[k].size and known:
            left = [j for j in known if j < k]
            out[:, k] = out[:, left[-1] if left else known[0]]
    return out
