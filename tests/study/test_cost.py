"""Expected seconds: from what was measured, or not at all."""

from __future__ import annotations

import math

import pytest

from batchcliff.record import Outcome, Provenance, TrialRecord
from batchcliff.study import cost
from batchcliff.study.cost import UNKNOWN, expected, nearest_rate, rates_of
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study


def record(batch_size: int, rate: float, seed: int = 0, ok: bool = True) -> TrialRecord:
    study = load_study("article", batch_sizes=str(batch_size), seeds=f"{seed},")
    return TrialRecord(
        spec=trials(study, "d" * 64)[0],
        outcome=Outcome.OK if ok else Outcome.DIVERGED,
        accuracy=0.9 if ok else None,
        provenance=Provenance(
            seconds=1.0,
            compile_seconds=0.0,
            examples_per_second=rate,
            started="2026-01-01T00:00:00Z",
            stacked=1,
            device="test",
        ),
    )


def test_nothing_measured_nothing_claimed() -> None:
    found = expected([(128, 1000)])
    assert (found.seconds, found.basis) == (None, UNKNOWN)


def test_nothing_left_takes_no_time() -> None:
    assert expected([]).seconds == 0.0
    assert expected([(128, 0)], [record(128, 10.0)]).seconds == 0.0


def test_seconds_are_examples_over_the_rate_of_their_batch_size() -> None:
    records = [record(128, 10.0), record(1024, 40.0)]
    found = expected([(128, 100), (1024, 100)], records)
    assert found.seconds == pytest.approx(100 / 10 + 100 / 40)
    assert found.basis == "from finished trials at batch size 128, 1024"
    assert expected([(128, 100)], records, workers=4).seconds == pytest.approx(2.5)


def test_an_unmeasured_batch_size_takes_the_nearest_and_says_so() -> None:
    rates = {128: 10.0, 1024: 40.0}
    assert [nearest_rate(rates, size) for size in (1, 128, 256, 512, 8192)] == [
        10,
        10,
        10,
        40,
        40,
    ]
    found = expected([(8192, 80)], [record(1024, 40.0)])
    assert found.seconds == pytest.approx(2.0)
    assert "nearest" in found.basis


def test_the_median_rate_of_trials_that_ran_to_their_end() -> None:
    records = [record(128, rate, seed) for seed, rate in enumerate((1.0, 10.0, 1000.0))]
    assert rates_of(records) == {128: 10.0}
    assert rates_of([record(128, 1e9, ok=False)]) == {}
    assert rates_of([record(128, r, i) for i, r in enumerate((math.nan, math.inf, 0.0))]) == {}


def test_records_of_the_study_win_over_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MEASURED", {("article", "H100"): {128: 100.0}})
    table = expected([(128, 1000)], workload="article", device="H100")
    assert table.seconds == pytest.approx(10.0)
    assert "rates measured on H100" in table.basis
    assert expected([(128, 1000)], workload="article", device="A100").seconds is None
    own = expected([(128, 1000)], [record(128, 10.0)], workload="article", device="H100")
    assert own.seconds == pytest.approx(100.0)
