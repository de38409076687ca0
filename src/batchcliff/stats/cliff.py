"""The two cliffs of an arm: where accuracy leaves the plateau, and where trials collapse.

Both are batch sizes (examples per update), estimated on log2 B. What is estimated, by
which model, and how often the intervals cover is in docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchcliff.errors import UsageError
from batchcliff.stats.calibration import (
    Evidence,
    evidence,
    interval_scale,
    sliding_scales,
    tail_shares,
    tolerance_place,
)
from batchcliff.stats.draws import DRAWS, Curve, draw_means, failure_counts
from batchcliff.stats.envelope import crossing, monotone_envelope, plateau
from batchcliff.stats.failure import draw_failures
from batchcliff.stats.intervals import Estimate, check_level
from batchcliff.stats.noise import normals

Array = NDArray[np.float64]

TOLERANCE = "tolerance cliff: monotone envelope, linear in log2 B, logistic-mixture draws"
COLLAPSE = "collapse cliff: logistic in log2 B, posterior draws"
NOTE_FROM = 0.1  # octaves between an estimate and the plain crossing worth a note


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What every arm of a study is measured against; accuracies are shares in [0, 1].

    plateau: best running mean of the reference arm from its smallest batch size up (the
    first level of its monotone envelope), diverged trials counted at `chance`.
    floor: a trial below it fails, as a diverged one does.
    curve: the reference arm itself, None where it has no measured trial.
    problem: why nothing can be measured against it; "" if it can.
    """

    chance: float
    plateau: float | None
    floor: float | None
    delta: float
    level: float
    curve: Curve | None
    problem: str = ""

    @property
    def threshold(self) -> float | None:
        """plateau - delta: the tolerance cliff is where an arm's mean falls through it."""
        return None if self.plateau is None else self.plateau - self.delta


def make_reference(
    curve: Curve,
    chance: float,
    delta: float = 0.02,
    level: float = 0.95,
    floor: float | None = None,
) -> Reference:
    """The plateau and the floor from the reference arm's `curve`.

    `floor` defaults to halfway between chance and plateau. A plateau within 2 delta of
    chance is a `problem`, since nothing can fall from it. Raises UsageError unless
    0 < delta < 1, 0 <= chance < 1 and 0 < level < 1.
    """
    check_level(level)
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta is {delta}; give a share of accuracy between 0 and 1: 0.02")
    if not 0.0 <= chance < 1.0:
        raise UsageError(f"chance is {chance}; expected 1 / number of classes")
    if not curve.batch_sizes:
        problem = f"the reference arm {curve.arm!r} has no measured trial"
        return Reference(
            chance=chance,
            plateau=None,
            floor=floor,
            delta=delta,
            level=level,
            curve=None,
            problem=problem,
        )
    top = float(plateau(curve.means[None, :])[0])
    problem = ""
    if top - chance <= 2 * delta:
        problem = (
            f"the reference arm {curve.arm!r} learns nothing at its smallest batch sizes: "
            f"plateau {top:.3f}, chance {chance:.3f}"
        )
    return Reference(
        chance=chance,
        plateau=top,
        floor=(chance + top) / 2 if floor is None else floor,
        delta=delta,
        level=level,
        curve=curve,
        problem=problem,
    )


LINGERS = 0.25
"""Of plateau less floor, below the plateau: a trial nearer to it is taken to stand anywhere."""


def settled(curves: Sequence[Curve], reference: Reference) -> tuple[list[Curve], Reference]:
    """The arms, the reference's own among them, with those trials noted that linger, and the
    reference with its arm so noted. They end above the floor and far below the plateau, and
    count as collapsed, in all arms alike, if any arm has such trials at twice the first size at
    which half of its trials fail; nearer to it they may be on their way down.

    The model knows trials that stand and trials that collapse. A share of the latter that ends
    above the floor at every size would look like trials that no batch size makes collapse, the
    collapse like a wide one, and the cliff too low (docs/statistics.md, "What lingers").
    """
    if reference.plateau is None or reference.floor is None:
        return list(curves), reference
    floor = reference.floor
    deep = reference.plateau - LINGERS * (reference.plateau - floor)
    found, past = [], False
    for curve in curves:
        sizes = range(len(curve.batch_sizes))
        lingering = tuple(
            frozenset(seed for seed, value in curve.values[k].items() if floor <= value < deep)
            for k in sizes
        )
        half = [2 * len(curve.below(k, floor)) >= len(curve.values[k]) for k in sizes]
        if any(half):
            least = 2 * curve.batch_sizes[half.index(True)]
            past |= any(lingering[k] for k in sizes if curve.batch_sizes[k] >= least)
        found.append(dataclasses.replace(curve, lingering=lingering))
    if not past:
        return list(curves), reference
    base = next(new for new, old in zip(found, curves, strict=True) if old is reference.curve)
    return found, dataclasses.replace(reference, curve=base)


@dataclass(frozen=True, slots=True)
class CliffDraws:
    """Draws of log2 cliffs, [D]; +-inf: above or below the arm's grid."""

    tolerance: Array
    collapse: Array
    ends: tuple[float, float]  # log2 of the smallest and largest measured batch size


def draw_cliffs(
    curve: Curve, reference: Reference, correlation: float = 0.0, draws: int = DRAWS
) -> tuple[CliffDraws, CliffDraws]:
    """Draws of (the arm's, the reference arm's) cliffs, joint through the plateau.

    `correlation` of the two arms' seed noise at a batch size. For the reference arm itself
    both are the same object. Draws are a function of the data alone (fixed seed).
    """
    assert reference.curve is not None and reference.floor is not None
    base, floor, chance = reference.curve, reference.floor, reference.chance
    arms = [base] if curve is base else [base, curve]
    failures = draw_failures([failure_counts(arm, floor) for arm in arms], draws)
    noise = [
        [normals(draws, i, 0, k) for k in range(len(arm.batch_sizes))]
        for i, arm in enumerate(arms)
    ]
    if curve is not base and correlation:
        own = math.sqrt(1 - correlation**2)
        for k, size in enumerate(curve.batch_sizes):
            if size in base.batch_sizes:
                shared_D = noise[0][base.batch_sizes.index(size)]
                noise[1][k] = correlation * shared_D + own * noise[1][k]
    means = [
        draw_means(arm, failures[i], floor, chance, noise[i], i) for i, arm in enumerate(arms)
    ]
    threshold_D = plateau(means[0]) - reference.delta
    cliffs = [
        _cliffs(arm, means_DK, failed.half, threshold_D)
        for arm, means_DK, failed in zip(arms, means, failures, strict=True)
    ]
    return cliffs[-1], cliffs[0]


def _cliffs(curve: Curve, means_DK: Array, half_D: Array, threshold_D: Array) -> CliffDraws:
    x = curve.log2_sizes
    below, above = half_D < x[0], half_D > x[-1]
    collapse = np.where(below, -np.inf, np.where(above, np.inf, half_D))
    tolerance = crossing(monotone_envelope(means_DK), threshold_D, x)
    return CliffDraws(tolerance, collapse, (float(x[0]), float(x[-1])))


def tolerance_cliff(
    curve: Curve, reference: Reference, drawn: CliffDraws | None = None
) -> Estimate:
    """Largest batch size whose mean accuracy is within delta of the reference plateau.

    Value: a quantile of the draws near the median (`calibration`); n: most seeds in a cell.
    Censored where the arm's grid shows no crossing. With one seed, the crossing of the
    measured curve itself: a bracket and no interval. `drawn` saves drawing again.
    """
    if problem := _problem(curve, reference):
        return _nothing(reference, TOLERANCE, curve.seeds, problem)
    assert reference.curve is not None
    plain = tolerance_point(curve, reference)
    if min(curve.seeds, reference.curve.seeds) < 2:
        return _estimate(plain, plain, None, curve, reference.level, TOLERANCE)
    draws = (drawn or draw_cliffs(curve, reference)[0]).tolerance
    known = arm_evidence(curve, reference)
    scale = interval_scale("tolerance", known, joint=curve is not reference.curve)
    scales = sliding_scales(known) if slides(curve, reference) else (scale, scale)
    ends = tail_shares(reference.level, *scales)
    point = quantile(draws, tolerance_place(known))
    return _estimate(point, plain, _ends(draws, ends), curve, reference.level, TOLERANCE)


def collapse_cliff(
    curve: Curve, reference: Reference, drawn: CliffDraws | None = None
) -> Estimate:
    """Batch size at which half of the trials fail (diverge, or end below the floor).

    Value: median of the draws, the logistic's midpoint; n: most seeds in a cell. Censored
    where it lies outside of the arm's grid. With one seed, the middle of the bracket in
    which failures begin, and no interval. `drawn` saves drawing again.
    """
    if problem := _problem(curve, reference):
        return _nothing(reference, COLLAPSE, curve.seeds, problem)
    plain = collapse_point(curve, reference)
    if curve.seeds < 2:
        return _estimate(plain, plain, None, curve, reference.level, COLLAPSE)
    draws = (drawn or draw_cliffs(curve, reference)[0]).collapse
    scale = interval_scale("collapse", arm_evidence(curve, reference))
    ends = tail_shares(reference.level, scale, scale)
    point = quantile(draws, 0.5)
    return _estimate(point, plain, _ends(draws, ends), curve, reference.level, COLLAPSE)


def tolerance_point(curve: Curve, reference: Reference) -> float:
    """Where the measured means' monotone envelope crosses the threshold: log2 of batch size.

    +-inf outside of the grid. Diverged trials count at chance.
    """
    assert reference.threshold is not None
    falling = monotone_envelope(curve.means[None, :])
    return float(crossing(falling, np.array([reference.threshold]), curve.log2_sizes)[0])


def collapse_point(curve: Curve, reference: Reference) -> float:
    """Where the measured failure share, made monotone, crosses a half: log2 of batch size.

    +-inf outside of the grid. Linear between grid points, so that a jump from no failure to
    nothing else lies in the middle of its bracket.
    """
    assert reference.floor is not None
    sizes = range(len(curve.batch_sizes))
    stand = [1 - len(curve.failing(k, reference.floor)) / len(curve.values[k]) for k in sizes]
    falling = monotone_envelope(np.array([stand]))
    return float(crossing(falling, np.array([0.5]), curve.log2_sizes)[0])


def quantile(draws_D: Array, share: float) -> float:
    """Order statistic of draws that may be infinite (no interpolation between them)."""
    place = min(int(share * draws_D.size), draws_D.size - 1)
    return float(np.partition(draws_D, place)[place])


def slides(curve: Curve, reference: Reference) -> bool:
    """Whether the arm falls without a collapse: at some size all trials stand, and their mean
    is below the plateau by twice the tolerance. Its cliff is then where the means say it is.
    """
    assert reference.floor is not None and reference.threshold is not None
    floor, deep = reference.floor, reference.threshold - reference.delta
    return any(
        mean < deep and not curve.failing(k, floor) for k, mean in enumerate(curve.means)
    )


def arm_evidence(curve: Curve, reference: Reference) -> Evidence:
    """What the arm's counts of collapsed trials say of its collapse."""
    assert reference.floor is not None
    return evidence(failure_counts(curve, reference.floor))


def _ends(draws_D: Array, at: tuple[float, float]) -> tuple[float, float]:
    """The draws' quantiles at two shares."""
    return quantile(draws_D, at[0]), quantile(draws_D, at[1])


def _problem(curve: Curve, reference: Reference) -> str:
    if reference.problem:
        return reference.problem
    if not curve.batch_sizes:
        return f"arm {curve.arm!r} has no measured trial"
    if len(curve.batch_sizes) == 1:
        return f"arm {curve.arm!r} is measured at one batch size only: no curve to follow"
    return ""


def _nothing(reference: Reference, method: str, n: int, note: str) -> Estimate:
    return Estimate(
        value=None, low=None, high=None, level=reference.level, method=method, n=n, note=note
    )


def _estimate(
    point: float,
    plain: float,
    ends: tuple[float, float] | None,
    curve: Curve,
    level: float,
    method: str,
) -> Estimate:
    """Batch sizes from log2 `point` and interval; infinite ones become censored or open.

    `plain`: the crossing of the measured curve, for the bracket and the note. An interval
    that does not hold the point is widened to do so.
    """
    sizes = curve.batch_sizes
    censored = "" if math.isfinite(point) else ("above" if point > 0 else "below")
    notes = [f"{censored} the measured batch sizes"] if censored else []
    low = high = None
    unbounded = ""
    if ends is None:
        notes.append("one seed: no interval")
    else:
        ends = min(ends[0], point), max(ends[1], point)
        unbounded = open_sides(*ends)
        low = None if ends[0] == -math.inf else batch_size_at(ends[0], sizes)
        high = None if ends[1] == math.inf else batch_size_at(ends[1], sizes)
        if math.isfinite(plain) and abs(plain - point) > NOTE_FROM:
            notes.append(f"the measured curve itself crosses at {2.0**plain:.0f}")
    return Estimate(
        value=batch_size_at(point, sizes),
        low=low,
        high=high,
        level=level,
        method=method,
        n=curve.seeds,
        note="; ".join(notes),
        censored=censored,
        unbounded=unbounded,
        bracket=_bracket(plain, sizes),
    )


def open_sides(low: float, high: float) -> str:
    """`Estimate.unbounded` of an interval whose ends may be infinite."""
    if low == -math.inf:
        return "both" if high == math.inf else "low"
    return "high" if high == math.inf else ""


def batch_size_at(log2: float, sizes: tuple[int, ...]) -> float:
    """2**log2, cut to the measured sizes: an infinite one is the end of the grid."""
    return float(2.0 ** np.clip(log2, math.log2(sizes[0]), math.log2(sizes[-1])))


def _bracket(point: float, sizes: tuple[int, ...]) -> tuple[int, int] | None:
    """The neighbouring grid sizes around log2 `point`; None outside of the grid."""
    if not math.isfinite(point):
        return None
    right = int(np.searchsorted(np.log2(np.array(sizes)), point, side="right"))
    right = min(max(right, 1), len(sizes) - 1)
    return sizes[right - 1], sizes[right]
