"""Noise scales from probes, and the prediction beside the cliff."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from builders import make_record

from batchcliff.record import Probes, TrialRecord
from batchcliff.spec import Optimizer, Settings
from batchcliff.stats.noise_scale import (
    noise_scale_rows,
    noise_scales,
    run_noise_scale,
    sharpness_shares,
    smoothed,
    stability_limit,
)
from batchcliff.stats.summary import summarize


def test_the_moving_average_against_its_definition() -> None:
    values, decay = [3.0, None, 1.0, 8.0], 0.7
    known: list[float] = []
    expected: list[float] = []
    for value in values:
        known += [] if value is None else [value]
        weights = [decay**age for age in range(len(known))][::-1]
        expected.append(float(np.average(known, weights=weights)))
    assert smoothed(values, decay) == pytest.approx(expected)
    assert smoothed([None, 2.0]) == [None, 2.0]  # the start is not drawn to 0
    assert smoothed([5.0] * 4) == pytest.approx([5.0] * 4)


def probes(trace: tuple[float, ...], square: tuple[float, ...]) -> Probes:
    updates = (0, 10, 50)[: len(trace)]
    return Probes(
        updates=updates, lr=(0.1,) * len(trace), noise_trace=trace, gradient_square=square
    )


def test_parts_are_averaged_before_they_are_divided() -> None:
    """The mean of quotients would be thrown off by a square that is nearly 0."""
    one = probes((100.0, 100.0, 100.0), (1.0, 0.01, 1.0))
    scales = dict(noise_scales(one))
    weights = [0.25, 0.5, 1.0]
    assert scales[50] == pytest.approx(100 / np.average([1.0, 0.01, 1.0], weights=weights))
    assert scales[50] < 200 < np.mean([100, 10_000, 100])
    # middles at 5 and 30 of 100 updates: weights 5, 25, 70
    assert run_noise_scale(one, 100) == pytest.approx(100 * 100 / (5 + 0.25 + 70))


def test_a_gradient_that_is_lost_in_its_noise_has_no_scale() -> None:
    lost = probes((100.0, 100.0), (-1.0, 0.5))
    assert noise_scales(lost) == ()  # averages of -1 and of 0
    assert run_noise_scale(lost, 60) == pytest.approx(100 * 60 / (55 * 0.5 - 5))
    assert run_noise_scale(probes((100.0,), (-1.0,)), 10) is None
    assert noise_scales(Probes()) == () and run_noise_scale(Probes(), 10) is None


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_limit_is_where_a_quadratic_diverges(nesterov: bool) -> None:
    """Updates of w in 1/2 h w^2 by hand, a little below and above the limit."""
    m, lr = 0.9, 0.1
    limit = stability_limit(Optimizer(nesterov=nesterov, momentum=m), lr)
    assert limit is not None
    for factor, grows in ((0.98, False), (1.02, True)):
        w, v = 1.0, 0.0
        for _ in range(3000):
            gradient = factor * limit * w
            v = m * v + gradient
            w -= lr * (gradient + m * v if nesterov else v)
        assert (not math.isfinite(w) or abs(w) > 1e3) == grows, factor


def test_rules_of_another_form_have_no_limit() -> None:
    assert stability_limit(Optimizer(name="adam"), 0.1) is None
    assert stability_limit(Optimizer(), 0.0) is None
    decayed = stability_limit(Optimizer(weight_decay=1.0), 0.1)
    plain = stability_limit(Optimizer(), 0.1)
    assert plain == pytest.approx(38.0) and decayed == pytest.approx(37.0)


def test_sharpness_as_a_share() -> None:
    record = make_record("none", 64, 0, 0.9, settings=Settings())
    one = Probes(
        updates=(0, 9), lr=(0.1, 0.2), sharpness=(19.0, None), sharpness_error=(0.0, None)
    )
    assert sharpness_shares(record.spec, one) == ((0, pytest.approx(0.5)),)


def study(scales: dict[int, float], seeds: int = 2) -> list[TrialRecord]:
    """Accuracy holds up to 128 and falls at 256; the noise scale of each batch size."""
    accuracies = {32: 0.9, 64: 0.9, 128: 0.89, 256: 0.5}
    return [
        dataclasses.replace(
            make_record("none", size, seed, accuracies[size] + 0.001 * seed),
            probes=probes((scale * (1 + 0.1 * seed),) * 2, (1.0, 1.0)),
        )
        for size, scale in scales.items()
        for seed in range(seeds)
    ]


def test_a_prediction_beside_the_cliff() -> None:
    records = study({32: 20.0, 64: 40.0, 128: 80.0, 256: 9999.0})
    summary = summarize(records, [r.spec for r in records], "none")
    (row,) = noise_scale_rows(records, summary)
    held = [20, 22, 40, 44, 80, 88]
    expected = math.exp(np.mean(np.log(held)))
    assert row.predicted.value == pytest.approx(expected) and row.predicted.n == 6
    assert row.predicted.low is not None and row.predicted.low < expected
    assert row.cliff.value is not None
    assert row.ratio == pytest.approx(row.cliff.value / expected)
    assert row.early is not None


def test_no_probes_no_rows_and_a_censored_cliff_no_ratio() -> None:
    records = study({32: 20.0, 64: 40.0, 128: 60.0}, seeds=1)
    summary = summarize(records, [r.spec for r in records], "none")
    (row,) = noise_scale_rows(records, summary)
    assert row.cliff.censored == "above"  # accuracy holds up to 128
    assert row.ratio is None and row.predicted.value is not None
    bare = [dataclasses.replace(r, probes=None) for r in records]
    assert noise_scale_rows(bare, summary) == ()
