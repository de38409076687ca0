"""Expected seconds: from what was measured, or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from batchcliff.planning import plan
from batchcliff.record import Outcome, Provenance, TrialRecord
from batchcliff.study import cost
from batchcliff.study.cost import UNKNOWN, expected, nearest_rate, rates_of
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study

ROOT = Path(__file__).parents[2]
H100 = cost.Measured(device="H100", rates={128: 100.0, 1024: 400.0}, source="none")


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
    monkeypatch.setattr(cost, "MEASURED", {("article", "cuda"): H100})
    table = expected([(128, 1000)], workload="article", device="cuda", workers=3)
    assert table.seconds == pytest.approx(10.0), "one device, however many workers"
    assert table.basis == "measured on another machine, H100, at batch size 128, 1024"
    near = expected([(256, 1000)], workload="article", device="cuda")
    assert near.basis.endswith(", taking the nearest of them for the others")
    assert expected([(128, 1000)], workload="article", device="cpu").seconds is None
    assert expected([(128, 1000)], workload="digits", device="cuda").seconds is None
    own = expected([(128, 1000)], [record(128, 10.0)], workload="article", device="cuda")
    assert own.seconds == pytest.approx(100.0)
    assert "another machine" not in own.basis


def test_a_plan_takes_measured_rates_for_the_workload_as_it_comes_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cost, "MEASURED", {("article", "cuda"): H100})
    monkeypatch.chdir(tmp_path)
    one = "batch_sizes=[128]"

    def planned(*overrides: str, device: str = "cuda") -> cost.Cost:
        return plan(load_study("article", overrides=[one, *overrides]), device=device).cost

    found = planned()
    assert found.seconds == pytest.approx(2 * 39_000 * 128 / 100.0)
    assert "another machine, H100" in found.basis
    assert planned(device="cuda:1") == found
    assert planned("budget='10ep'").seconds == pytest.approx(2 * 3_900 * 128 / 100.0)
    unknown = cost.Cost(seconds=None, basis=UNKNOWN)
    assert planned(device="cpu") == unknown
    assert planned("settings.precision='fp32'") == unknown
    assert planned("arms.warmup.precision='fp32'") == unknown
    assert planned("workload='digits'", "data='digits'") == unknown


@pytest.mark.parametrize("key", cost.MEASURED)
def test_rates_are_those_of_the_benchmark(key: tuple[str, str]) -> None:
    found = cost.MEASURED[key]
    rows = json.loads((ROOT / "benchmarks" / found.source).read_text(encoding="utf-8"))
    assert rows
    assert {row["device"] for row in rows} == {found.device}
    assert {row["batch_size"]: row["examples_per_second"] for row in rows} == found.rates
    assert all(row["what"].startswith(f"{key[0]} trial, 1 side by side") for row in rows)
