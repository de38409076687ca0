"""The choice of a learning rate as a pure function of records."""

from __future__ import annotations

import dataclasses

import pytest
from builders import make_record

from batchcliff.errors import UsageError
from batchcliff.record import Outcome
from batchcliff.spec import Arm
from batchcliff.stats.tuning import best_lr, lr_choice, rule_arms
from batchcliff.studyfile import load_study


def records(table):
    """{rate: [accuracy or outcome, ...]}"""
    found = []
    for lr, values in table.items():
        for seed, value in enumerate(values):
            outcome = Outcome(value) if isinstance(value, str) else Outcome.OK
            accuracy = None if isinstance(value, str) else value
            found.append(make_record("a", 64, seed, accuracy, outcome, lr=lr, validation=0.1))
    return found


@pytest.mark.parametrize(
    ("table", "lr", "edge"),
    [
        ({0.1: [0.5], 0.2: [0.9], 0.4: [0.8]}, 0.2, ""),
        ({0.1: [0.9], 0.2: [0.9], 0.4: [0.9]}, 0.1, "lowest"),  # of equal ones the smallest
        ({0.1: [0.5], 0.2: [0.6], 0.4: [0.7]}, 0.4, "highest"),
        ({0.1: [0.5, 0.9], 0.2: [0.8, 0.8], 0.4: [1.0, 0.1]}, 0.2, ""),  # the mean counts
        ({0.1: [0.2], 0.2: [0.3], 0.4: ["diverged"]}, 0.2, ""),
        ({0.1: [0.7], 0.2: [0.7], 0.4: [1.0, "diverged"]}, 0.1, "lowest"),  # 0.55 at chance 0.1
        ({0.1: ["oom"], 0.2: ["failed"], 0.4: [0.2]}, 0.4, "highest"),
        ({0.1: ["oom"], 0.2: ["infeasible"]}, None, ""),
    ],
)
def test_the_best_mean_wins(table, lr, edge):
    made = records(table)
    assert best_lr(made) == best_lr(made[::-1]) == lr
    found = lr_choice("a", 64, made)
    assert (found.lr, found.edge, found.budget) == (lr, edge, len(made))


def test_no_choice_before_all_have_ended_unless_it_was_taken():
    made = records({0.1: [0.5], 0.2: [0.9]})
    assert lr_choice("a", 64, [*made, None]).lr is None
    taken = lr_choice("a", 64, [*made, None], taken=0.1)
    assert (taken.lr, taken.edge, taken.missing) == (0.1, "lowest", 1)


def test_a_record_of_the_test_set_is_refused():
    peeked = [make_record("a", 64, 0, 0.9, lr=0.1), *records({0.2: [0.5]})]
    with pytest.raises(UsageError, match="judged by the test set"):
        best_lr(peeked)


def test_the_rules_arm_differs_in_the_rate_alone():
    study = load_study("digits")
    tuned = dataclasses.replace(study.lr, tune=(0.1, 0.9))
    warm = study.arms[1]
    arms = (*study.arms, Arm(name="t", lr=tuned), dataclasses.replace(warm, name="w", lr=tuned))
    assert rule_arms(dataclasses.replace(study, arms=arms)) == {"t": "none", "w": "warmup"}
    other = dataclasses.replace(tuned, scaling="sqrt")
    arms = (*study.arms, Arm(name="t", lr=other))
    assert rule_arms(dataclasses.replace(study, arms=arms)) == {}
