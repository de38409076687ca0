"""The trials of a study."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.spec import Arm, BatchNorm, Decay, LrRule, Settings, StudySpec
from batchcliff.study.grid import (
    arm_settings,
    lr_of,
    provenance_of,
    scaled_techniques,
    trials,
)
from batchcliff.studyfile import load_study

WARMUP = (("warmup", (("duration", "2ep"),)),)
DIGEST = "d" * 64


def study(**changes: object) -> StudySpec:
    base = StudySpec(
        name="s",
        workload="article",
        batch_sizes=(128, 256, 512),
        seeds=(0, 1),
        budget="10ep",
        lr=LrRule(base=0.1, base_batch_size=128),
        decay=Decay(kind="constant"),
        arms=(Arm(name="none"), Arm(name="warmup", techniques=WARMUP)),
        settings=Settings(),
        data="cifar10",
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_every_arm_at_every_batch_size_with_every_seed_once() -> None:
    found = trials(study(), DIGEST)
    cells = [(t.arm, t.batch_size, t.seed) for t in found]
    assert len(set(cells)) == len(cells) == 2 * 3 * 2
    assert len({t.trial_id for t in found}) == len(found)


def test_seed_by_seed_from_the_largest_batch_down_with_arms_as_pairs() -> None:
    found = [(t.seed, t.batch_size, t.arm) for t in trials(study(), DIGEST)]
    assert found[:4] == [
        (0, 512, "none"), (0, 512, "warmup"), (0, 256, "none"), (0, 256, "warmup"),
    ]  # fmt: skip
    assert [seed for seed, _, _ in found] == [0] * 6 + [1] * 6


def test_the_article_has_its_seven_rates() -> None:
    rates = {t.batch_size: t.lr for t in trials(load_study("article"), DIGEST)}
    assert rates == {128 * 2**i: 0.1 * 2**i for i in range(7)}  # exact: powers of two
    study = load_study("article")
    spec = next(t for t in trials(study, DIGEST) if t.batch_size == 4096)
    assert provenance_of(study, spec) == "3.2 = 0.1 x 4096/128 (linear)"


def test_an_arm_may_have_a_rate_and_a_decay_of_its_own() -> None:
    own = Arm(
        name="own",
        lr=LrRule(base=2.0, base_batch_size=64, scaling="sqrt"),
        decay=Decay(kind="cosine"),
    )
    base = study(arms=(Arm(name="none"), own), batch_sizes=(256,), seeds=(0,))
    none, other = trials(base, DIGEST)
    assert (none.lr, none.decay) == (lr_of(base.lr, 256), base.decay)
    assert (other.lr, other.decay) == (4.0, Decay(kind="cosine"))
    assert provenance_of(base, other) == "4.0 = 2.0 x sqrt(256/64) (sqrt)"


def test_overrides_reach_nested_settings_and_nothing_else() -> None:
    arm = Arm(name="a", settings=(("batch_norm.group", 32), ("loss", "logits")))
    found = arm_settings(Settings(), arm)
    expected = Settings(batch_norm=BatchNorm(group=32), loss="logits")
    assert found == expected
    with pytest.raises(AttributeError):
        arm_settings(Settings(), Arm(name="a", settings=(("batch_norm.grup", 32),)))


def test_what_names_a_trial() -> None:
    one = trials(study(), DIGEST)
    assert [t.trial_id for t in one] == [t.trial_id for t in trials(study(), DIGEST)]
    assert not {t.trial_id for t in one} & {t.trial_id for t in trials(study(), "e" * 64)}
    assert not {t.trial_id for t in one} & {t.trial_id for t in trials(study(), DIGEST, "f00")}
    renamed = study(arms=tuple(dataclasses.replace(a, name=a.name + "!") for a in study().arms))
    assert [t.trial_id for t in trials(renamed, DIGEST)] == [t.trial_id for t in one]


def test_the_source_of_an_own_workload_is_part_of_its_name() -> None:
    assert {t.workload for t in trials(study(), DIGEST, "f00")} == {"article@f00"}


@given(st.sets(st.integers(1, 9999), min_size=1, max_size=5), st.sets(st.integers(0, 99)))
def test_law_a_larger_grid_keeps_the_trials_of_a_smaller_one(
    sizes: set[int], seeds: set[int]
) -> None:
    small = {t.trial_id for t in trials(study(batch_sizes=(64,), seeds=(0,)), DIGEST)}
    large = trials(study(batch_sizes=tuple({64, *sizes}), seeds=tuple({0, *seeds})), DIGEST)
    assert small <= {t.trial_id for t in large}
    assert len({t.trial_id for t in large}) == len(large)


def test_techniques_are_sorted_by_name() -> None:
    pairs = (("zeta", ()), ("alpha", (("b", 2), ("a", 1))))
    arm = Arm(name="both", techniques=pairs)
    found = scaled_techniques(study().lr, arm, 64)
    assert found == (("alpha", (("a", 1), ("b", 2))), ("zeta", ()))


def test_legw_stretches_warmup_in_epochs_with_the_batch_size() -> None:
    rule = LrRule(base=0.1, base_batch_size=128, scaling="legw")
    found = {
        (t.arm, t.batch_size): dict(dict(t.techniques).get("warmup", ())).get("duration")
        for t in trials(study(lr=rule), DIGEST)
    }
    assert found[("warmup", 128)] == "2ep"
    assert found[("warmup", 512)] == "8ep"
    assert found[("none", 512)] is None
    assert lr_of(rule, 512) == pytest.approx(0.2)
