"""The time line of a run: what its parts add up to."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("bench_launch")
    finally:
        sys.path.remove(str(BENCHMARKS))


def row(bench: Any, begin: float, end: float) -> Any:
    return bench.Row(
        arm="none", batch_size=8, handed_out=begin, trained_from=begin, finished=end,
        waited=0.0, prepare_seconds=0.0, examples_per_second=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1, 3)], 2.0),
        ([(1, 3), (2, 5)], 4.0),
        ([(1, 9), (2, 5)], 8.0),
        ([(4, 5), (1, 3)], 3.0),
        ([(1, 3), (3, 4)], 3.0),
    ],
)
def test_time_with_two_trials_counts_once(
    bench: Any, spans: list[tuple[float, float]], seconds: float
) -> None:
    assert bench.covered([row(bench, *span) for span in spans]) == seconds


@pytest.mark.parametrize("spans", [[], [(4, 6), (5, 7), (9, 10)]])
def test_the_parts_of_a_run_add_up_to_it(bench: Any, spans: list[tuple[float, float]]) -> None:
    events = bench.Events(read=2.0, trained=max((b for _, b in spans), default=0.0), done=12.0)
    found = bench.summary(events, [row(bench, *span) for span in spans])
    whole = found.pop("launch to answer")
    assert whole == sum(found.values()) == 12.0
    assert min(found.values()) >= 0
    if spans:
        assert found["training, none at all"] == 2.0
