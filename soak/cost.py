"""What the store costs: seconds of a commit, and of reading ten thousand records."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "study"))
import fake_peer as fake

from batchcliff.study.store import Store

RECORDS = 10_000
COMMIT_MS, SCAN_SECONDS = 5.0, 2.0  # targets of the design, on a quiet machine


def cost(records: int = RECORDS) -> dict[str, Any]:
    """Median of the commits on this disk, and the best of three scans of `records`.

    The processor's seconds are what is judged: the wall's depend on who else is at work.
    """
    study = fake.study_of(1)
    (first,) = fake.specs_of(study)
    with tempfile.TemporaryDirectory() as folder:
        with fake.start(Path(folder) / "s", 1) as store:
            commits, worked = [], []
            for seed in range(records):
                record = fake.train(dataclasses.replace(first, seed=seed))
                begun, used = time.perf_counter(), time.process_time()
                store.publish(record)
                commits.append(time.perf_counter() - begun)
                worked.append(time.process_time() - used)
        scans = []
        for _ in range(3):
            with Store.open(Path(folder) / "s") as store:
                begun, used = time.perf_counter(), time.process_time()
                assert len(store.records()) == records
                scans.append((time.process_time() - used, time.perf_counter() - begun))
    commit, scan = statistics.median(worked) * 1e3, min(scans)[0]
    return {
        "gate": "cost", "n": records, "commit_cpu_ms": round(commit, 3),
        "commit_wall_ms": round(statistics.median(commits) * 1e3, 3),
        "scan_cpu_seconds": round(scan, 3),
        "scan_wall_seconds": round(min(wall for _, wall in scans), 3),
        "passed": commit <= COMMIT_MS and scan <= SCAN_SECONDS,
    }  # fmt: skip
