"""The benchmark of the probes takes those of the whole trial, of which it trains a part."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from batchcliff.workloads import DIGITS


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("bench_probes")


@pytest.mark.parametrize(
    ("epochs", "usual"), [(20, False), (20_000, True)], ids=["1,280 examples", "1,280,000"]
)
def test_probes_are_those_of_the_whole_trial(
    bench: Any, monkeypatch: pytest.MonkeyPatch, epochs: int, usual: bool
) -> None:
    """A run of fewer than a million examples has fewer of them."""
    monkeypatch.setattr(bench, "EPOCHS", {DIGITS.name: (1, epochs)})
    monkeypatch.setattr(bench, "REPEATS", 1)
    row = bench.measure(DIGITS, bench.random_data((8, 8, 1), 64, 16, "cpu"), 32)
    found = row["places"], row["sharpness_places"], row["iterations"]
    assert found == ((8, 3, 12) if usual else (6, 2, 5))
    parts = sum(seconds for name, seconds in row.items() if name.endswith("_seconds"))
    probes = parts - row["trial_seconds"] - row["first_seconds"]
    assert row["share"] == pytest.approx(probes / row["trial_seconds"], rel=0.05, abs=1e-4)
