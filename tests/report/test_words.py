"""The answer in words: no stronger than what is known."""

from __future__ import annotations

from typing import Any

import pytest
from synthetic import Synthetic

from batchcliff.report.content import make_content
from batchcliff.report.text import NOTHING
from batchcliff.report.words import cliff_text, interval_text
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
    assert all(b.arm != "warmup" or b.kind != "tolerance" for b in content.accuracy.bands)


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
