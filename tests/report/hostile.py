"""A study whose every string attacks whoever shows it."""

from __future__ import annotations

import itertools
from dataclasses import replace

from synthetic import Synthetic

from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import Arm, StudySpec

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "<svg/onload=alert(4)>",
    "</style><script>alert(5)</script>",
    "</title><body onload=alert(6)>",
    "<!--<script>alert(7)//-->",
    "{{ 7 * 7 }}{% for x in y %}",
    "javascript:alert(8)",
    '=HYPERLINK("http://evil.test","x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\u202egnp.exe\u202c",
    "line one\nline two\r\nthree\u2028four",
    "nul\x00bell\x07esc\x1b[31m",
    "half a pair \ud800 here",
    "'; alert(9); //",
    "datum.constructor.constructor('alert(10)')()",
    "x" * 5000,
    "<iframe src=http://evil.test></iframe>",
    "<link rel=stylesheet href=//evil.test/x.css>",
    "](http://evil.test) | <b>",
    "&lt;script&gt;alert(11)&lt;/script&gt;",
    "עברית العربية",
    "",
)

Hostile = tuple[
    StudySpec, list[TrialRecord], list[tuple[str, int, int, str]], list[str], list[str]
]


def hostile_study() -> Hostile:
    """(study, records, planned, notes, quarantined): an arm for each payload, all else too."""
    arms = tuple(Arm(name=p, techniques=(("t", (("i", i),)),)) for i, p in enumerate(PAYLOADS))
    synthetic = Synthetic(seeds=1, sizes=(128, 4096), arms=arms)
    nasty = itertools.cycle(PAYLOADS)
    study = replace(
        synthetic.study,
        name=PAYLOADS[1],
        workload=PAYLOADS[2],
        data=PAYLOADS[3],
        budget=PAYLOADS[4],
        description="\n\n".join(PAYLOADS),
        reference_arm=PAYLOADS[0],
    )
    records = [_poisoned(record, nasty) for record in synthetic.records()]
    return study, records, synthetic.planned(), list(PAYLOADS), list(PAYLOADS)


def _poisoned(record: TrialRecord, nasty: itertools.cycle[str]) -> TrialRecord:
    assert record.ledger is not None and record.provenance is not None
    bad = record.spec.batch_size == 4096
    return replace(
        record,
        outcome=Outcome.FAILED if bad else record.outcome,
        accuracy=None if bad else record.accuracy,
        reason=next(nasty),
        ledger=replace(record.ledger, lr_provenance=next(nasty)),
        provenance=replace(
            record.provenance,
            device=next(nasty),
            code=next(nasty),
            data_source=next(nasty),
            started=next(nasty),
            versions=((next(nasty), next(nasty)),),
            numerics=((next(nasty), next(nasty)),),
        ),
    )
