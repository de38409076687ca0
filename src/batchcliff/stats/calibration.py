"""From draws to answers: which quantiles of a posterior are the estimate and the interval.

Posterior quantiles are right on average over their prior. Over simulated studies of one kind
they are not: intervals cover too often where seeds are few, and the median of a tolerance
cliff lies too low where collapses are sharp. What is known of a study decides by how much:
the seeds, whether the collapse shows a width and at how many sizes, whether trials collapse
where others stand.

A level is recalibrated on the scale of normal quantiles (prepivoting: Beran 1987, Biometrika
74:457, with a smooth function fitted once instead of a simulation for each study): the 95%
interval holds the draws between the quantiles Phi(-1.96 c) and Phi(1.96 c), and the estimate
is the quantile Phi(b). The constants were fitted to studies of random kinds, and checked on
others: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from batchcliff.stats.failure import Counts

FEWEST, MOST = 3, 10  # seeds that were simulated: fewer count as 3; for the place, more as 10
WIDEST = 0.6  # octaves: a collapse that is seen to be wider moves the estimate no further
ROOM = 3.0  # octaves beyond the collapse that show its upper end; more say nothing new
NO_COLLAPSE = 0.5  # octaves that count as missing of them where no size is beyond it
HIGHEST = 0.9  # b: the estimate lies at the quantile 0.82 at most
SMALL_COST = 0.025  # share of collapses that costs the tolerance of the studies fitted to
TWO_SEEDS = {"cliff": 0.91, "shift": 1.18}  # c of a collapse: two seeds seldom show a width
# c of a tolerance cliff by seeds: where no size shows both kinds of trials, where one does, and
# where more do. One leaves most open: neither a step nor seen to be wide.
TOLERANCE = {
    3: (0.88, 0.80, 0.76),
    5: (0.83, 1.00, 0.87),
    10: (0.88, 1.06, 0.90),
    20: (0.97, 1.06, 1.00),
}
STRAY = 0.14  # more of it with a stray trial
JOINT = 0.94  # times, at three seeds, for an arm that is drawn with the reference; at five 1
# c of a shift by seeds: where none, one, two (and more) sizes show both kinds, in both arms.
SHIFT: dict[str, dict[int, tuple[float, ...]]] = {
    "tolerance": {
        3: (0.68, 0.81, 0.69),
        5: (0.80, 0.75, 0.82),
        10: (0.88, 0.73, 0.92),
        20: (0.90, 0.76, 0.95),
    },
    "collapse": {
        3: (0.93, 0.91, 1.10, 1.06),
        5: (1.05, 0.90, 1.12, 1.17),
        10: (1.07, 0.88, 0.98, 1.09),
        20: (1.05, 0.90, 0.98, 1.06),
    },
}
LARGE_COST = 0.1  # more of a tolerance cliff's, as the cost grows
# Over n, less of a tolerance cliff's shift: times the share of trials that is lost, of which no
# more was simulated than `MOST_LOST`; where an arm does not show how its collapse ends.
LOST, MOST_LOST, UNSEEN = 1.5, 0.25, 0.3
# Over n, less of a collapse where the grid ends with it: most collapse in `LAST` octave alone.
ENDING, LAST = {"cliff": 0.25, "shift": 0.4}, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What an arm's counts say of how its trials collapse.

    width: octaves, an unbiased estimate of the logistic's width from the sizes beyond the
    last one at which all stand; 0 where none shows both. stray: whether a trial collapsed
    before that. beyond: octaves of the grid at which most trials collapse. seeds: most
    trials at a size. mixed: sizes beyond that last one with both kinds of trials. lost: share
    of `seeds` without a trial, on average from that last size to the first at which most
    collapse; what a search left out farther off is no matter.
    """

    seeds: int
    width: float
    stray: bool
    beyond: float
    mixed: int
    lost: float = 0.0


@lru_cache(maxsize=4096)
def evidence(counts: Counts) -> Evidence:
    """The features of an arm that its calibration depends on.

    With p_k logistic, the sum of p_k (1 - p_k) over a grid of step h is width / h on average
    over the grid's place (the integral of p (1 - p) is the width), and
    f (n - f) / (n (n - 1)) is unbiased for p (1 - p).
    """
    f, n = np.array(counts.fails), np.array(counts.trials)
    sizes = len(f)
    all_stand = np.flatnonzero(f == 0)
    first = int(all_stand[-1]) + 1 if all_stand.size else 0
    steps = np.gradient(np.array(counts.log2_sizes)) if sizes > 1 else np.ones(sizes)
    spread = f * (n - f) / np.maximum(n * (n - 1), 1) * steps
    most = np.flatnonzero((2 * f > n) & (np.arange(sizes) >= first))
    around = n[max(first - 1, 0) : int(most[0]) + 1 if most.size else sizes]
    return Evidence(
        seeds=int(n.max()),
        width=float(spread[first:].sum()),
        stray=bool(f[:first].any()),
        beyond=float(steps[2 * f > n].sum()),
        mixed=int(np.count_nonzero((f > 0) & (f < n) & (np.arange(sizes) >= first))),
        lost=float(1 - around.mean() / n.max()),
    )


def tolerance_place(known: Evidence) -> float:
    """The share of draws below the estimate of a tolerance cliff: Phi(b).

    One half would be the median. Higher where no size shows both kinds of trials, lower where
    the collapse is seen to be wide: the two make up for each other. Higher also where a stray
    trial, or a grid that ends soon after the collapse, makes the draws too wide downwards.
    """
    n = min(max(known.seeds, FEWEST), MOST)
    missing = max(ROOM - known.beyond, 0.0) if known.beyond else NO_COLLAPSE
    b = 2.28 / n - 0.4 + (0.5 - 6.5 / n) * min(known.width, WIDEST)
    b += (0.7 - 1.1 / n) * known.stray + (0.1 + 0.3 / n) * missing
    return float(special.ndtr(min(b, HIGHEST)))


def interval_scale(kind: str, known: Evidence, joint: bool = False) -> float:
    """c of an arm's own cliff: below 1 where the draws are wider than they need be. `joint`:
    the arm is drawn with the reference arm."""
    n = max(known.seeds, FEWEST)
    if kind == "tolerance":
        scale = _by_seeds(TOLERANCE, n, known.mixed)
        if joint and known.mixed:
            scale *= float(np.interp(-1 / n, (-1 / 3, -1 / 5), (JOINT, 1.0)))
        return scale + STRAY * known.stray
    less = ENDING["cliff"] / n if 0 < known.beyond <= LAST else 0.0
    if known.width > 0:
        return 1.0 + 0.36 / known.seeds - less
    return TWO_SEEDS["cliff"] if known.seeds < FEWEST else 1.0 - 0.2 / n - 0.65 / n**2 - less


def sliding_scales(known: Evidence) -> tuple[float, float]:
    """c below and above the tolerance cliff of an arm that falls without a collapse
    (`cliff.slides`). Where its means cross the tolerance Student's t says; that trials may
    yet collapse at smaller sizes widens the draws downwards only, and hardly matters here."""
    n = max(known.seeds, FEWEST)
    return 1.0 - 1.5 / n, 1.04 - 0.4 / n


def shift_scale(
    kind: str,
    seeds: int,
    cost: float,
    mixed: int,
    slide: bool = False,
    lost: float = 0.0,
    beyond: float = ROOM,
) -> float:
    """c of the shift of a cliff; `seeds` of the arm that has fewer.

    cost: the share of trials whose collapse costs the tolerance, delta / (plateau - chance);
    a tolerance cliff with a large one is as well known as a collapse cliff, and so is its
    shift. mixed, of the two arms together, and lost, their mean: see `Evidence`. slide: both
    arms fall without a collapse (`cliff.slides`). beyond: the smaller of the arms'.
    """
    n = max(seeds, FEWEST)
    if slide:
        return 0.92 - 0.15 / n if kind == "collapse" else 1.03 - 1.38 / n
    if kind == "tolerance":
        dear = 1 - min(1.0, SMALL_COST / cost)
        less = LOST * min(lost, MOST_LOST) + UNSEEN * (not beyond and mixed > 0)
        return _by_seeds(SHIFT[kind], n, mixed) + LARGE_COST * dear - less / n
    if seeds < FEWEST:
        return TWO_SEEDS["shift"]
    return _by_seeds(SHIFT[kind], n, mixed) - ENDING["shift"] / n * (beyond <= LAST)


def _by_seeds(table: Mapping[int, tuple[float, ...]], n: int, mixed: int) -> float:
    """The table's c at that many mixed sizes, or its last one, linear in 1 / n between rows."""
    fitted = [-1 / seeds for seeds in table]
    return float(
        np.interp(-1 / n, fitted, [row[min(mixed, len(row) - 1)] for row in table.values()])
    )


def tail_shares(level: float, below: float, above: float) -> tuple[float, float]:
    """The shares of draws below the two ends of the interval of `level`, from c on its two
    sides."""
    z = special.ndtri((1 - level) / 2)
    return float(special.ndtr(below * z)), 1 - float(special.ndtr(above * z))


def two_sided(tail: float, scale: float) -> float:
    """The p-value that belongs to `tail_shares`: the level whose interval leaves a share `tail`
    of the draws on that side is one minus it."""
    return float(min(1.0, 2 * special.ndtr(special.ndtri(min(tail, 0.5)) / scale)))
