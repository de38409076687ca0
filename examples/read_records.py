"""The records of a study as values: no torch needed.

python examples/read_records.py results/digits
"""

from __future__ import annotations

import sys

from batchcliff.stats.summary import summarize
from batchcliff.study.store import Store

if len(sys.argv) != 2:
    sys.exit("usage: python examples/read_records.py STUDY_FOLDER")
with Store.open(sys.argv[1]) as store:
    records = list(store.records().values())
    study = store.study

summary = summarize(
    records, [r.spec for r in records], study.reference_arm, delta=study.tolerance
)
for arm in summary.arms:
    cliff = arm.tolerance
    print(
        f"{arm.arm}: falls {summary.delta:.0%} below {summary.plateau:.1%} at {cliff.value:.0f}"
    )
    print(f"    {cliff.level:.0%} interval {cliff.low:.0f} to {cliff.high:.0f}: {cliff.method}")
