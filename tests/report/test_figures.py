"""What the figures say, as exact values."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SIZES, TABLE, Synthetic

from batchcliff.canonical import canonical_json
from batchcliff.errors import UsageError
from batchcliff.record import Outcome
from batchcliff.report.content import Content, make_content, summary_plain
from batchcliff.report.curves import MAX_EPOCH_POINTS, thin
from batchcliff.report.figures import MAX_DOTS, thin_dots
from batchcliff.report.join import join


def content_of(synthetic: Synthetic, **options: object) -> Content:
    return make_content(synthetic.study, synthetic.records(), synthetic.planned(), **options)  # type: ignore[arg-type]


def test_one_seed_is_the_table_itself_without_intervals(single: Synthetic) -> None:
    figure = content_of(single).large.accuracy
    assert figure.batch_sizes == SIZES and figure.chance == 0.1
    for line in figure.lines:
        assert tuple(p.mean for p in line.points) == TABLE[line.arm]
        assert all((p.n, p.low, p.high, p.floor) == (1, None, None, ()) for p in line.points)
    assert all(not band.open_low and band.low is None for band in figure.bands)


def test_three_seeds_have_dots_means_and_intervals(synthetic: Synthetic) -> None:
    figure = content_of(synthetic).large.accuracy
    point = figure.lines[0].points[0]
    values = sorted(r.accuracy for r in synthetic.records()[:3] if r.accuracy is not None)
    assert point.dots == tuple(values)
    assert point.mean == pytest.approx(sum(values) / 3)
    assert point.low is not None and point.high is not None
    assert point.low < point.mean < point.high


def test_diverged_trials_lie_on_the_floor_and_in_no_mean(synthetic: Synthetic) -> None:
    figure = content_of(synthetic).large.accuracy
    none = next(line for line in figure.lines if line.arm == "none")
    point = next(p for p in none.points if p.batch_size == 4096)
    assert point.floor == (("diverged", 1),) and point.n == 2 == len(point.dots)
    assert point.mean == pytest.approx(math.fsum(point.dots) / 2)


def test_the_title_says_what_was_run(synthetic: Synthetic) -> None:
    figure = content_of(synthetic).large.accuracy
    parts = ("article on cifar10", "budget: 100 epochs", "3 seeds a cell", "42 of 42 trials")
    for part in (*parts, "JPEG"):
        assert part in figure.subtitle


def test_cells_with_different_numbers_of_seeds_are_said_to_have_at_most_so_many(
    synthetic: Synthetic,
) -> None:
    """A search gives a cell as many seeds as it needs."""
    planned = [p for p in synthetic.planned() if p[1:3] != (1024, 2)]
    content = make_content(synthetic.study, synthetic.records(), planned)
    assert "at most 3 seeds a cell" in content.large.accuracy.subtitle


def test_tolerance_cliffs_have_bands_in_the_arms_colour(synthetic: Synthetic) -> None:
    content = content_of(synthetic)
    bands = {b.arm: b for b in content.large.accuracy.bands if b.kind == "tolerance"}
    assert set(bands) == {"none", "warmup"}
    for arm in content.summary.arms:
        assert bands[arm.arm].value == arm.tolerance.value
        assert (bands[arm.arm].low, bands[arm.arm].high) == (
            arm.tolerance.low,
            arm.tolerance.high,
        )
    slots = {line.arm: line.slot for line in content.large.accuracy.lines}
    assert all(b.slot == slots[b.arm] for b in content.large.accuracy.bands)


def test_an_arm_has_one_slot_in_every_figure(synthetic: Synthetic) -> None:
    content = content_of(synthetic)
    seen: dict[str, set[int]] = {}
    figures = [content.large.accuracy, content.large.published]
    lines = [(line.arm, line.slot) for f in figures if f for line in f.lines]
    lines += [(line.arm, line.slot) for line in content.large.differences.lines]
    panels = [*content.small.training, content.small.learning_rates]
    lines += [(c.arm, c.slot) for f in panels for p in f.panels for c in p.curves]
    for arm, slot in lines:
        seen.setdefault(arm, set()).add(slot)
    assert seen == {"none": {0}, "warmup": {1}}


def test_differences_are_paired_with_the_reference(single: Synthetic) -> None:
    figure = content_of(single).large.differences
    (line,) = figure.lines
    assert line.arm == "warmup" and figure.reference == "none"
    expected = [w - n for w, n in zip(TABLE["warmup"], TABLE["none"], strict=True)]
    assert [p.value for p in line.points] == pytest.approx(expected)


def test_learning_rates_are_the_articles_staircase(synthetic: Synthetic) -> None:
    figure = content_of(synthetic).small.learning_rates
    assert [p.title for p in figure.panels] == ["none", "warmup"]
    curve = figure.panels[1].curves[0]
    assert curve.batch_size == 128
    assert curve.points[0] == (1, 0.001) and curve.points[5] == (6, 0.1)
    assert curve.points[-1] == (100, 0.001)
    assert dict(figure.panels[0].curves[-1].points)[1] == 6.4


def test_a_diverged_loss_curve_ends_where_it_ends(synthetic: Synthetic) -> None:
    loss = content_of(synthetic).small.training[1]
    panel = next(p for p in loss.panels if p.title == "batch size 4,096")
    curve = next(c for c in panel.curves if c.arm == "none" and c.seed == 2)
    assert curve.points == ((1, 2.3),)


@given(st.lists(st.none() | st.floats(), max_size=700))
def test_thinned_curves_keep_their_ends_and_hold_no_nan(values: list[float | None]) -> None:
    found = thin(values)
    finite = [(i + 1, v) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    assert len(found) <= MAX_EPOCH_POINTS + 1
    assert [e for e, _ in found][:1] == [e for e, _ in finite][:1]
    assert [e for e, _ in found][-1:] == [e for e, _ in finite][-1:]
    assert all(math.isfinite(v) for _, v in found)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=400), st.integers(1, 2000))
def test_thinned_dots_keep_the_extremes(values: list[float], cells: int) -> None:
    found = thin_dots(values, cells)
    assert len(found) <= max(MAX_DOTS // cells, 3)
    assert found[0] == min(values) and found[-1] == max(values)
    assert list(found) == sorted(found)


def test_everything_is_plain_json(synthetic: Synthetic) -> None:
    plain = summary_plain(content_of(synthetic))
    text = canonical_json(plain).decode()
    assert "NaN" not in text and "$float" not in text
    assert json.loads(text)["figures"]["accuracy"]["lines"][0]["arm"] == "none"


def test_no_records_yet(synthetic: Synthetic) -> None:
    content = make_content(synthetic.study, [], synthetic.planned())
    assert content.headline == ("No trial has been measured yet: there is no answer to give.",)
    assert content.counts == {"missing": 42} and content.large.accuracy.bands == ()
    assert all(p.mean is None for line in content.large.accuracy.lines for p in line.points)


def test_all_diverged(synthetic: Synthetic) -> None:
    records = [synthetic.diverged(spec, 3) for spec in synthetic.specs()]
    content = make_content(synthetic.study, records, synthetic.planned())
    assert content.counts == {"diverged": 42}
    points = [p for line in content.large.accuracy.lines for p in line.points]
    assert all(p.mean is None and p.floor == (("diverged", 3),) for p in points)


def test_missing_trials_are_named_and_the_plan_may_be_specs(synthetic: Synthetic) -> None:
    records = synthetic.records()[5:]
    by_tuple = make_content(synthetic.study, records, synthetic.planned())
    by_spec = make_content(synthetic.study, records, synthetic.specs())
    assert by_tuple.counts == by_spec.counts
    assert by_tuple.counts["missing"] == 5
    assert by_tuple.large == by_spec.large
    assert by_tuple.headline == by_spec.headline


def test_records_keep_to_the_plans_names(synthetic: Synthetic) -> None:
    records = synthetic.records()
    renamed = [replace(r, spec=replace(r.spec, arm="old name")) for r in records]
    joined = join(synthetic.planned(), renamed)
    assert {r.spec.arm for r in joined.labelled} == {"none", "warmup"}
    assert joined.strangers == 0 and len(joined.records) == 42


def test_an_unknown_published_curve_is_refused(synthetic: Synthetic) -> None:
    study = replace(synthetic.study, published="artikel")
    with pytest.raises(UsageError, match="Did you mean 'article'"):
        make_content(study, [], synthetic.planned())


def test_floor_marks_follow_the_order_of_outcomes(synthetic: Synthetic) -> None:
    first, second, third = synthetic.records()[:3]
    records = [
        replace(first, outcome=Outcome.FAILED, accuracy=None),
        replace(second, outcome=Outcome.OOM, accuracy=None),
        replace(third, outcome=Outcome.FAILED, accuracy=None),
    ]
    content = make_content(synthetic.study, records, synthetic.planned())
    assert content.large.accuracy.lines[0].points[0].floor == (("oom", 1), ("failed", 2))
