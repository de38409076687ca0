"""Two recipes: planned offline, of a size that one GPU can do, and run in miniature."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
from digit_trials import ON_DIGITS, trained

from batchcliff.planning import plan
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import shape_key

RECIPES = ("augmentation", "half-precision")
MOST_SHAPES, MOST_EPOCHS = 12, 450


def tiny(name: str) -> StudySpec:
    return load_study(name, overrides=ON_DIGITS, batch_sizes="128", budget="8ep")


@functools.cache
def records(name: str) -> list[TrialRecord]:
    """The recipe in miniature."""
    return [trained(spec) for spec in trials(tiny(name), "")]


@pytest.mark.parametrize("name", RECIPES)
def test_a_plan_needs_no_data_and_says_what_would_run(name: str, tmp_path: Path) -> None:
    found = plan(name, out=tmp_path / "none")
    assert found.infeasible == 0 and not (tmp_path / "none").exists()
    shapes = {shape_key(t.spec) for t in found.trials}
    epochs = sum(t.ledger.epochs for t in found.trials if t.ledger)
    assert len(shapes) <= MOST_SHAPES
    assert 400 < epochs <= MOST_EPOCHS
    assert found.study.seeds == (0,)


def test_the_arms_of_augmentation() -> None:
    study = load_study("augmentation")
    assert [arm.name for arm in study.arms] == ["no", "standard", "strong", "warmup+standard"]
    assert study.reference_arm == "standard" and study.published == ""
    found = {t.spec.arm: t.spec for t in plan("augmentation").trials}
    images = {
        name: (s.settings.augmentation, s.settings.cutout, s.settings.mixup)
        for name, s in found.items()
    }
    assert images == {
        "no": ("none", 0, 0.0),
        "standard": ("as-written", 0, 0.0),
        "strong": ("as-written", 8, 0.2),
        "warmup+standard": ("as-written", 0, 0.0),
    }
    warmed = {name for name, s in found.items() if s.techniques}
    assert warmed == {"warmup+standard"}


def test_the_arms_of_half_precision() -> None:
    found = [t.spec for t in plan("half-precision").trials]
    cells = {(s.settings.precision, bool(s.techniques), s.batch_size) for s in found}
    formats = ("fp32", "bf16", "fp16", "fp16-unscaled")
    assert cells == {
        (f, w, b) for f in formats for w in (False, True) for b in (2048, 4096, 8192)
    }
    assert len(found) == len(cells)
    assert all(s.settings.gradient_norms for s in found)


@pytest.mark.parametrize("name", RECIPES)
def test_longer_with_more_seeds_and_another_loss(name: str) -> None:
    """What the pages tell to write."""
    study = load_study(name, overrides=("budget=100ep", "seeds=3", "settings.loss=logits"))
    assert (study.budget, study.seeds, study.settings.loss) == ("100ep", (0, 1, 2), "logits")


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_in_miniature(name: str) -> None:
    found = records(name)
    assert len(found) == len(tiny(name).arms)
    for record in found:
        assert record.outcome is Outcome.OK, record.reason
        assert record.accuracy is not None and 0 <= record.accuracy <= 1
        assert record.accuracy == record.accuracy_reestimated
        losses = record.curves.train_loss
        assert losses[-1] < losses[0] and all(math.isfinite(loss) for loss in losses)
    losses_of = {r.curves.train_loss for r in found}
    assert len(losses_of) == len(found)  # no two arms are the same training


def test_gradient_norms_of_half_precision() -> None:
    """The first norm of an arm is its warmup arm's: same weights, same batch, same format."""
    first: dict[str, set[float]] = {}
    for record in records("half-precision"):
        curves, precision = record.curves, record.spec.settings.precision
        assert len(curves.gradient_norm) == 8
        assert len(curves.first_gradient_norms) == record.updates == 64
        assert math.isfinite(curves.first_gradient_norms[-1])
        assert record.skipped_updates == 0 or precision == "fp16"
        first.setdefault(precision, set()).add(curves.first_gradient_norms[0])
    assert all(len(norms) == 1 for norms in first.values())
    (exact,), (half,) = first["fp32"], first["fp16-unscaled"]
    assert half == pytest.approx(exact, rel=0.05) and half != exact


@pytest.mark.parametrize("name", RECIPES)
def test_its_page_says_its_command(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "recipes" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert f"batchcliff run {name} --data" in text
    study = load_study(name)
    count = len(study.arms) * len(study.batch_sizes)
    assert f"{count} trials, {count * int(study.budget[:-2])} epochs, 12 shapes" in text
