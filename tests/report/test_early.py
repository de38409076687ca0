"""What is said of a search: its two sizes, and the estimate that may lie beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from synthetic import Synthetic

from batchcliff.report.content import make_content
from batchcliff.report.early import search_lines, search_notes
from batchcliff.report.join import join, planned_specs
from batchcliff.report.words import beside_bracket, headline
from batchcliff.spec import Search
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.summary import StudySummary, summarize


def estimate(value: float, **other: Any) -> Estimate:
    given: dict[str, Any] = {
        "low": 100.0,
        "high": 4000.0,
        "level": 0.95,
        "method": "test",
        "n": 2,
    }
    return Estimate(value=value, **{**given, **other})


@pytest.mark.parametrize(
    ("value", "censored", "side"),
    [
        (634.0, "", "lower"),
        (728.0, "", ""),
        (900.0, "", ""),
        (1024.0, "", ""),
        (1100.0, "", "higher"),
        (1024.0, "above", "higher"),
        (728.0, "below", "lower"),
    ],
)
def test_an_estimate_beside_the_two_sizes_says_so(
    value: float, censored: str, side: str
) -> None:
    said = beside_bracket(estimate(value, censored=censored), (728, 1024))
    assert said.partition(",")[0] == side
    assert ("seeds at hand may not have shown" in said) == (side == "lower")
    assert ("may be off" in said) == (side == "higher")


def of(synthetic: Synthetic, **tolerance: Any) -> tuple[str, ...]:
    joined = join(synthetic.planned(), synthetic.records())
    found = summarize(joined.records, planned_specs(joined, synthetic.study), "none")
    first = dataclasses.replace(found.arms[0], tolerance=estimate(**tolerance))
    changed: StudySummary = dataclasses.replace(found, arms=(first, *found.arms[1:]))
    return search_lines(synthetic.study, joined, changed)


def test_both_places_are_said_and_why_they_differ() -> None:
    """As in the article's study: two seeds, and an abrupt fall after the size that holds."""
    legend, line, *others = of(Synthetic(seeds=2, search=Search()), value=634.2)
    assert "measured means" in legend and "cliffs' table" in legend
    assert line.startswith("tolerance cliff of none: ") and "1024 holds, 2048 falls" in line
    assert "estimate 634 (95% interval: 100 to 4,000), lower, since" in line
    assert len(others) == 3
    _, line, *_ = of(Synthetic(seeds=2, search=Search()), value=1500.0)
    assert line.endswith("estimate 1,500 (95% interval: 100 to 4,000)")


def test_one_seed_has_no_estimate_beside_the_two_sizes() -> None:
    synthetic = Synthetic(seeds=1, search=Search())
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    notes = search_notes(synthetic.study, content.joined, content.summary)
    assert set(notes) <= set(content.notes) and len(notes) == 6
    assert not any("estimate" in note for note in notes[2:])


def test_a_grid_searches_for_nothing() -> None:
    synthetic = Synthetic(seeds=2)
    assert of(synthetic, value=634.0) == ()


@pytest.mark.parametrize(("value", "beside"), [(634.0, True), (900.0, False)])
def test_the_answer_names_the_crossing_of_the_means_where_the_estimate_is_elsewhere(
    value: float, beside: bool
) -> None:
    synthetic = Synthetic(seeds=3)
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    first, *others = content.summary.arms
    placed = dataclasses.replace(first, tolerance=estimate(value, bracket=(728, 1024)))
    said = " ".join(headline(dataclasses.replace(content.summary, arms=(placed, *others))))
    assert f"at batch size {value:.0f} (95% interval: 100 to 4,000)." in said
    assert ("means cross that line between 728 and 1,024; the estimate lies" in said) == beside
