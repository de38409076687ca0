"""What the store costs: seconds of a commit, of a trial, of reading ten thousand records."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "study"))
import fake_peer as fake

from batchcliff.record import TrialRecord
from batchcliff.study.checkpoints import CheckpointFolder
from batchcliff.study.store import Store

RECORDS = 10_000
COMMIT_MS, SCAN_SECONDS = 5.0, 2.0  # targets of the design, on a quiet machine
CHECKPOINT = 10_000_000  # bytes: the article's network with its momenta
TRIAL_MS = 600.0  # one percent of a trial of a minute


def cost(records: int = RECORDS, trials: int = 50) -> dict[str, Any]:
    """Median of the commits on this disk, of all that the store asks of one of `trials`,
    and the best of three scans of the records, of which fewer than `RECORDS` may take their
    share.

    The processor's seconds are what is judged: the wall's depend on who else is at work.
    """
    study = fake.study_of(1)
    (first,) = fake.specs_of(study)
    commits, worked, wholes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        with fake.start(Path(folder) / "s", 1) as store:
            for seed in range(records):
                record = fake.train(dataclasses.replace(first, seed=seed))
                begun, used = time.perf_counter(), time.process_time()
                store.publish(record)
                commits.append(time.perf_counter() - begun)
                worked.append(time.process_time() - used)
            for seed in range(records, records + trials):
                record = fake.train(dataclasses.replace(first, seed=seed))
                used = time.process_time()
                protocol(store, record)
                wholes.append(time.process_time() - used)
        scans = []
        for _ in range(3):
            with Store.open(Path(folder) / "s") as store:
                begun, used = time.perf_counter(), time.process_time()
                assert len(store.records()) == records + trials
                scans.append((time.process_time() - used, time.perf_counter() - begun))
    commit, scan = statistics.median(worked) * 1e3, min(scans)[0]
    trial = statistics.median(wholes) * 1e3
    scan_limit = SCAN_SECONDS * (records + trials) / RECORDS
    return {
        "gate": "cost", "n": records, "commit_cpu_ms": round(commit, 3),
        "commit_wall_ms": round(statistics.median(commits) * 1e3, 3),
        "trial_cpu_ms": round(trial, 3),
        "scan_cpu_seconds": round(scan, 3),
        "scan_wall_seconds": round(min(wall for _, wall in scans), 3),
        "passed": commit <= COMMIT_MS and trial <= TRIAL_MS and scan <= scan_limit,
    }  # fmt: skip


def protocol(store: Store, record: TrialRecord) -> None:
    """Everything between a trial's turn and its last word."""
    with store.lease(record.trial_id) or contextlib.nullcontext():
        assert store.record(record.trial_id) is None
        attempt = store.claim_attempt(record.trial_id)
        CheckpointFolder(store.folder).of([record.trial_id], print).keep(1, bytes(CHECKPOINT))
        store.publish(record)
        store.end_attempt(record.trial_id, attempt, "done")
        CheckpointFolder(store.folder).drop({record.trial_id})
