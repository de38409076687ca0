"""Predictions of a probe: intervals that cover, limits that hold, sizes counted right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from batchcliff.errors import UsageError
from batchcliff.spec import Optimizer
from batchcliff.stats.predictions import (
    batch_of_rate,
    memory,
    noise_scale,
    stable_lr,
    throughput,
)


def blocks(rng: np.random.Generator, trace: float, square: float, n: int = 16) -> np.ndarray:
    """(tr Sigma, |G|^2) of n blocks, correlated as those of a pair estimate are. [2, n]"""
    covariance = np.array([[0.04 * trace**2, -0.01 * trace], [-0.01 * trace, 0.09]])
    return rng.multivariate_normal([trace, square], covariance, n).T


def covered(level: float, truth: float = 40.0, trials: int = 1000) -> float:
    rng = np.random.default_rng(3)
    found = [noise_scale(*blocks(rng, truth, 1.0), level) for _ in range(trials)]
    return sum(e.covers(truth) for e in found) / trials


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_the_noise_scale_covers_the_truth_as_often_as_it_says(
    level: float,
) -> None:
    assert covered(level) == pytest.approx(level, abs=4 * (level * (1 - level) / 1000) ** 0.5)


def test_an_interval_of_the_noise_alone_would_not_cover() -> None:
    """The control: the uncertainty of |G|^2 left out."""
    rng, truth, hits = np.random.default_rng(3), 40.0, 0
    for _ in range(300):
        traces, squares = blocks(rng, truth, 1.0)
        low, high = stats.t.interval(0.95, 15, traces.mean(), stats.sem(traces))
        hits += low <= truth * squares.mean() <= high
    assert hits / 300 < 0.9


def test_the_ends_are_where_a_t_test_just_fails() -> None:
    rng = np.random.default_rng(0)
    traces, squares = blocks(rng, 40.0, 1.0)
    found = noise_scale(traces, squares)
    assert found.low is not None and found.high is not None
    for end in (found.low, found.high):
        assert stats.ttest_1samp(traces - end * squares, 0.0).pvalue == pytest.approx(0.05)
    assert found.value == pytest.approx(traces.mean() / squares.mean())


def test_a_gradient_that_is_lost_in_its_noise_gives_a_lower_bound() -> None:
    rng = np.random.default_rng(1)
    traces, squares = rng.normal(40.0, 1.0, 8), rng.normal(0.2, 1.0, 8)
    found = noise_scale(traces, squares)
    assert (found.censored, found.unbounded, found.high) == ("above", "high", None)
    assert "lost in its noise" in found.note and found.value == found.low
    assert found.low is not None
    assert stats.ttest_1samp(traces - found.low * squares, 0.0).pvalue == pytest.approx(0.05)


def test_no_value_where_there_is_nothing_to_say() -> None:
    assert noise_scale([1.0, 2.0], [1.0, 2.0]).note == "too few blocks of examples"
    assert noise_scale([0.1, -0.1, 0.0], [1.0, 1.1, 0.9]).note == "no noise can be told from 0"
    below = noise_scale([4.0, 4.1, 3.9], [-1.0, -1.1, -0.9])
    assert below.value is None and "lost" in below.note
    with pytest.raises(UsageError, match=r"\|G\|\^2: value 1 is nan"):
        noise_scale([1.0, 1.0, 1.0], [1.0, float("nan"), 1.0])


RULES = {
    "plain": Optimizer(momentum=0.0),
    "heavy ball": Optimizer(momentum=0.9),
    "torch": Optimizer(momentum=0.5, form="torch"),
    "nesterov": Optimizer(momentum=0.9, form="torch", nesterov=True),
    "decayed": Optimizer(momentum=0.9, form="torch", weight_decay=0.5),
}


def grows(rule: Optimizer, lr: float, curvature: float) -> bool:
    """Whether |w| of 1/2 curvature w^2 grows over 2,000 updates: the definition."""
    w, v = 1.0, 0.0
    for _ in range(2000):
        g = (curvature + rule.weight_decay) * w
        v = rule.momentum * v + g
        w -= lr * (g + rule.momentum * v if rule.nesterov else v)
        if abs(w) > 1e6:
            return True
    return abs(w) > 1.0


@pytest.mark.parametrize("name", RULES)
def test_updates_shrink_below_the_stable_rate_and_grow_above(name: str) -> None:
    rule = RULES[name]
    limit = stable_lr(rule, [7.0, 7.0, 7.0]).value
    assert limit is not None
    assert not grows(rule, 0.98 * limit, 7.0)
    assert grows(rule, 1.02 * limit, 7.0)


def test_the_interval_of_the_stable_rate_turns_that_of_the_sharpness_round() -> None:
    found = stable_lr(Optimizer(momentum=0.9), [1.0, 2.0, 3.0])
    mean = stats.t.interval(0.95, 2, 2.0, stats.sem([1.0, 2.0, 3.0]))
    assert mean[0] < 0  # so the rate has no upper end
    assert found.low == pytest.approx(3.8 / mean[1])
    assert (found.high, found.unbounded) == (None, "high")
    close = stable_lr(Optimizer(momentum=0.9), [1.9, 2.0, 2.1])
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1.9, 2.0, 2.1]))
    assert (close.low, close.high) == pytest.approx((3.8 / high, 3.8 / low))


def test_no_stable_rate_where_there_is_none() -> None:
    adam = stable_lr(dataclasses.replace(Optimizer(), name="adam"), [1.0, 2.0])
    assert (adam.value, adam.low) == (None, None) and "adam has no limit" in adam.note
    assert stable_lr(Optimizer(), [-1.0, -1.0]).note == "no direction curves upwards"
    assert stable_lr(Optimizer(), []).note == "the sharpness is not finite"


def test_the_batch_size_at_which_a_rule_passes_a_rate() -> None:
    def rule(size: int) -> float:
        return 0.1 * size / 128

    for limit in (0.05, 0.1, 3.33):
        sizes = [size for size in range(1, 5000) if rule(size) > limit]
        assert batch_of_rate(rule, limit, 5000) == sizes[0]
    assert batch_of_rate(rule, 100.0, 5000) is None
    assert batch_of_rate(lambda _: 1.0, 0.5, 5000) == 1


def test_the_batch_size_that_is_fast_enough() -> None:
    level = throughput([(16, 100.0), (32, 190.0), (64, 205.0), (128, 200.0)])
    assert level is not None and (level.enough, level.growing) == (32, False)
    rising = throughput([(16, 100.0), (32, 190.0)])
    assert rising is not None and (rising.enough, rising.growing) == (32, True)
    assert throughput([]) is None


def test_memory_is_predicted_from_how_it_grows() -> None:
    peaks = [(16, 1_000), (32, 1_160), (64, 1_480)]  # 10 bytes an example, 840 besides
    found = memory(peaks, 10_000, None, 100_000)
    assert found is not None and found.bytes_per_example == 10
    assert found.predicted == (9_000 - 840) // 10 and not found.all
    whole = memory(peaks, 10_000, None, 500)
    assert whole is not None and whole.predicted == 500 and whole.all
    tried = memory(peaks, 10_000, 128, 100_000)
    assert tried is not None and tried.predicted == 127


def test_memory_that_nobody_saw_grow_predicts_nothing() -> None:
    flat: list[tuple[int, int | None]] = [(16, 1_000), (32, 1_000)]
    unknown: list[tuple[int, int | None]] = [(16, None), (32, None)]
    for peaks, limit in ((flat, 10_000), (unknown, 10_000), ([(16, 9), (32, 10)], None)):
        found = memory(peaks, limit, None, 1_000)
        assert found is not None and found.predicted is None and found.largest_run == 32
    assert memory([], 10_000, None, 1_000) is None
