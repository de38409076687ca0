"""The recipe smith: what its plan says, and a miniature of it on the digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from digit_trials import MINIATURE, trained

from batchcliff.planning import plan
from batchcliff.record import Outcome
from batchcliff.report.content import make_content, tables
from batchcliff.report.tables import trial_rows
from batchcliff.show import show_plan
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import shape_key

PAGE = Path(__file__).parents[2] / "docs/recipes/smith.md"
SMALL = (
    *MINIATURE,
    "lr.base_batch_size=32",
    'arms.growth.batch-growth.most="N/2"',
    'arms."growth, momentum 0.98".batch-growth.most="N/2"',
)


def test_the_plan_without_data_is_the_pages_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan("smith", out=tmp_path)
    found = {(t.spec.arm, t.spec.batch_size): t.ledger for t in planned.trials}
    assert planned.infeasible == 0
    assert len(found) == 6
    text = PAGE.read_text(encoding="utf-8")
    for (arm, size), ledger in found.items():
        assert ledger is not None
        sizes = [stage.batch_size for stage in ledger.stages] or [size]
        batches = ", ".join(f"{batch:,}" for batch in sizes)
        row = f"| {arm} | {size} | {batches} | {ledger.updates:,} |"
        assert (row in text) == (arm in ("none", "growth")), row
    show_plan(planned)
    said = capsys.readouterr().out
    assert "growth, batch 128: 11,719 updates of 128 at 0.1, then 1,172 updates of 640" in said
    assert "none, batch" not in said
    for size in (128, 640):
        growth, momentum = found["growth", size], found["growth, momentum 0.98", size]
        assert growth is not None and momentum is not None
        assert growth.updates == momentum.updates
        assert growth.epochs == pytest.approx(75, abs=0.1)


def test_the_noise_scale_is_the_same_in_all_arms() -> None:
    """lr / (B (1 - m)) of every trial at its start; and a GPU's share of the work."""
    specs = trials(load_study("smith"), "")
    scales = [
        spec.lr / (spec.batch_size * (1 - spec.settings.optimizer.momentum)) for spec in specs
    ]
    assert scales == pytest.approx([scales[0]] * 6)
    assert len({shape_key(spec) for spec in specs}) == 6
    assert sum(int(spec.budget.removesuffix("ep")) for spec in specs) <= 450


def test_a_miniature_runs_and_is_reported() -> None:
    study = load_study("smith", overrides=SMALL, batch_sizes="32,64", budget="5ep")
    specs = trials(study, "")
    records = [trained(spec) for spec in specs]
    content = make_content(study, records, specs)
    assert [r.outcome for r in records] == [Outcome.OK] * 6
    by_cell = {(r.spec.arm, r.spec.batch_size): r for r in records}
    for size in (32, 64):
        none, growth = by_cell["none", size], by_cell["growth", size]
        assert growth.updates < 0.75 * none.updates
        assert len(growth.curves.test_accuracy) == len(none.curves.test_accuracy) == 5
        assert growth.curves.train_loss[:2] == none.curves.train_loss[:2]  # before any growth
        assert growth.curves.train_loss[2:] != none.curves.train_loss[2:]
    shown = tables(content)
    sizes = {(row[0], row[1]) for row in shown["ledger"].rows}
    assert ("growth", "32, 160") in sizes
    assert ("none", "32") in sizes
    updates = {(row[0], row[1]): row[2] for row in shown["results"].rows}
    assert updates["none", "32"] == "160"
    for row in trial_rows(records):  # batches of different sizes, about 5 epochs of 1,024
        assert 5120 <= row["examples"] < 5120 + 160
    panels = content.small.training[0].panels
    assert [len(panel.curves) for panel in panels] == [3, 3]
    assert {len(curve.points) for panel in panels for curve in panel.curves} == {5}
