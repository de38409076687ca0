"""Means of accuracies and of their differences, with intervals inside of what can be.

Student's t knows no limits: two accuracies of 20 and 90% have the interval -390 to 500%. An end
beyond what the quantity can be is cut there, which loses no coverage; an interval that reaches
beyond both ends says nothing at all, and is left out with a note that says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from batchcliff.stats.intervals import Estimate, mean_interval

USELESS = "no useful interval"


def mean_share(
    values: Sequence[float], level: float = 0.95, what: str = "mean over seeds"
) -> Estimate:
    """Mean of shares with Student's t interval inside of [0, 1]. UsageError for NaN."""
    return within(mean_interval(values, level, what), 0.0, 1.0)


def mean_difference(values: Sequence[float], level: float, what: str) -> Estimate:
    """Mean of differences of two shares with Student's t interval inside of [-1, 1].

    Raises UsageError for NaN.
    """
    return within(mean_interval(values, level, what), -1.0, 1.0)


def within(estimate: Estimate, least: float, most: float = math.inf) -> Estimate:
    """The estimate with its interval cut to [least, most]; without one, and a note, where it
    reaches beyond both. An estimate without interval is returned as it is."""
    low, high = estimate.low, estimate.high
    if low is None or high is None or (low >= least and high <= most):
        return estimate
    if low < least and high > most:
        note = f"{estimate.n} seeds: {USELESS}"
        note = "; ".join(filter(None, [estimate.note, note]))
        return dataclasses.replace(estimate, low=None, high=None, note=note)
    return dataclasses.replace(estimate, low=max(low, least), high=min(high, most))
