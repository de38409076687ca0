"""The time line of a run: what its parts add up to."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("bench_launch")


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


def test_marks_are_told_process_by_process_with_what_each_took(bench: Any) -> None:
    lines = [
        '{"at": 103.0, "pid": 7, "what": "a"}',
        '{"at": 104.0, "pid": 5, "what": "b", "facts": {"inductor": 2.5}}',
        '{"at": 107.5, "pid": 7, "what": "c"}',
    ]
    found = [(m.process, m.at, m.took, m.what) for m in bench.marks_of(lines, 100.0)]
    assert found == [(0, 3.0, 3.0, "a"), (0, 7.5, 4.5, "c"), (1, 4.0, 4.0, "b")]
    assert bench.marks_of(lines, 100.0)[-1].facts == {"inductor": 2.5}
