"""Estimates refuse NaN; closed-form intervals agree with independent code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from batchcliff.errors import UsageError
from batchcliff.stats.intervals import Estimate, mean_interval, share_interval


def estimate(**changes):
    base = {"value": 2.0, "low": 1.0, "high": 3.0, "level": 0.95, "method": "m", "n": 3}
    return Estimate(**(base | changes))


@pytest.mark.parametrize("name", ["value", "low", "high", "level"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_never_becomes_an_estimate(name, bad):
    with pytest.raises(UsageError, match=rf"{name} is (nan|inf), not a number"):
        estimate(**{name: bad})


def test_an_estimate_refuses_what_contradicts_itself():
    with pytest.raises(UsageError, match=r"low 4.0 > high 3.0"):
        estimate(low=4.0)
    with pytest.raises(UsageError, match="censored='over' must be one of"):
        estimate(censored="over")


@pytest.mark.parametrize(
    ("low", "high", "unbounded", "held"),
    [
        (1.0, 3.0, "", {1.0: True, 3.0: True, 0.9: False, 3.1: False}),
        (1.0, None, "high", {0.9: False, 1e9: True}),
        (None, 3.0, "low", {-1e9: True, 3.1: False}),
        (None, None, "both", {-1e9: True, 1e9: True}),
        (None, None, "", {2.0: False}),
    ],
)
def test_an_open_side_holds_everything_beyond_and_no_interval_holds_nothing(
    low, high, unbounded, held
):
    found = estimate(low=low, high=high, unbounded=unbounded)
    assert {truth: found.covers(truth) for truth in held} == held
    assert found.has_interval == any(held.values())


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.sampled_from([0.8, 0.95, 0.99]))
def test_twin_mean_interval_is_scipys(values, level):
    found = mean_interval(values, level)
    spread = stats.sem(values)
    if spread == 0:
        assert (found.low, found.high) == (found.value, found.value)
        return
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), spread)
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)


def test_one_value_has_no_interval_and_says_so():
    one = mean_interval([0.5])
    assert (one.value, one.low, one.high, one.has_interval) == (0.5, None, None, False)
    assert "one seed" in one.note
    assert mean_interval([]).value is None
    with pytest.raises(UsageError, match="value 1 is nan"):
        mean_interval([0.5, math.nan])


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_twin_share_interval_is_statsmodels(counts):
    successes, n = counts
    found = share_interval(successes, n, 0.9)
    low, high = proportion_confint(successes, n, alpha=0.1, method="beta")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_law_the_exact_interval_covers_every_share(n):
    truths = np.linspace(0.001, 0.999, 333)
    held = np.zeros_like(truths)
    for k in range(n + 1):
        found = share_interval(k, n)
        inside = [found.covers(truth) for truth in truths]
        held += np.where(inside, stats.binom.pmf(k, n, truths), 0.0)
    assert held.min() >= 0.95


def test_impossible_counts_and_levels_are_refused():
    with pytest.raises(UsageError, match="4 successes of 3 trials"):
        share_interval(4, 3)
    with pytest.raises(UsageError, match="level is 95"):
        share_interval(1, 3, 95)
    assert share_interval(0, 0).value is None
