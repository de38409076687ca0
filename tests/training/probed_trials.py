"""Small trials that are probed."""

from __future__ import annotations

from small_trials import SMALL, with_settings

from batchcliff.record import Probes, TrialRecord
from batchcliff.spec import PROBES, Model

PROBED = with_settings(SMALL, probes=PROBES)
TINY = with_settings(PROBED, model=Model(widths=((2,), (3,))), probe_at=("0up", "5up"))


def probes_of(record: TrialRecord) -> Probes:
    assert record.probes is not None
    return record.probes
