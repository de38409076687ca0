"""The report says which accuracies are with re-estimated batch-norm statistics."""

from __future__ import annotations

import dataclasses

import pytest
from synthetic import Synthetic

from batchcliff.record import TrialRecord
from batchcliff.report.content import make_content

WORDS = "with re-estimated batch-norm statistics"


def judged(record: TrialRecord) -> TrialRecord:
    settings = dataclasses.replace(record.spec.settings, evaluation="reestimated")
    return dataclasses.replace(record, spec=dataclasses.replace(record.spec, settings=settings))


@pytest.mark.parametrize(
    ("arms", "whose"), [((), ""), (("warmup",), "warmup"), (("none", "warmup"), "all arms")]
)
def test_which_arms_are_judged_otherwise(
    arms: tuple[str, ...], whose: str, single: Synthetic
) -> None:
    records = [judged(r) if r.spec.arm in arms else r for r in single.records()]
    content = make_content(single.study, records, [r.spec for r in records])
    notes = [note for note in content.notes if WORDS in note]
    assert len(notes) == bool(arms)
    assert not notes or notes[0].startswith(f"Accuracies of {whose} are {WORDS}")
