"""The recipes sony and fujitsu: what their plans say, and miniatures of them on the digits."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from digit_trials import MINIATURE, trained

from batchcliff.planning import plan
from batchcliff.record import Outcome
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import shape_key

PAGES = Path(__file__).parents[2] / "docs/recipes"
SMALL = (
    *MINIATURE,
    "lr.base=0.05",
)
GROWTH = 'arms."warmup + lars + growth".batch-growth.most=1024'


@pytest.mark.parametrize(("name", "count"), [("sony", 8), ("fujitsu", 12)])
def test_the_plan_fits_a_gpu_and_its_page(name: str, count: int, tmp_path: Path) -> None:
    planned = plan(name, out=tmp_path)
    specs = [t.spec for t in planned.trials]
    assert (planned.infeasible, len(specs)) == (0, count)
    assert len({shape_key(spec) for spec in specs}) <= 12
    assert sum(int(spec.budget.removesuffix("ep")) for spec in specs) <= 450
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for trial in planned.trials:
        found, size = trial.ledger, trial.spec.batch_size
        assert found is not None
        sizes = [stage.batch_size for stage in found.stages] or [size]
        assert max(sizes) <= 16384  # what an 80 GB GPU holds of the article's network
        if name == "sony":
            batches = ", ".join(f"{batch:,}" for batch in sizes)
            row = f"| {trial.spec.arm} | {size} | {batches} | {found.updates} |"
            assert (row in page) == (trial.spec.arm in ("none", "warmup + lars + growth"))
        elif found.warmup_updates:
            per_epoch = f"{found.updates_per_epoch:.1f}"
            row = f"| {size:,} | {per_epoch} | {found.updates} | {found.warmup_updates} |"
            assert row in page


@pytest.mark.parametrize("name", ["sony", "fujitsu"])
def test_each_arm_adds_one_thing(name: str) -> None:
    arms = load_study(name).arms
    for fewer, more in itertools.pairwise(arms):
        added = dict(more.techniques)
        kept = {n: o for n, o in added.items() if n in dict(fewer.techniques)}
        assert kept == dict(fewer.techniques)
        assert len(added) == len(kept) + 1


def test_both_rates_of_lars_move_a_layer_by_a_hundredth_at_8192() -> None:
    for name in ("sony", "fujitsu"):
        moves = {
            spec.lr * spec.settings.optimizer.trust
            for spec in trials(load_study(name), "")
            if spec.settings.optimizer.name == "lars" and spec.batch_size == 8192
        }
        assert list(moves) == pytest.approx([0.01])


@pytest.mark.parametrize(("name", "more"), [("sony", (GROWTH,)), ("fujitsu", ())])
def test_a_miniature_runs(name: str, more: tuple[str, ...]) -> None:
    study = load_study(name, overrides=SMALL + more, batch_sizes="64", budget="4ep")
    records = [trained(spec) for spec in trials(study, "")]
    assert [r.outcome for r in records] == [Outcome.OK] * 4
    losses = [r.curves.train_loss for r in records]
    assert len(set(losses)) == 4
    assert all(curve[-1] < curve[0] for curve in losses[1:3])
