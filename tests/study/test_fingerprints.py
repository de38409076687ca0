"""Numerics of records, and of what joins them; real runs are in test_mixed_numerics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from batchcliff.record import TrialRecord
from batchcliff.report.ledger import environment_rows, mixtures
from batchcliff.stats.summary import mixed_numerics
from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.store import Store

DIGITS = Path(__file__).parents[2] / "results" / "digits"


def record() -> TrialRecord:
    """One that was made before limits of instruction sets were said."""
    with Store.open(DIGITS) as store:
        trial = store.planned()[0].trial_id
        found = store.record(trial)
    assert found is not None
    return found


def limited(one: TrialRecord) -> TrialRecord:
    assert one.provenance is not None
    numerics = tuple(sorted((*one.provenance.numerics, ("onednn_isa", "AVX2"))))
    return dataclasses.replace(
        one, provenance=dataclasses.replace(one.provenance, numerics=numerics)
    )


def test_a_record_that_is_older_than_limits_ran_without_one() -> None:
    """New trials join it without a word where there is none, and with one where there is."""
    old = record()
    assert old.provenance is not None
    known = Fingerprints([old.provenance])
    now = (*old.provenance.fingerprint, ("batchcliff", "9"))
    assert known.news(now) == []
    (told,) = known.news((*now, ("onednn_isa", "AVX2")))
    assert "(onednn_isa 'no limit' there, 'AVX2' now)" in told
    new = limited(old)
    (back,) = Fingerprints([new.provenance]).news(now)
    assert "(onednn_isa 'AVX2' there, 'no limit' now)" in back


def test_a_report_says_that_a_limit_was_there_for_some() -> None:
    old = record()
    (told,) = mixed_numerics([old, limited(old)])
    assert "onednn_isa is AVX2, no limit" in told
    assert mixed_numerics([old, old]) == mixed_numerics([limited(old)] * 2) == []
    assert mixtures(environment_rows([old, limited(old)])) == ["The trials mix 2 numerics"]
    assert mixtures(environment_rows([old, old])) == []
