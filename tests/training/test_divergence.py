"""Divergence that is not a NaN: a declared explosion, a scale that is no use any more."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_trials import SMALL, facts, run, small_data, small_spec, with_settings

from batchcliff.errors import UsageError
from batchcliff.optimizers import rule
from batchcliff.record import Outcome
from batchcliff.spec import Explosion, Optimizer
from batchcliff.studyfile import parse_study
from batchcliff.training import epochs
from batchcliff.training.divergence import collapsed, divergence, exploded, scales
from batchcliff.training.loss_scaling import GROWTH_INTERVAL, LossScaled

TEN = Explosion(factor=10.0, updates=3)


def exploded_slowly(losses: list[float], factor: float, updates: int) -> int | None:
    """From the definition, on float32 values."""
    values = torch.tensor(losses).tolist()
    for start in range(len(values) - updates + 1):
        if all(value > factor * values[0] for value in values[start : start + updates]):
            return start
    return None


@given(
    st.lists(st.sampled_from([0.5, 2.0, 19.9, 20.0, 20.1, math.inf, math.nan]), max_size=12),
    st.integers(1, 4),
)
def test_twin_exploded(losses: list[float], updates: int) -> None:
    found = exploded(torch.tensor(losses), Explosion(factor=10.0, updates=updates))
    assert found == exploded_slowly(losses, 10.0, updates)


def test_an_explosion_is_what_the_study_declares() -> None:
    """Not without a rule, nor by what is too short, nor by a loss that stays at chance."""
    hump = torch.tensor([2.0, 1.0, 50.0, 60.0, 1.0, 70.0, 80.0, 90.0, 1.0])
    found = divergence(hump, None, TEN, {})
    assert found is not None and found.update == 5
    assert found.reason == (
        "exploded: training loss more than 10 times the first one, 2, for 3 updates from "
        "update 5 of 9 on"
    )
    assert divergence(hump, None, Explosion(), {}) is None
    assert exploded(hump, Explosion(factor=10.0, updates=4)) is None
    assert exploded(torch.full((100,), math.log(10)), Explosion(factor=1.01, updates=1)) is None


def test_the_earliest_sign_counts() -> None:
    losses = torch.tensor([1.0, 11.0, 11.0, 11.0, math.nan, math.nan])
    found = [divergence(losses, bad, TEN, {}) for bad in (4, 1, 6)]
    assert [sign.update for sign in found if sign] == [1, 1, 1]
    assert found[0] and found[0].reason.startswith("exploded")
    assert found[1] and found[1].reason == "training loss not finite at update 1 of 6"


def test_a_trial_that_explodes() -> None:
    """A rate that blows the weights up without a NaN: without the rule it is ok."""
    rule_ = {"explosion__factor": 5.0, "explosion__updates": 2}
    declared = small_spec(settings=with_settings(SMALL, **rule_), lr=200.0, budget="6ep")
    plain = small_spec(lr=200.0, budget="6ep")
    ends = [run([spec], small_data()).records[0] for spec in (declared, plain)]
    assert [record.outcome for record in ends] == [Outcome.DIVERGED, Outcome.OK]
    assert ends[0].reason.startswith("exploded: ") and ends[0].accuracy is None
    assert ends[0].updates == ends[0].first_bad_update
    assert declared.trial_id != plain.trial_id, "the rule is part of the id"


def test_what_has_exploded_ends_early_and_its_record_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within an epoch of where it is known; of a stack, once it is of all."""
    rule_ = {"explosion__factor": 5.0, "explosion__updates": 2}
    spec = small_spec(settings=with_settings(SMALL, **rule_), lr=200.0, budget="20ep")
    healthy = dataclasses.replace(spec, lr=0.1)
    early = run([spec], small_data())
    both = run([spec, healthy], small_data())
    total = len(both.prepared.loop.losses_US)
    done = int(early.prepared.loop.count)
    monkeypatch.setattr(epochs, "over", lambda *_: False)
    whole = run([spec], small_data())
    assert facts(early.records[0]) == facts(whole.records[0])
    assert early.records[0].outcome == Outcome.DIVERGED
    per_epoch = total // 20
    assert done <= 3 * per_epoch < total == int(whole.prepared.loop.count)
    assert both.records[1].outcome == Outcome.OK
    assert int(both.prepared.loop.count) == total
    (place,) = (record.provenance for record in early.records)
    assert place and place.examples_per_second * place.seconds == pytest.approx(
        done * spec.batch_size
    )


def test_twin_scales_are_those_that_the_updates_had() -> None:
    """Replayed from the log of skips, against the loop's own scale."""
    weight = torch.ones(1, 2)
    scaled = LossScaled(rule(Optimizer(), [weight], 1))
    scaled.restart()
    skips, had = [], []
    bad = [u % 7 == 3 or u < 40 for u in range(100)] + [False] * (GROWTH_INTERVAL + 10)
    for spoil in bad:
        had.append(float(scaled.scale))
        gradient = torch.full_like(weight, math.inf if spoil else 1e-6) * scaled.scale
        scaled.update([weight], [gradient], scaled.state, torch.zeros(1))
        skips.append(float(scaled.skipped))
    assert sum(skips) > 40 and had[-1] > min(had), "it fell and grew"
    assert scales(torch.tensor(skips)).tolist() == had


def test_a_scale_that_collapses_is_a_divergence() -> None:
    """65,536 is below 1e-4 after 30 halvings, at update 30."""
    skips = torch.ones(40)
    assert collapsed(skips) == 30
    assert collapsed(skips[:39]) is None, "nine updates are too few"
    assert collapsed(torch.tensor([1.0] * 29 + [0.0] * 50)) is None
    found = divergence(torch.ones(40), None, Explosion(), {"skipped": skips})
    assert found is not None and found.update == 30 and found.reason.startswith("scale: ")


STUDY = """
name = "s"
workload = "digits"
batch_sizes = [32]
seeds = 1
[settings]
explosion = {}
[arms.none]
"""


def test_in_a_study_file() -> None:
    text = STUDY.replace("{}", "{ factor = 10, updates = 5 }")
    assert parse_study(text).settings.explosion == Explosion(factor=10.0, updates=5)
    wrong = {
        "{ factor = 1 }": "above 1",
        "{ updates = 5 }": "lacks the factor",
        "{ factor = 2, updates = 0 }": ">= 1",
        "{ facto = 2 }": "Did you mean .factor",
    }
    for bad, word in wrong.items():
        with pytest.raises(UsageError, match=word):
            parse_study(STUDY.replace("{}", bad))
