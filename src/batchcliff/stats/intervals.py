"""A number that leaves `stats`: `Estimate`, with its interval, level, method and n.

Also the two intervals that have a closed form: the t interval of a mean and the exact
binomial interval of a share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # a third of the time that importing scipy.stats takes

from batchcliff.errors import UsageError

CENSORED = ("", "below", "above")
UNBOUNDED = ("", "low", "high", "both")


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with what is known about it; plain numbers in the unit of the quantity.

    value: the answer; None when the data give none (`note` says why). When `censored` is
    "above" ("below") the truth lies above (below) `value`, which is then the last (first)
    grid point: print it as "> 8192".
    low, high: the interval's ends; None where there is none. `unbounded` says on which
    sides the interval is open because the grid shows no end: (low=900, high=None,
    unbounded="high") reads "at least 900". No interval at all: both None, unbounded "".
    bracket: of a cliff, the two neighbouring batch sizes of the grid that it lies between.
    level: of the interval, e.g. 0.95; n: seeds (or trials, or pairs: `method` says) used.

    Raises UsageError for NaN or infinity, an unknown code, or low > high.
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    method: str
    n: int
    note: str = ""
    censored: str = ""
    unbounded: str = ""
    bracket: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "level"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise UsageError(f"estimate ({self.method}): {name} is {number}, not a number")
        if self.censored not in CENSORED or self.unbounded not in UNBOUNDED:
            raise UsageError(
                f"estimate ({self.method}): censored={self.censored!r} must be one of "
                f"{CENSORED}, unbounded={self.unbounded!r} one of {UNBOUNDED}"
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UsageError(f"estimate ({self.method}): low {self.low} > high {self.high}")

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval, open ends included."""
        return self.low is not None or self.high is not None or self.unbounded != ""

    def covers(self, truth: float) -> bool:
        """Whether the interval holds `truth`; an open side holds everything beyond."""
        if not self.has_interval:
            return False
        above_low = self.unbounded in ("low", "both") or (
            self.low is not None and truth >= self.low
        )
        below_high = self.unbounded in ("high", "both") or (
            self.high is not None and truth <= self.high
        )
        return above_low and below_high


def check_level(level: float) -> float:
    """`level` itself; UsageError unless it lies strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise UsageError(f"level is {level}; give a confidence level between 0 and 1: 0.95")
    return level


def finite(values: Sequence[float], what: str) -> np.ndarray:
    """`values` as float64 [n]; UsageError that names `what` if one is NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise UsageError(f"{what}: value {int(bad[0])} is {array[bad[0]]}, not a number")
    return array


def mean_interval(
    values: Sequence[float], level: float = 0.95, what: str = "mean over seeds"
) -> Estimate:
    """Mean of n values with Student's t interval: mean +- t(n - 1) s / sqrt(n).

    n = 1: the value without interval; n = 0: no value; the note says so. The interval is
    exact for normal values. Raises UsageError for NaN.
    """
    check_level(level)
    array = finite(values, what)
    method = f"{what}, Student t"
    n = int(array.size)
    if n == 0:
        return _without_interval(None, level, method, 0, "no trial to average")
    centre = float(array.mean())
    if n == 1:
        return _without_interval(centre, level, method, 1, "one seed: no interval")
    half = float(special.stdtrit(n - 1, 0.5 + level / 2) * array.std(ddof=1) / math.sqrt(n))
    return Estimate(
        value=centre, low=centre - half, high=centre + half, level=level, method=method, n=n
    )


def share_interval(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Exact binomial interval of a share (Clopper and Pearson 1934, Biometrika 26:404).

    Covers at least `level` for every true share. n = 0: no value. Raises UsageError unless
    0 <= successes <= n.
    """
    check_level(level)
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} successes of {n} trials: impossible counts")
    method = "exact binomial (Clopper-Pearson)"
    if n == 0:
        return _without_interval(None, level, method, 0, "no trial to count")
    tail = (1 - level) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = float(special.betaincinv(successes, n - successes + 1, tail))
    if successes < n:
        high = float(special.betaincinv(successes + 1, n - successes, 1 - tail))
    return Estimate(value=successes / n, low=low, high=high, level=level, method=method, n=n)


def _without_interval(
    value: float | None, level: float, method: str, n: int, note: str
) -> Estimate:
    return Estimate(
        value=value, low=None, high=None, level=level, method=method, n=n, note=note
    )
