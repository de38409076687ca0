"""Trials that end before their budget: by a declared rule, exactly where it says."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resumed_trials import Shelf
from small_trials import (
    CLASSES,
    SMALL,
    Run,
    facts,
    facts_of,
    ready,
    run,
    small_data,
    small_spec,
)

from batchcliff.errors import NoEffect, UsageError
from batchcliff.record import Outcome
from batchcliff.spec import Stop, TrialSpec
from batchcliff.study.jobs import stackable
from batchcliff.studyfile import parse_study
from batchcliff.training.arithmetic import ledger
from batchcliff.training.stopping import check_after, stalled
from batchcliff.training.trial import run_trials

CHANCE = math.log(CLASSES)


def spec_with(stop: Stop, **changes: object) -> TrialSpec:
    settings = dataclasses.replace(SMALL, stop=stop)
    return small_spec(**{"settings": settings, **changes})


def ran(stop: Stop, **changes: object) -> Run:
    return run([spec_with(stop, **changes)], small_data())


# --- the rule ------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0.5, 0.97, 0.99, 1.0, 3.0, math.nan]), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_twin_stalled(shares: list[float], per_epoch: int) -> None:
    losses = torch.tensor([share * CHANCE for share in shares])
    epochs = [(a, a + per_epoch) for a in range(0, len(shares), per_epoch)]
    learnt = False
    for a, b in epochs:
        if b <= len(shares):
            mean = sum(losses[a:b].tolist()) / per_epoch
            learnt = learnt or mean < 0.98 * CHANCE
    assert stalled(losses, epochs, CLASSES) == (not learnt)


@pytest.mark.parametrize(
    ("duration", "update"),
    [("1ep", 4), ("1up", 4), ("34%", 8), ("5up", 8), ("2ep", 8), ("81ex", None), ("70%", None)],
)
def test_it_is_asked_once_at_the_end_of_an_epoch(duration: str, update: int | None) -> None:
    """Three epochs of four updates; after the last one there is nothing to save."""
    assert check_after(spec_with(Stop(stalled=duration)), 40) == update


def test_a_batch_that_grows_counts_its_examples() -> None:
    growth = (("batch-growth", (("at", ("1ep",)), ("factor", 2), ("most", "N/2"))),)
    spec = spec_with(Stop(stalled="2ep"), techniques=growth)
    assert check_after(spec, 40) == 4 + 2


# --- trials --------------------------------------------------------------------------------


def test_a_stalled_trial_ends_with_what_it_had() -> None:
    """A rate of nearly 0 learns nothing. Up to its end the trial is that of the whole run."""
    short = ran(Stop(stalled="2ep"), lr=1e-9, budget="6ep")
    whole = run([small_spec(lr=1e-9, budget="6ep")], small_data())
    record, other = short.records[0], whole.records[0]
    assert (record.ended, record.outcome, record.updates) == ("stalled", Outcome.OK, 8)
    assert (other.ended, other.updates) == ("", 24)
    assert record.ledger.updates == 24 and record.examples == 80
    assert record.curves.train_loss == other.curves.train_loss[:2]
    assert record.curves.test_accuracy == other.curves.test_accuracy[:2]
    assert record.accuracy == record.curves.test_accuracy[-1]
    two = run([small_spec(lr=1e-9, budget="2ep")], small_data()).records[0]
    assert record.accuracy_reestimated == two.accuracy_reestimated


def test_a_trial_that_learns_is_not_stalled_and_its_bits_stay() -> None:
    one = ran(Stop(stalled="2ep"), lr=0.5, budget="6ep").records[0]
    two = run([small_spec(lr=0.5, budget="6ep")], small_data()).records[0]
    assert one.ended == "" and one.curves == two.curves and one.accuracy == two.accuracy
    assert one.trial_id != two.trial_id, "the rule is part of what a trial is"


@pytest.mark.parametrize("every", [1, 2])
def test_the_first_evaluation_at_the_target_ends_a_trial(every: int) -> None:
    settings = dataclasses.replace(SMALL, evaluate_every=every)
    whole = run([small_spec(settings=settings, lr=0.5, budget="12ep")], small_data())
    curve = whole.records[0].curves.test_accuracy
    best = max(a for a in curve if a is not None)
    target = (best + 1 / CLASSES) / 2
    first = next(e for e, a in enumerate(curve) if a is not None and a >= target)
    stop = dataclasses.replace(settings, stop=Stop(accuracy=target))
    record = run([small_spec(settings=stop, lr=0.5, budget="12ep")], small_data()).records[0]
    assert first < len(curve) - 1, "the case must be one that ends early"
    assert (record.ended, record.updates) == ("target", 4 * (first + 1))
    assert record.accuracy == curve[first]
    assert record.curves.test_accuracy == curve[: first + 1]


def test_a_target_that_is_met_with_the_last_update_or_never() -> None:
    last = ran(Stop(accuracy=1e-9), budget="1ep").records[0]
    assert (last.ended, last.updates) == ("target", 4)
    never = ran(Stop(accuracy=1.0), budget="2ep").records[0]
    assert (never.ended, never.updates) == ("", 8)


def test_where_the_last_epoch_is_not_evaluated_it_is_then() -> None:
    settings = dataclasses.replace(SMALL, evaluate_every=0, stop=Stop(stalled="1ep"))
    record = run([small_spec(settings=settings, lr=1e-9)], small_data()).records[0]
    assert (record.ended, record.curves.test_accuracy) == ("stalled", (record.accuracy,))


def test_divergence_comes_before_stalling() -> None:
    record = ran(Stop(stalled="1ep"), lr=1e30).records[0]
    assert (record.outcome, record.ended) == (Outcome.DIVERGED, "")


def test_such_trials_are_not_stacked() -> None:
    widths = dataclasses.replace(SMALL.model, widths=((8,), (8, 8)))
    plain = dataclasses.replace(SMALL, model=widths)
    assert stackable(small_spec(settings=plain))
    with_rule = dataclasses.replace(plain, stop=Stop(stalled="1ep"))
    assert not stackable(small_spec(settings=with_rule))
    with pytest.raises(ValueError, match="one by one"):
        run([small_spec(settings=with_rule, seed=s) for s in (0, 1)], small_data())


# --- the study file ------------------------------------------------------------------------

TEXT = """\
name = "s"
workload = "digits"
batch_sizes = [64, 128]
seeds = 1
budget = "6ep"
[settings]
stop = { stalled = "20%" }
[arms.none]
"""


def test_a_study_file_says_it() -> None:
    study = parse_study(TEXT)
    assert study.settings.stop == Stop(stalled="20%")
    target = TEXT.replace('"6ep"', '{ accuracy = 0.9, at_most = "6ep" }')
    study = parse_study(target)
    assert (study.budget, study.settings.stop) == ("6ep", Stop(stalled="20%", accuracy=0.9))
    assert parse_study(target, budget="3ep").budget == "3ep"
    assert parse_study(target, budget="3ep").settings.stop.accuracy == 0.9


BAD = {
    '{ stalled = "20%" }': [
        ('{ stalled = "20" }', "stalled", "no unit"),
        ("{ stalled = 20 }", "stalled", "in quotes"),
        ("{ accuracy = 1.5 }", "accuracy = 1.5", "a share above 0"),
        ('{ staled = "20%" }', "staled", "Did you mean 'stalled'?"),
    ],
    'budget = "6ep"': [
        ("budget = { accuracy = 0.9 }", "budget.at_most", "missing key"),
        ('budget = { at_most = "6ep" }', "budget.accuracy", "missing key"),
        ('budget = { accuracy = 90, at_most = "6ep" }', "accuracy = 90", "a share"),
        ('budget = { accuracy = 0.9, at_most = "60%" }', "at_most", "a share of itself"),
    ],
}
CASES = [(old, *case) for old, cases in BAD.items() for case in cases]


@pytest.mark.parametrize(("old", "new", "key", "hint"), CASES)
def test_bad_rules_are_refused_with_key_and_hint(
    old: str, new: str, key: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_study(TEXT.replace(old, new), label="s.toml")
    line = 7 if "stal" in old else 5
    assert str(caught.value).startswith(f"s.toml:{line}: ")
    assert key in str(caught.value) and hint in str(caught.value)


def test_two_targets_and_an_arm_with_a_rule_of_its_own_are_refused() -> None:
    two = TEXT.replace('"6ep"', '{ accuracy = 0.9, at_most = "6ep" }')
    two = two.replace('{ stalled = "20%" }', "{ accuracy = 0.8 }")
    with pytest.raises(UsageError, match="the budget names an accuracy too"):
        parse_study(two)
    with pytest.raises(UsageError, match="all trials end by one rule"):
        parse_study(TEXT + '[arms.other]\nstop = { stalled = "50%" }\n')
    with pytest.raises(NoEffect):
        parse_study(TEXT + '[arms.other]\nstop = { stalled = "20%" }\n')


@pytest.mark.parametrize("stop", [Stop(stalled="3ep"), Stop(accuracy=0.35)])
def test_a_run_that_goes_on_from_a_checkpoint_ends_where_it_would_have(stop: Stop) -> None:
    """The rule looks at everything since the first update, also at what was not run again."""
    spec = spec_with(stop, lr=0.5 if stop.accuracy else 1e-9, budget="12ep")
    resident, shelf = small_data(), Shelf()
    prepared = ready(spec, resident)
    ledgers = [ledger(spec, facts_of(resident))]
    with shelf.checkpoints() as every_epoch:
        (whole,) = run_trials([spec], ledgers, resident, prepared, checkpoints=every_epoch)
    assert whole.ended and 4 < whole.updates < 48 and shelf.kept
    assert max(shelf.kept) < whole.updates, "there is nothing to save of a run that has ended"
    with shelf.checkpoints(3600.0) as newest:
        (cut,) = run_trials([spec], ledgers, resident, prepared, checkpoints=newest)
    assert cut.provenance is not None and cut.provenance.resumed_from == max(shelf.kept)
    assert facts(cut) == facts(whole)
