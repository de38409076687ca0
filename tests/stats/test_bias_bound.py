"""How little bias any estimator of the tolerance cliff can have (docs/statistics.md).

All trials stand at one size and before, all collapse two octaves on; of the size between
them a share p collapses. Then only the count f of n seeds there is random, the expectation
of any estimator is sum_f t(f) Binom(f; n, p), and the truth is known in p. The t that keeps
the largest bias over all p smallest is a linear program.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom
from simulated_studies import CHANCE, DELTA, PLATEAU

from batchcliff.stats.envelope import crossing

DROP = PLATEAU - CHANCE


def truth(shares, delta=DELTA):
    """Octaves from the last size where all stand to where the mean curve loses delta, [P]."""
    means = PLATEAU - DROP * np.stack([0 * shares, shares, 1 + 0 * shares], axis=1)
    level = np.full(shares.size, PLATEAU - delta)
    return crossing(means, level, np.array([0.0, 1.0, 2.0]))


def least_bias(seeds, delta=DELTA, falling=True):
    """The smallest possible largest |bias| over p, and the estimator that has it, [n + 1].

    `falling`: the more collapses the lower the estimate, and none beyond where the cliff of
    any p may lie.
    """
    shares = np.concatenate([np.linspace(0, 0.1, 60), np.linspace(0.1, 1, 120)[1:]])
    chances = binom.pmf(np.arange(seeds + 1), seeds, shares[:, None])
    rows = np.concatenate([chances, -chances])
    sides = np.concatenate([truth(shares, delta), -truth(shares, delta)])
    cost = np.append(np.zeros(seeds + 1), 1.0)
    range_of_t = (None, None)
    rows = np.column_stack([rows, -np.ones(len(rows))])
    if falling:
        order = np.eye(seeds + 2, k=1)[:seeds] - np.eye(seeds + 2)[:seeds]
        rows, sides = np.concatenate([rows, order]), np.append(sides, np.zeros(seeds))
        range_of_t = (float(truth(np.ones(1), delta)[0]), float(truth(np.zeros(1), delta)[0]))
    found = linprog(
        cost,
        A_ub=rows,
        b_ub=sides,
        bounds=[range_of_t] * (seeds + 1) + [(0, None)],
    )
    assert found.status == 0
    return found.fun, found.x[:-1]


def test_the_truth_is_where_the_curve_crosses():
    at = truth(np.array([0.0, 0.5, 1.0]))
    lost = DELTA / DROP  # a share of collapses that costs as much
    assert at == pytest.approx([1 + lost, 2 * lost, lost])


@pytest.mark.parametrize(
    ("seeds", "any_at_all", "falling"),
    [
        (3, 0.195, 0.316),
        (5, 0.130, 0.267),
        (10, 0.089, 0.181),
    ],
)
def test_the_least_bias_is_what_the_docs_say(seeds, any_at_all, falling):
    assert least_bias(seeds, falling=False)[0] == pytest.approx(any_at_all, abs=0.002)
    assert least_bias(seeds)[0] == pytest.approx(falling, abs=0.002)


def test_what_has_the_least_bias_of_all_is_no_estimator_to_use():
    """Of five seeds one collapse puts the cliff octaves lower, two octaves higher again."""
    none, one, two = least_bias(5, falling=False)[1][:3]
    assert (none - one, two - one) == pytest.approx((2.8, 3.0), abs=0.1)


def test_a_tenth_is_in_reach_where_the_tolerance_is_large():
    """The check of the program: a tolerance of half of the accuracy is no hard question."""
    assert least_bias(3, delta=DROP / 2)[0] < 0.03


def test_twin_two_worlds_alone_do_not_forbid_it():
    """With p = 0 and p = 0.23 only, an estimator without bias exists, of wild values."""
    chances = binom.pmf(np.arange(4), 3, np.array([[0.0], [0.23]]))
    wanted = truth(np.array([0.0, 0.23]))
    answer = np.linalg.lstsq(chances, wanted, rcond=None)[0]
    assert chances @ answer == pytest.approx(wanted)
    assert answer[1:].min() < 0.0  # below the last size at which all stand
