"""How far an arm moves a cliff, as a factor of batch size, against the reference arm.

Also the paired difference of accuracies at each batch size, and Holm's correction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from batchcliff.errors import UsageError
from batchcliff.stats.calibration import shift_scale, tail_shares, two_sided
from batchcliff.stats.cliff import (
    CliffDraws,
    Reference,
    arm_evidence,
    collapse_point,
    draw_cliffs,
    open_sides,
    quantile,
    slides,
    tolerance_point,
)
from batchcliff.stats.draws import Curve
from batchcliff.stats.intervals import Estimate, finite, mean_interval

Array = NDArray[np.float64]

POWER = 0.8
DETECT = math.sqrt(2.0)  # the factor that `seeds_needed` is about: half an octave
KINDS = ("tolerance", "collapse")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How far `arm` moves the `kind` cliff of `reference_arm`.

    factor: cliff of the arm / cliff of the reference, with interval; 2 is one octave.
    p_value: two-sided, of factor 1; p_adjusted: after Holm over the study's arms.
    minimum_detectable: factor (> 1) found with probability 0.8 at the level's alpha with
    the seeds at hand; seeds_needed: for a factor of sqrt(2). None: cannot be said.
    """

    kind: str
    arm: str
    reference_arm: str
    factor: Estimate
    pairs: int  # (batch size, seed) measured in both arms
    p_value: float | None = None
    p_adjusted: float | None = None
    minimum_detectable: float | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Mean of (arm - reference arm) over seeds at one batch size, in shares of accuracy."""

    arm: str
    reference_arm: str
    batch_size: int
    difference: Estimate


def shift(
    arm: Curve,
    reference: Reference,
    kind: str,
    drawn: tuple[CliffDraws, CliffDraws] | None = None,
) -> Shift:
    """The factor by which `arm` moves the `kind` cliff of the reference arm.

    Joint draws of both arms (plateau, width of the collapse and seed noise are shared) give
    interval and p-value, so that an interval that excludes 1 and a small p-value are one
    statement. A censored cliff makes the factor a bound. `drawn` saves `draw_pair`. Raises
    UsageError for an unknown kind.
    """
    if kind not in KINDS:
        raise UsageError(f"cliff kind {kind!r} is unknown: write {' or '.join(KINDS)}")
    base, level = reference.curve, reference.level
    method = f"{kind} cliffs, joint draws paired by seed"
    found = Shift(
        kind=kind,
        arm=arm.arm,
        reference_arm="" if base is None else base.arm,
        factor=_nothing(level, method, arm.seeds, reference.problem or "no curve to follow"),
        pairs=0 if base is None else len(_pairs(arm, base)),
    )
    if base is None or reference.problem or min(map(len, (arm.values, base.values))) < 2:
        return found
    seeds = min(arm.seeds, base.seeds)
    drawn = drawn or draw_pair(arm, reference)
    if seeds < 2:
        plain = tolerance_point if kind == "tolerance" else collapse_point
        value, censored, note = _factor((plain(arm, reference), plain(base, reference)), drawn)
        note = "; ".join(filter(None, [note, "one seed: no interval, no test"]))
        factor = _nothing(level, method, seeds, note)
        factor = dataclasses.replace(factor, value=value, censored=censored)
        return dataclasses.replace(found, factor=factor)
    arm_D, base_D = (c.tolerance if kind == "tolerance" else c.collapse for c in drawn)
    low_D, high_D = _difference_bounds(arm_D, base_D, drawn)
    assert reference.plateau is not None
    cost = reference.delta / (reference.plateau - reference.chance)
    slide = slides(arm, reference) and slides(base, reference)
    known = [arm_evidence(curve, reference) for curve in (arm, base)]
    mixed, lost = sum(one.mixed for one in known), sum(one.lost for one in known) / 2
    beyond = min(one.beyond for one in known)
    scale = shift_scale(kind, seeds, cost, mixed, slide, lost, beyond)
    at = tail_shares(level, scale, scale)
    ends = quantile(low_D, at[0]), quantile(high_D, at[1])
    point = _factor((quantile(arm_D, 0.5), quantile(base_D, 0.5)), drawn)
    factor, half = _interval(point, ends, level=level, method=method, n=seeds)
    p_value = two_sided(min(_tail(low_D <= 0), _tail(high_D >= 0)), scale)
    detectable, needed = sensitivity(half, level, seeds)
    return dataclasses.replace(
        found,
        factor=factor,
        p_value=p_value,
        p_adjusted=p_value,
        minimum_detectable=detectable,
        seeds_needed=needed,
    )


def draw_pair(arm: Curve, reference: Reference) -> tuple[CliffDraws, CliffDraws]:
    """Joint draws of the arm's and the reference arm's cliffs, with their correlation."""
    assert reference.curve is not None
    return draw_cliffs(arm, reference, seed_correlation(arm, reference.curve))


def _nothing(level: float, method: str, n: int, note: str) -> Estimate:
    return Estimate(value=None, low=None, high=None, level=level, method=method, n=n, note=note)


def _factor(
    points: tuple[float, float], drawn: tuple[CliffDraws, CliffDraws]
) -> tuple[float | None, str, str]:
    """(factor, censored, note) from the two log2 point estimates."""
    arm, base = points
    if math.isfinite(arm) and math.isfinite(base):
        return 2.0 ** (arm - base), "", ""
    if arm == base:
        return None, "", "both cliffs lie beyond the measured batch sizes: no factor"
    ends = [
        float(np.clip(point, *cliffs.ends)) for point, cliffs in zip(points, drawn, strict=True)
    ]
    direction = "above" if arm > base else "below"
    return 2.0 ** (ends[0] - ends[1]), direction, "a bound: one cliff is not on the grid"


def _difference_bounds(
    arm_D: Array, base_D: Array, drawn: tuple[CliffDraws, CliffDraws]
) -> tuple[Array, Array]:
    """Smallest and largest log2 factor that each draw allows, [D] each.

    A cliff above the grid may lie anywhere from its last size on, one below it anywhere up
    to its first.
    """

    def smallest(x_D: Array, ends: tuple[float, float]) -> Array:
        return np.where(x_D == np.inf, ends[1], x_D)

    def largest(x_D: Array, ends: tuple[float, float]) -> Array:
        return np.where(x_D == -np.inf, ends[0], x_D)

    arm, base = drawn
    low_D = smallest(arm_D, arm.ends) - largest(base_D, base.ends)
    high_D = largest(arm_D, arm.ends) - smallest(base_D, base.ends)
    return low_D, high_D


def _interval(
    point: tuple[float | None, str, str],
    ends: tuple[float, float],
    *,
    level: float,
    method: str,
    n: int,
) -> tuple[Estimate, float]:
    """The factor with its interval, and the interval's half width in octaves (maybe inf).

    `ends`: of the interval, log2. It is widened to hold the point where the medians'
    ratio lies outside.
    """
    value, censored, note = point
    low, high = ends
    if value is not None:
        low, high = min(low, math.log2(value)), max(high, math.log2(value))
    estimate = Estimate(
        value=value,
        low=None if low == -math.inf else 2.0**low,
        high=None if high == math.inf else 2.0**high,
        level=level,
        method=method,
        n=n,
        note=note,
        censored=censored,
        unbounded=open_sides(low, high),
    )
    return estimate, (high - low) / 2


def _tail(holds_D: NDArray[np.bool_]) -> float:
    """Share of draws, never 0: (count + 1) / (draws + 1)."""
    return (int(np.count_nonzero(holds_D)) + 1) / (holds_D.size + 1)


def sensitivity(half: float, level: float, seeds: int) -> tuple[float | None, int | None]:
    """(minimum detectable factor, seeds needed for `DETECT`) from the half width in octaves.

    A shift d is found with probability POWER when d >= h (1 + z_power / z_level), h the
    half width; h is taken to shrink as 1 / sqrt(seeds).
    """
    if not math.isfinite(half):
        return None, None
    normal = NormalDist()
    ratio = normal.inv_cdf(POWER) / normal.inv_cdf(0.5 + level / 2)
    octaves = half * (1 + ratio)
    needed = math.ceil(seeds * (octaves / math.log2(DETECT)) ** 2)
    return 2.0**octaves, max(2, needed)


def seed_correlation(arm: Curve, base: Curve) -> float:
    """Correlation of the two arms' seed noise within batch sizes, for the joint draws.

    Pearson's over residuals from the cell means, each cell scaled to its own spread, pairs
    of equal seed and batch size; less one standard error and never negative, so that a
    correlation that is not there does not narrow the interval of the shift.
    """
    products, freedom = 0.0, 0
    for size, mine in zip(arm.batch_sizes, arm.values, strict=True):
        if size not in base.batch_sizes:
            continue
        theirs = base.values[base.batch_sizes.index(size)]
        seeds = sorted(mine.keys() & theirs.keys())
        if len(seeds) < 2:
            continue
        a = np.array([mine[s] for s in seeds])
        b = np.array([theirs[s] for s in seeds])
        if np.ptp(a) == 0 or np.ptp(b) == 0:  # of equal numbers the spread is rounding alone
            continue
        a, b = a - a.mean(), b - b.mean()
        products += float(a @ b / np.sqrt((a @ a) * (b @ b))) * (len(seeds) - 1)
        freedom += len(seeds) - 1
    if freedom == 0:
        return 0.0
    return min(max(products / freedom - 1 / math.sqrt(freedom), 0.0), 0.95)


def _pairs(arm: Curve, base: Curve) -> list[tuple[int, int]]:
    """(batch size, seed) measured in both arms."""
    theirs = dict(zip(base.batch_sizes, base.values, strict=True))
    return [
        (size, seed)
        for size, values in zip(arm.batch_sizes, arm.values, strict=True)
        for seed in values
        if seed in theirs.get(size, {})
    ]


def paired_differences(
    arm: Curve, base: Curve, level: float = 0.95
) -> tuple[PairedDifference, ...]:
    """Arm minus reference arm at each batch size that both have, over their common seeds.

    Diverged trials count at chance. The interval is Student's t over the paired
    differences; where trials fail it is rough, and the note says so.
    """
    found = []
    for k, size in enumerate(arm.batch_sizes):
        if size not in base.batch_sizes:
            continue
        j = base.batch_sizes.index(size)
        mine, theirs = arm.values[k], base.values[j]
        seeds = sorted(mine.keys() & theirs.keys())
        values = [mine[seed] - theirs[seed] for seed in seeds]
        difference = mean_interval(values, level, "paired difference over seeds")
        if arm.diverged[k] or base.diverged[j]:
            note = "; ".join(filter(None, [difference.note, "diverged trials at chance"]))
            difference = dataclasses.replace(difference, note=note)
        found.append(
            PairedDifference(
                arm=arm.arm, reference_arm=base.arm, batch_size=size, difference=difference
            )
        )
    return tuple(found)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment (1979, Scand. J. Statist. 6:65), order kept.

    Rejecting where the adjusted value is <= alpha keeps the chance of any false alarm among
    all arms at alpha, however they depend on each other. Raises UsageError outside [0, 1].
    """
    values = finite(p_values, "p-values")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise UsageError(f"p-values must lie in [0, 1], got {list(p_values)}")
    order = np.argsort(values, kind="stable")
    weighted = np.minimum(values[order] * np.arange(values.size, 0, -1), 1.0)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(weighted)
    return tuple(float(p) for p in adjusted)


def adjust(shifts: Sequence[Shift]) -> tuple[Shift, ...]:
    """The shifts with `p_adjusted` set by Holm, over each kind of cliff apart."""
    out = list(shifts)
    for kind in KINDS:
        tested = [i for i, s in enumerate(out) if s.kind == kind and s.p_value is not None]
        adjusted = holm([p for i in tested if (p := out[i].p_value) is not None])
        for i, p in zip(tested, adjusted, strict=True):
            out[i] = dataclasses.replace(out[i], p_adjusted=p)
    return tuple(out)
