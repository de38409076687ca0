"""Flags of what could fake a fall: each goes up where it should, and only there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic import Synthetic

from batchcliff.record import TrialRecord
from batchcliff.report.join import join
from batchcliff.report.ledger import (
    FLAGS,
    environment_rows,
    jpeg_note,
    ledger_rows,
    warnings,
)


def flags_of(synthetic: Synthetic, **changes: Any) -> set[str]:
    """Flags of one cell whose ledger has `changes`."""
    record = synthetic.records()[0]
    assert record.ledger is not None
    record = replace(record, ledger=replace(record.ledger, **changes))
    (row,) = ledger_rows(join([record.spec], [record]))
    return set(row.flags)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"dropped_per_epoch": 2501}, "dropped"),
        ({"updates_per_epoch": 9.9}, "few-updates"),
        ({"updates": 999}, "few-updates"),
        ({"batch_norm_horizon_epochs": 10.1}, "batch-norm-lag"),
    ],
)
def test_a_flag_goes_up_past_its_limit(
    synthetic: Synthetic, changes: dict[str, Any], flag: str
) -> None:
    assert flags_of(synthetic, **changes) == {flag}


def test_no_flag_at_the_limit(synthetic: Synthetic) -> None:
    limits = {
        "dropped_per_epoch": 2500,
        "updates_per_epoch": 10.0,
        "updates": 1000,
        "batch_norm_horizon_epochs": 10.0,
    }
    assert flags_of(synthetic, **limits) == set()


def test_the_article_is_flagged_at_8192_only(synthetic: Synthetic) -> None:
    rows = ledger_rows(join(synthetic.planned(), synthetic.records()))
    assert {r.batch_size for r in rows if r.flags} == {8192}
    assert {f for r in rows for f in r.flags} == {"few-updates", "batch-norm-lag"}


@pytest.mark.parametrize(("gap", "raised"), [(0.0199, False), (0.0201, True), (-0.03, True)])
def test_a_gap_after_reestimation(synthetic: Synthetic, gap: float, raised: bool) -> None:
    record = replace(synthetic.records()[0], accuracy=0.9, accuracy_reestimated=0.9 + gap)
    (row,) = ledger_rows(join([record.spec], [record]))
    assert ("batch-norm-gap" in row.flags) == raised
    assert row.reestimated_gap == pytest.approx(abs(gap))


def test_trials_of_one_cell_with_different_arithmetic(synthetic: Synthetic) -> None:
    first, second = synthetic.records()[:2]
    assert second.ledger is not None
    second = replace(second, ledger=replace(second.ledger, accumulation=2))
    (row,) = ledger_rows(join([first.spec, second.spec], [first, second]))
    assert row.flags == ("mixed",)


def moved(record: TrialRecord, **changes: Any) -> TrialRecord:
    assert record.provenance is not None
    return replace(record, provenance=replace(record.provenance, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "CPU"}, "2 devices"),
        ({"numerics": (("tf32", "on"),)}, "2 numerics"),
        ({"code": "batchcliff 0.2"}, "2 versions of batchcliff"),
    ],
)
def test_a_mixture_is_said(synthetic: Synthetic, changes: dict[str, Any], said: str) -> None:
    first, second = synthetic.records()[:2]
    records = [first, moved(second, **changes)]
    places = environment_rows(records)
    assert [p.trials for p in places] == [1, 1]
    joined = join([r.spec for r in records], records)
    assert any(said in w for w in warnings((), places, joined, ()))


@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({}, False),
        ({"seconds": 9.0, "code": "batchcliff 0.2", "started": "later"}, False),
        ({"device": "CPU"}, True),
        ({"numerics": (("tf32", "on"),)}, True),
        ({"versions": (("torch", "9"),)}, True),
        ({"mixed": (("threads", "2"),)}, True),
    ],
)
def test_a_cell_that_mixes_numerics_is_flagged(
    synthetic: Synthetic, changes: dict[str, Any], raised: bool
) -> None:
    """Not a study whose cells differ from each other; a trial that was mixed, also alone."""
    first, second, other = synthetic.records()[:3]
    records = [first, moved(second, **changes), moved(other, device="another")]
    records[2] = replace(other, spec=replace(other.spec, arm="alone"))
    rows = ledger_rows(join([r.spec for r in records], records))
    assert [row.flags for row in rows] == [("mixed-numerics",) if raised else (), ()]
    joined = join([second.spec], [moved(second, **changes)])
    assert ("mixed-numerics" in ledger_rows(joined)[0].flags) == ("mixed" in changes)
    (place,) = environment_rows(joined.records)
    assert (("threads at first", "2") in place.numerics) == ("mixed" in changes)


def test_quarantined_strangers_and_duplicates_are_said(synthetic: Synthetic) -> None:
    first, second, third = synthetic.records()[:3]
    joined = join([first.spec], [first, first, second, third])
    said = " ".join(warnings((), (), joined, ["results/ab.json"]))
    assert "1 record quarantined" in said
    assert "2 records outside of the plan" in said
    assert "1 second record of one trial" in said


def test_a_clean_study_has_no_warning(synthetic: Synthetic) -> None:
    records = synthetic.records()[:3]
    joined = join([r.spec for r in records], records)
    assert warnings(ledger_rows(joined), environment_rows(records), joined, ()) == ()


def test_every_flag_is_explained(synthetic: Synthetic) -> None:
    rows = ledger_rows(join(synthetic.planned(), synthetic.records()))
    assert {f for r in rows for f in r.flags} <= set(FLAGS)


def test_the_jpeg_note(synthetic: Synthetic) -> None:
    record = synthetic.records()[0]
    assert "JPEG" in jpeg_note(environment_rows([record]))
    assert jpeg_note(environment_rows([moved(record, data_source="official archive")])) == ""
