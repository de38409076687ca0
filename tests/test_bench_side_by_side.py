"""Trials at once: who is timed beside whom, and what the shares are of."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("bench_side_by_side")


def test_every_size_is_timed_alone_first_where_it_is_trained(bench: Any) -> None:
    assert bench.with_each_alone([[8, 8, 64], [64], [16, 0, 64]]) == [
        (8, 0, 0), (16, 0, 0), (0, 0, 64), (8, 8, 64), (64, 0, 0), (16, 0, 64),
    ]  # fmt: skip
    assert bench.with_each_alone([[8]]) == [(8,)]


def test_shares_are_of_the_rate_alone_in_the_same_run(bench: Any) -> None:
    measured = [((8, 0), (100.0, 0.0)), ((0, 64), (0.0, 400.0)), ((8, 64), (30.0, 300.0))]
    *_, row = bench.rows_of(measured)
    assert row == {
        "batch_sizes": [8, 64],
        "of_lower_priority": [],
        "examples_per_second": [30, 300],
        "of_alone": [0.3, 0.75],
        "together": 1.05,
    }
    assert bench.rows_of(measured, 2)[-1]["of_lower_priority"] == [64]
    twice = bench.rows_of([*measured, ((8, 0), (50.0, 0.0))])[-1]
    assert twice["of_alone"] == [0.5], "again alone: of the first time"


def test_processes_train_at_the_same_time(bench: Any) -> None:
    mixtures, heard = bench.with_each_alone([[256, 512]]), {}
    bench.measure(mixtures, 0.05, 0, False, heard.__setitem__)
    assert list(heard) == [(256, 0), (0, 512), (256, 512)]
    assert [[rate > 0 for rate in rates] for rates in heard.values()] == [
        [True, False], [False, True], [True, True],
    ]  # fmt: skip


def test_a_process_that_fails_ends_the_measurement(bench: Any) -> None:
    with pytest.raises(RuntimeError, match="a process ended"):
        bench.measure([(256, -1)], 0.05, 0, False, lambda *_: None)
