"""A fake worker whose accuracies follow a curve with a cliff at batch size 20, and a little
noise by trial."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import fake_worker

from batchcliff.record import Ledger, TrialRecord
from batchcliff.spec import TrialSpec

COMMAND = (sys.executable, str(Path(__file__).resolve()))
CLIFF = 20
PLATEAU = 0.9


def pretend(spec: TrialSpec, ledger: Ledger) -> TrialRecord:
    record = plain(spec, ledger)
    assert record.accuracy is not None
    noise = (record.accuracy - 0.5) / 100
    holds = spec.batch_size < CLIFF * (2 if spec.techniques else 1)
    return dataclasses.replace(record, accuracy=(PLATEAU if holds else 0.3) + noise)


plain, fake_worker.pretend = fake_worker.pretend, pretend

if __name__ == "__main__":
    fake_worker.main(int(sys.argv[1]), int(sys.argv[2]))
