"""What fine-tuning left of the pretrained weights: figure, table, and none without records."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic import Synthetic

from batchcliff.data.sources import DATASETS
from batchcliff.record import Transfer, TrialRecord
from batchcliff.report.content import Content, make_content, summary_plain, tables
from batchcliff.report.html import chart_specs
from batchcliff.report.text import NOTHING
from batchcliff.report.transfer import CLASSES, old_chance
from batchcliff.report.vega import svg_and_png
from batchcliff.report.write import static_specs
from batchcliff.spec import Pretraining


def tuned(record: TrialRecord) -> TrialRecord:
    """Distance grows with the batch size; the old task is lost with it."""
    share = record.spec.batch_size / 8192
    transfer = Transfer(
        distance=0.3 + share + 0.01 * record.spec.seed,
        old_accuracy_before=0.9,
        old_accuracy=0.5 - 0.3 * share,
        old_accuracy_reestimated=None,
        weights="0" * 16,
    )
    settings = replace(record.spec.settings, pretraining=Pretraining(data="cifar10-first-half"))
    return replace(record, spec=replace(record.spec, settings=settings), transfer=transfer)


@pytest.fixture
def content(synthetic: Synthetic) -> Content:
    records = [tuned(r) for r in synthetic.records()]
    plan = [(r.spec.arm, r.spec.batch_size, r.spec.seed, r.trial_id) for r in records]
    return make_content(synthetic.study, records, plan)


def test_means_are_over_the_ok_trials_with_an_interval(content: Content) -> None:
    figure = content.large.transfer
    assert figure is not None and figure.before == pytest.approx(0.9)
    none = {p.batch_size: p for p in figure.distance[0].points}
    assert none[128].mean == pytest.approx(0.3 + 128 / 8192 + 0.01) and none[128].n == 3
    assert none[128].low is not None and none[128].low < 0.3 + 128 / 8192 + 0.01
    assert none[8192].n == 2  # the third diverged
    assert figure.chance == pytest.approx(0.2)


def test_the_charts_hold_both_levels_and_every_cell(content: Content) -> None:
    specs = chart_specs(content)
    levels = specs["chart-transfer-old"]["datasets"]["levels"]
    assert [row["text"] for row in levels] == ["before fine-tuning", "chance"]
    for name in ("distance", "old"):
        assert len(specs[f"chart-transfer-{name}"]["datasets"]["points"]) == 14
    svg, _ = svg_and_png(static_specs(content.large)["transfer"])
    assert b"before fine-tuning" in svg and b"share of their norm" in svg


def test_the_table_says_what_the_figure_shows(content: Content) -> None:
    row = tables(content)["transfer"].rows[0]
    assert row[:4] == ("none", "128", "3", "0.326")
    assert row[4].startswith("90.00%") and row[5].startswith("49.53%") and row[6] == NOTHING
    assert summary_plain(content)["figures"]["transfer"] is content.large.transfer


def test_without_pretraining_there_is_nothing(synthetic: Synthetic) -> None:
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    assert content.large.transfer is None and "transfer" not in tables(content)
    assert not any(
        "transfer" in name for name in chart_specs(content) | static_specs(content.large)
    )
    assert "transfer" not in summary_plain(content)["figures"]


def test_chance_of_the_old_task() -> None:
    assert old_chance("cifar10") == 0.1 and old_chance("digits-second-half") == 0.2
    assert old_chance("images") is None


def test_every_data_set_with_fixed_classes_is_known() -> None:
    """Beside the data sets themselves, which the report does not load."""
    fixed = {name for name in DATASETS if name != "images"}
    assert {name for name in fixed if old_chance(name)} == fixed
    for name, classes in CLASSES.items():
        assert f" in {classes} classes," in DATASETS[name].description
