"""Updates to a target in the report: geometry, words, and the budget in every caption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import target_studies
from builders import make_provenance
from synthetic import Synthetic

from batchcliff.record import BatchStage, TrialRecord
from batchcliff.report.budget_words import budget_text, length_text
from batchcliff.report.content import Content, make_content, summary_plain, tables
from batchcliff.report.draw_target import target_chart
from batchcliff.report.html import chart_specs
from batchcliff.report.target import target_lines
from batchcliff.report.text import NOTHING
from batchcliff.report.vega import svg_and_png
from batchcliff.report.write import static_specs
from batchcliff.spec import Settings, Stop

SIZES = target_studies.SIZES
WARMUP = (("warmup", ()),)


def on_the_hyperbola(device: str = "a GPU") -> list[TrialRecord]:
    """Arm "none" with Smin 200 and knee 256; "warmup" with Smin 60 and knee 900."""
    found = []
    for arm, changes in (("none", {}), ("warmup", {"smin": 60.0, "knee": 900.0})):
        for record in target_studies.study(0.05, **changes):
            spec = replace(record.spec, arm=arm, techniques=WARMUP if arm == "warmup" else ())
            assert record.ledger is not None
            updates = record.ledger.updates
            where = replace(
                make_provenance(), seconds=0.01 * updates, device=device, workers=2, ranks=4
            )
            found.append(replace(record, spec=spec, updates=updates, provenance=where))
    return found


def content_of(records: list[TrialRecord], accuracy: float = 0.8, **study: Any) -> Content:
    settings = Settings(stop=Stop(accuracy=accuracy))
    made = Synthetic(sizes=SIZES, settings=settings, published="", **study).study
    plan = [(r.spec.arm, r.spec.batch_size, r.spec.seed, r.trial_id) for r in records]
    return make_content(made, records, plan)


@pytest.fixture(scope="module")
def content() -> Content:
    return content_of(on_the_hyperbola())


def test_the_line_of_perfect_scaling_halves_and_the_fit_does_not(content: Content) -> None:
    assert content.large.target is not None
    data = target_chart(content.large.target)["datasets"]
    for arm in ("none", "warmup"):
        perfect = [r for r in data["perfect"] if r["arm"] == arm]
        products = {round(r["x"] * r["updates"], 6) for r in perfect}
        assert len(perfect) == len(SIZES) and len(products) == 1  # B S is constant
        fit = [r for r in data["fit"] if r["arm"] == arm]
        smin, knee = (200.0, 256.0) if arm == "none" else (60.0, 900.0)
        for row in fit:
            assert row["updates"] == pytest.approx(smin * (1 + knee / row["x"]), rel=0.15)
        assert fit[-1]["updates"] > 1.3 * perfect[-1]["updates"]  # beyond the knee


def test_the_knees_are_drawn_with_their_intervals(content: Content) -> None:
    assert content.large.target is not None
    spec = target_chart(content.large.target)
    for row, curve in zip(spec["datasets"]["knees"], content.large.target.curves, strict=True):
        knee = curve.knee
        assert row["value"] == knee.value and row["low"] == knee.low
        assert row["low"] < row["value"] < row["high"]
        assert row["text"].startswith(f"{curve.arm}: knee at ")
    axes = [layer["encoding"]["y"] for layer in spec["layer"] if "y" in layer["encoding"]]
    scales = [axis["scale"] for axis in axes if "scale" in axis]
    assert scales and all(scale["type"] == "log" for scale in scales)
    svg, png = svg_and_png(spec)
    assert b"updates to the target" in svg and b"knee at" in svg and png[1:4] == b"PNG"


def test_a_knee_that_was_not_reached_is_in_words_only() -> None:
    straight = target_studies.study(0.03, smin=1.0, knee=50_000.0)
    found = content_of(straight)
    assert found.large.target is not None
    assert target_chart(found.large.target)["datasets"]["knees"] == []
    assert "at batch size > 2,048" in target_lines(found.large.target)[0]


def test_the_table_has_the_figures_numbers_and_the_device(content: Content) -> None:
    table = tables(content)["updates to target"]
    assert len(table.rows) == 2 * len(SIZES) and "(a GPU)" in table.caption
    assert content.large.target is not None
    for row, cell in zip(table.rows, content.large.target.curves[0].cells, strict=False):
        assert row[1] == f"{cell.batch_size:,}" and row[6] == f"{cell.efficiency:.0%}"
        assert cell.updates.value is not None
        # Four ranks for 10 ms an update, on devices that two workers share.
        assert cell.device_seconds == pytest.approx(0.02 * cell.updates.value, rel=0.01)
    assert summary_plain(content)["updates_to_target"] == content.large.target


def test_the_ledger_sums_device_hours_and_never_over_two_devices(content: Content) -> None:
    row = content.ledger[0]
    ran = [r for r in content.joined.records if r.spec.arm == "none"][:3]
    seconds = [r.provenance.seconds for r in ran if r.provenance]
    assert row.seconds == pytest.approx(sum(seconds) / 3)
    assert row.device_hours == pytest.approx(2 * sum(seconds) / 3600)
    mixed = on_the_hyperbola()[::2] + on_the_hyperbola("another GPU")[1::2]
    other = content_of(mixed)
    assert all(r.seconds is None and r.device_hours is None for r in other.ledger)
    table = tables(other)["ledger"]
    column = table.header.index("device hours")
    assert {cells[column] for cells in table.rows} == {NOTHING}


def test_cells_of_different_devices_are_named() -> None:
    records = on_the_hyperbola()
    other = {r.trial_id: r for r in on_the_hyperbola("another GPU")}
    moved = [other[r.trial_id] if r.spec.arm == "warmup" else r for r in records]
    found = content_of(moved)
    for name in ("ledger", "updates to target"):
        table = tables(found)[name]
        assert table.header[-1] == "device"
        assert {(row[0], row[-1]) for row in table.rows} == {
            ("none", "a GPU"),
            ("warmup", "another GPU"),
        }


def test_an_arm_whose_batch_grows_is_left_out_by_name() -> None:
    stages = (BatchStage(batch_size=32, updates=5, lr=0.1),)
    records = [
        replace(r, ledger=replace(r.ledger, stages=stages))
        if r.spec.arm == "warmup" and r.ledger
        else r
        for r in on_the_hyperbola()
    ]
    figure = content_of(records).large.target
    assert figure is not None and [curve.arm for curve in figure.curves] == ["none"]
    assert "“warmup” is left out: its batch size changes" in target_lines(figure)[-1]


def test_a_fixed_budget_takes_the_line_of_the_tolerance_cliff(synthetic: Synthetic) -> None:
    found = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    figure = found.large.target
    assert figure is not None and figure.target == found.summary.threshold
    assert "target: the line of the tolerance cliff" in figure.subtitle
    assert "at shares of a fixed budget" in target_lines(figure)[-1]


def test_no_figure_where_nothing_was_evaluated_on_the_way(synthetic: Synthetic) -> None:
    def only_last(record: TrialRecord) -> TrialRecord:
        known = (None,) * 99 + record.curves.test_accuracy[-1:]
        return replace(record, curves=replace(record.curves, test_accuracy=known))

    records = [only_last(r) for r in synthetic.records()]
    found = make_content(synthetic.study, records, synthetic.planned())
    assert found.large.target is None and "chart-target" not in chart_specs(found)


def test_every_figure_says_which_budget_it_had(content: Content, synthetic: Synthetic) -> None:
    fixed = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    for found, said in (
        (content, "budget: until 80% accuracy, at most 10 epochs"),
        (fixed, "budget: 100 epochs"),
    ):
        for name, spec in static_specs(found.large).items():
            subtitle = spec["title"]["subtitle"]
            text = " ".join(subtitle) if isinstance(subtitle, list) else subtitle
            assert said in text, name


@pytest.mark.parametrize(
    ("budget", "said"),
    [("100ep", "100 epochs"), ("1up", "1 update"), ("64000ex", "64,000 examples"),
     ("1/3ep", "1/3 epochs"), ("0.5ep", "0.5 epochs"), ("odd", "odd")],
)  # fmt: skip
def test_a_length_in_words(budget: str, said: str) -> None:
    assert length_text(budget) == said


def test_budgets_that_arms_change_are_told(synthetic: Synthetic) -> None:
    specs = synthetic.specs()
    mixed = [*specs, *(replace(spec, budget="200ep") for spec in specs)]
    assert budget_text(synthetic.study, mixed) == "budget: 100 epochs and 200 epochs"
    assert budget_text(synthetic.study) == "budget: 100 epochs"
