"""Intervals of accuracies stay inside of what an accuracy can be."""

from __future__ import annotations

import math

import pytest

from batchcliff.errors import UsageError
from batchcliff.stats.intervals import Estimate, mean_interval
from batchcliff.stats.shares import USELESS, mean_difference, mean_share, within


def test_inside_nothing_changes() -> None:
    values = [0.90, 0.91, 0.92]
    assert mean_share(values, 0.95) == mean_interval(values, 0.95)
    assert mean_difference([0.1, 0.2, 0.15], 0.95, "d") == mean_interval(
        [0.1, 0.2, 0.15], 0.95, "d"
    )


def test_an_end_beyond_the_possible_is_cut_and_no_truth_is_lost() -> None:
    values = [0.97, 0.99]
    whole, cut = mean_interval(values), mean_share(values)
    assert whole.high is not None and whole.high > 1
    assert (cut.low, cut.high, cut.value) == (whole.low, 1.0, whole.value)
    assert all(cut.covers(p) == whole.covers(p) for p in (0.0, 0.85, 0.9, 0.98, 1.0))


def test_two_seeds_far_apart_have_no_useful_interval() -> None:
    """Student's t of two: 12.7 standard errors on either side."""
    found = mean_share([0.2, 0.9])
    assert (found.low, found.high, found.has_interval) == (None, None, False)
    assert found.value == pytest.approx(0.55) and found.note == f"2 seeds: {USELESS}"
    difference = mean_difference([-0.3, 0.1], 0.95, "d")
    assert difference.low is None and difference.note == f"2 seeds: {USELESS}"
    control = mean_interval([-0.3, 0.1])
    assert control.low is not None and control.low < -1 and control.high > 1  # type: ignore[operator]


def test_one_side_only_of_a_difference() -> None:
    found = mean_difference([-0.9, -0.8], 0.95, "d")
    assert found.low == -1.0 and found.high is not None and -0.3 < found.high < 0


def test_a_quantity_without_an_upper_end() -> None:
    found = within(mean_interval([0.1, 0.9]), 0.0)
    assert found.low == 0.0 and found.high is not None and found.high > 5
    assert within(found, 0.0, math.inf) is found


def test_what_has_no_interval_is_left_alone() -> None:
    one = mean_share([0.5])
    assert one == mean_interval([0.5]) and one.note == "one seed: no interval"
    open_ended = Estimate(
        value=0.5, low=-3.0, high=None, level=0.95, method="m", n=2, unbounded="high"
    )
    assert within(open_ended, 0.0, 1.0) is open_ended


def test_nan_is_refused() -> None:
    with pytest.raises(UsageError, match="value 1 is nan"):
        mean_share([0.5, math.nan])
