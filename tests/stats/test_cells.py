"""Cells account for every planned trial and refuse what is not a number."""

from __future__ import annotations

import pytest
from builders import SIZES, make_record, make_spec
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import UsageError
from batchcliff.record import Outcome
from batchcliff.stats.cells import make_cells


@given(
    st.lists(
        st.lists(st.sampled_from([*Outcome, None]), min_size=1, max_size=6),
        min_size=1,
        max_size=len(SIZES),
    )
)
def test_law_every_planned_trial_is_counted_once(outcomes):
    planned, records = [], []
    for size, column in zip(SIZES, outcomes, strict=False):
        for seed, outcome in enumerate(column):
            planned.append(make_spec("none", size, seed))
            if outcome is not None:
                accuracy = 0.5 if outcome is Outcome.OK else None
                records.append(make_record("none", size, seed, accuracy, outcome))
    cells = make_cells(records, planned)
    assert [cell.batch_size for cell in cells] == list(SIZES[: len(outcomes)])
    for cell, column in zip(cells, outcomes, strict=True):
        assert cell.planned == len(column)
        for outcome in Outcome:
            assert getattr(cell, outcome.value) == column.count(outcome)
        assert cell.missing == column.count(None)
        assert cell.measured + cell.lost + cell.infeasible == cell.planned


def test_accuracies_stay_paired_with_their_seeds_in_any_order_of_records():
    accuracies = {0: 0.9, 1: 0.8, 2: 0.7, 5: 0.6}
    records = [make_record("none", 32, seed, value) for seed, value in accuracies.items()]
    planned = [make_spec("none", 32, seed) for seed in accuracies]
    (cell,) = make_cells(records[::-1], planned[::-1])
    assert dict(zip(cell.seeds, cell.accuracies, strict=True)) == accuracies
    assert cell.seeds == (0, 1, 2, 5)


def test_a_diverged_trial_counts_as_declared_and_only_there():
    records = [
        make_record("none", 32, 0, 0.9),
        make_record("none", 32, 1, None, Outcome.DIVERGED),
    ]
    (cell,) = make_cells(records, [make_spec("none", 32, seed) for seed in (0, 1)])
    assert cell.accuracies == (0.9,)
    assert cell.values(diverged_as=0.1) == {0: 0.9, 1: 0.1}


def test_reestimated_statistics_are_a_choice():
    records = [make_record("none", 32, 0, 0.9, reestimated=0.95)]
    planned = [make_spec("none", 32, 0)]
    assert make_cells(records, planned, "running")[0].accuracies == (0.9,)
    assert make_cells(records, planned, "reestimated")[0].accuracies == (0.95,)
    with pytest.raises(UsageError, match="'re-estimated' is unknown: write running or"):
        make_cells(records, planned, "re-estimated")


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), 1.01, -0.1])
def test_an_ok_trial_without_a_share_is_refused(bad):
    with pytest.raises(UsageError, match="is ok but its accuracy is"):
        make_cells([make_record("none", 32, 0, bad)], [make_spec("none", 32, 0)])


def test_two_records_of_one_trial_are_refused():
    with pytest.raises(UsageError, match="two records of trial"):
        make_cells([make_record("none", 32, 0, 0.9)] * 2, [make_spec("none", 32, 0)])


def test_a_seed_planned_twice_is_refused():
    twice = [make_spec("none", 32, 0), make_spec("none", 32, 0, lr=0.2)]
    with pytest.raises(UsageError, match="batch size 32: seed 0 is planned twice"):
        make_cells([], twice)


def test_one_record_serves_two_arms_that_are_one_experiment():
    planned = [make_spec("none", 32, 0), make_spec("also-none", 32, 0)]
    cells = make_cells([make_record("none", 32, 0, 0.9)], planned)
    assert [(cell.arm, cell.accuracies) for cell in cells] == [
        ("none", (0.9,)),
        ("also-none", (0.9,)),
    ]
