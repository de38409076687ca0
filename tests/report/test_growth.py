"""Batch growth: the same curves by epoch and by update, counted stage by stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic import Synthetic

from batchcliff.record import BatchStage, TrialRecord
from batchcliff.report.content import Content, make_content
from batchcliff.report.draw_curves import panels_chart
from batchcliff.report.growth import updates_by_epoch

# 60 epochs of 50,000 // 128 = 390 updates, then 40 of 50,000 // 640 = 78.
STAGES = (
    BatchStage(batch_size=128, updates=60 * 390, lr=0.1),
    BatchStage(batch_size=640, updates=40 * 78, lr=0.1),
)


def grown(record: TrialRecord) -> TrialRecord:
    assert record.ledger is not None
    total = sum(stage.updates for stage in STAGES)
    ledger = replace(record.ledger, stages=STAGES, updates=total, updates_per_epoch=total / 100)
    return replace(record, ledger=ledger, updates=total)


@pytest.fixture
def content(single: Synthetic) -> Content:
    """The arm warmup grows its batch from 128."""
    records = [
        grown(r) if (r.spec.arm, r.spec.batch_size) == ("warmup", 128) else r
        for r in single.records(diverged=False)
    ]
    return make_content(single.study, records, single.planned())


def test_updates_are_counted_stage_by_stage(single: Synthetic) -> None:
    """Against a walk over single updates."""
    record = grown(single.records(diverged=False)[0])
    slow, done = [], 0
    for epoch in range(100):
        done += 390 if epoch < 60 else 78
        slow.append(done)
    assert updates_by_epoch(record) == slow


def test_a_stage_may_end_within_an_epoch_that_carries_its_remainder(single: Synthetic) -> None:
    record = single.records(diverged=False)[0]
    assert record.ledger is not None
    stages = (BatchStage(batch_size=500, updates=150, lr=1.0),
              BatchStage(batch_size=1000, updates=25, lr=1.0))  # fmt: skip
    ledger = replace(record.ledger, stages=stages, updates=175)
    settings = replace(record.spec.settings, remainder="carry")
    curves = replace(record.curves, test_accuracy=(0.5, 0.6))
    trial = replace(record, ledger=ledger, curves=curves,
                    spec=replace(record.spec, settings=settings))  # fmt: skip
    assert updates_by_epoch(trial) == [100, 175]  # 1.5 epochs of 500, half of one of 1,000


def test_one_batch_size_counts_evenly(single: Synthetic) -> None:
    record = single.records(diverged=False)[0]
    assert updates_by_epoch(record) == [390 * epoch for epoch in range(1, 101)]


def test_both_panels_show_the_same_accuracies(content: Content) -> None:
    by_epoch, by_update = content.small.growth.panels
    for one, other in zip(by_epoch.curves, by_update.curves, strict=True):
        assert [a for _, a in one.points] == [a for _, a in other.points]
    ends = {(c.arm, c.batch_size): c.points[-1][0] for c in by_update.curves}
    assert ends["none", 128] == 39_000 and ends["warmup", 128] == 60 * 390 + 40 * 78
    label = next(c.label for c in by_update.curves if c.arm == "warmup")
    assert label == "128, 640" and "warmup at 128, 640: 26,520" in content.small.growth.subtitle


def test_updates_have_a_log_axis_and_names_that_stand_apart(content: Content) -> None:
    epochs, updates = panels_chart(content.small.growth)["concat"]
    assert updates["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    assert epochs["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, 100]
    names = panels_chart(content.small.growth)["datasets"]["curves1-ends"]
    assert len({round(row["value"], 2) for row in names}) > len(names) / 2


def test_without_growth_there_is_no_such_figure(single: Synthetic) -> None:
    content = make_content(single.study, single.records(), single.planned())
    assert content.small.growth.panels == () and "batch-growth" not in content.small.named
