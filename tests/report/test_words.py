"""The answer in words: no stronger than what is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from synthetic import Synthetic

from batchcliff.record import Outcome
from batchcliff.report.content import make_content, tables
from batchcliff.report.text import NOTHING, points
from batchcliff.report.words import TIMES, cliff_text, interval_text
from batchcliff.spec import Arm
from batchcliff.stats.intervals import Estimate


def estimate(**values: Any) -> Estimate:
    default: dict[str, Any] = {
        "value": 2897.3, "low": None, "high": None, "level": 0.95, "method": "test", "n": 3,
    }  # fmt: skip
    return Estimate(**{**default, **values})


@pytest.mark.parametrize(
    ("values", "text", "interval"),
    [
        ({"low": 2000.0, "high": 4100.0}, "2,900", "2,000 to 4,100"),
        ({"value": 8192.0, "censored": "above"}, "> 8,192", ""),
        ({"value": 128.0, "censored": "below"}, "< 128", ""),
        ({"low": 900.0, "unbounded": "high"}, "2,900", "at least 900"),
        ({"high": 900.0, "unbounded": "low"}, "2,900", "at most 900"),
        ({"unbounded": "both"}, "2,900", "unbounded on this grid"),
        ({"value": None, "note": "no data"}, NOTHING, ""),
        ({"bracket": (2048, 4096), "n": 1}, "2,048 to 4,096", ""),
    ],
)
def test_a_cliff_in_a_table(values: dict[str, Any], text: str, interval: str) -> None:
    assert cliff_text(estimate(**values)) == text
    assert interval_text(estimate(**values)) == interval


def test_three_seeds_give_a_shift_with_its_interval(synthetic: Synthetic) -> None:
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    first = content.headline[0]
    assert first.startswith("“warmup” loses 2 points of accuracy at 2.")
    assert "times the batch size of “none” (95% interval: 1." in first
    assert not any("One seed" in s for s in content.headline)


def test_one_seed_says_that_there_is_no_interval(single: Synthetic) -> None:
    content = make_content(single.study, single.records(), single.planned())
    assert "(one seed: no interval)" in content.headline[0]
    assert "between 512 and 1,024" in " ".join(content.headline)
    assert content.headline[-1].startswith("One seed a cell")


def test_a_cliff_that_was_not_reached_is_not_invented(synthetic: Synthetic) -> None:
    small = Synthetic(seeds=3, sizes=(128, 256, 512))
    content = make_content(small.study, small.records(), small.planned())
    said = " ".join(content.headline)
    assert "“warmup” stays within 2 points" in said
    assert "up to 512, the largest batch size measured: its cliff was not reached" in said
    assert all(b.arm != "warmup" or b.kind != "tolerance" for b in content.large.accuracy.bands)


def test_trials_that_ended_and_say_nothing_are_not_called_missing(synthetic: Synthetic) -> None:
    """All failed is another thing than none has run."""
    failed = [
        dataclasses.replace(r, outcome=Outcome.FAILED, accuracy=None, accuracy_reestimated=None)
        for r in synthetic.records(diverged=False)
    ]
    content = make_content(synthetic.study, failed, synthetic.planned())
    (said,) = content.headline
    assert said.startswith("None of the 42 trials that ended says anything of its setting (42 ")
    assert said.endswith("failed): there is no answer to give.")


def test_a_reference_that_learns_nothing_is_not_the_end(synthetic: Synthetic) -> None:
    records = [
        synthetic.diverged(r.spec, 3) if r.spec.arm == "none" else r
        for r in synthetic.records()
    ]
    said = make_content(synthetic.study, records, synthetic.planned()).headline
    assert said[0].startswith("No cliff can be given: the reference arm 'none' learns nothing")
    assert said[1] == "“warmup” learns: name it as the reference arm."
    everywhere = [synthetic.diverged(r.spec, 3) for r in records]
    control = make_content(synthetic.study, everywhere, synthetic.planned()).headline
    assert not any("name it" in sentence for sentence in control)


def test_an_arm_like_the_reference_shows_no_shift() -> None:
    arms = (Arm(name="none"), Arm(name="other", techniques=(("ema", (("decay", 0.9),)),)))
    synthetic = Synthetic(seeds=5, arms=arms)
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    first = content.headline[0]
    assert first.startswith("Whether “other” moves the tolerance cliff is not shown")


def test_arms_that_are_unknown_for_one_reason_share_a_sentence() -> None:
    arms = tuple(
        Arm(name=f"arm {i}", techniques=(("t", (("i", i),)),) if i else ()) for i in range(8)
    )
    synthetic = Synthetic(seeds=2, arms=arms, reference_arm="arm 0")
    records = [r for r in synthetic.records() if r.spec.arm == "arm 0"]
    content = make_content(synthetic.study, records, synthetic.planned())
    first = content.headline[0]
    assert "“arm 1”, “arm 2”, “arm 3” and 4 more arms move the tolerance cliff" in first
    assert content.headline[-1].startswith("98 of 112 planned trials have no result yet")


def test_a_reference_that_learns_nothing_is_said_once(synthetic: Synthetic) -> None:
    records = [synthetic.diverged(spec, 3) for spec in synthetic.specs()]
    content = make_content(synthetic.study, records, synthetic.planned())
    assert len(content.headline) == 1
    assert content.headline[0].startswith("No cliff can be given: the reference arm")


def few(seeds: int, arms: int) -> Synthetic:
    """Two batch sizes; the arms beside the reference are copies of it with other options."""
    made = [Arm(name="none")]
    made += [
        Arm(name=f"other {i}", techniques=(("warmup", (("start", i / 100),)),))
        for i in range(arms)
    ]
    return Synthetic(seeds=seeds, sizes=(128, 1024), arms=tuple(made))


def test_few_batch_sizes_give_differences_first() -> None:
    made = few(seeds=1, arms=1)
    content = make_content(made.study, made.records(), made.planned())
    none, other = (line.points for line in content.large.accuracy.lines)
    assert none[0].mean is not None and other[0].mean is not None
    assert content.headline[0] == (
        f"At batch size 128, in points against “none” with {none[0].mean:.2%}: “other 0” "
        f"{points(other[0].mean - none[0].mean)} (one seed: no interval)."
    )
    assert content.headline[1].startswith("At batch size 1,024, ")
    assert content.headline[2].startswith("One or two measured batch sizes")


def test_with_seeds_each_difference_has_its_interval() -> None:
    made = few(seeds=3, arms=2)
    content = make_content(made.study, made.records(), made.planned())
    assert "interval" not in content.headline[0]  # the range has none of its own
    first = content.headline[1]
    line = content.large.differences.lines[0].points[0]
    assert line.low is not None and line.high is not None
    assert f"({points(line.low)} to {points(line.high)})" in first
    assert first.endswith("(95% intervals of seeds in pairs).")
    assert "no interval" not in " ".join(content.headline)


def test_many_arms_lead_with_the_range_and_stay_short() -> None:
    made = few(seeds=1, arms=14)
    content = make_content(made.study, made.records(), made.planned())
    found = [
        p.value
        for line in content.large.differences.lines
        for p in line.points
        if p.value is not None
    ]
    first = content.headline[0]
    assert first.startswith(
        f"The arms differ from “none” by {points(min(found))} points (“other"
    )
    assert f"to {points(max(found))} points" in first
    assert (
        content.headline[1].count("“other") == 12
        and "2 more in the table" in content.headline[1]
    )


def test_a_curve_keeps_its_cliff_as_the_headline(single: Synthetic) -> None:
    content = make_content(single.study, single.records(), single.planned())
    assert not any(s.startswith(("At batch size", "The arms differ")) for s in content.headline)


def test_failed_is_kept_for_crashes(synthetic: Synthetic) -> None:
    """Collapsed is what ends near chance, diverged what is not finite."""
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    said = [*content.headline, *(band.text for band in content.large.accuracy.bands)]
    said += [t.caption for t in tables(content).values() if t.name != "accounting"]
    said += [head for t in tables(content).values() for head in t.header if head != "failed"]
    assert not any("fail" in text for text in said)
    assert any("collapse (end far under the plateau, or diverge)" in text for text in said)


def test_a_shift_that_is_not_shown_says_what_would_have_been() -> None:
    arms = (Arm(name="none"), Arm(name="other", techniques=(("ema", (("decay", 0.9),)),)))
    synthetic = Synthetic(seeds=5, arms=arms)
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    shift = content.summary.arms[1].tolerance_shift
    assert shift is not None and shift.minimum_detectable is not None
    said = content.headline[0].partition(f"These seeds show a shift of {TIMES}")[2]
    assert float(said.split()[0]) == pytest.approx(shift.minimum_detectable, rel=0.01)
    assert f"one of {TIMES}1.41 takes about {shift.seeds_needed} seeds a cell." in said


def test_the_tests_of_all_shifts_are_in_a_table(synthetic: Synthetic) -> None:
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    table = tables(content)["shifts"]
    assert [row[:2] for row in table.rows] == [("warmup", "tolerance"), ("warmup", "collapse")]
    for row, found in zip(
        table.rows,
        (content.summary.arms[1].tolerance_shift, content.summary.arms[1].collapse_shift),
        strict=True,
    ):
        assert found is not None and found.p_value is not None
        needed = "\N{EN DASH}" if found.seeds_needed is None else str(found.seeds_needed)
        assert row[3] == "21" and row[7] == needed
        shown = 0.0 if row[4] == "< 0.001" else float(row[4])
        assert shown == pytest.approx(found.p_value, abs=1e-3)
        assert (found.p_value < 0.05) == (not found.factor.covers(1.0))


def test_one_seed_has_no_test_and_no_table_of_them(single: Synthetic) -> None:
    content = make_content(single.study, single.records(), single.planned())
    assert tables(content)["shifts"].rows == ()
