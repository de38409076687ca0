"""Speed of a report: seconds from a study's folder to its page, and where they go; and of
the other verbs that read every record: status, export, plan.

    python benchmarks/bench_report.py --records 10000 --json FILE

Writes a made-up study (4 arms, 10 batch sizes, seeds to make up the number, curves of 100
epochs) to a temporary folder, then runs `batchcliff report` on it in a process of its own,
as a user would, and takes the best of a few runs: seconds of the clock and of the CPU, of
that process and its threads. Then the other verbs in the same way. A profile of one run in
this process says what is left.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import platform
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batchcliff.canonical import to_plain
from batchcliff.provenance import code_name, utc_now
from batchcliff.record import Curves, Ledger, Outcome, Provenance, TrialRecord
from batchcliff.report import write_report
from batchcliff.spec import Arm, Decay, LrRule, Options, Settings, StudySpec, TrialSpec
from batchcliff.study.plan import Planned
from batchcliff.study.sealed import seal
from batchcliff.study.store import Store

ARMS, EPOCHS = ("none", "warmup", "lars", "smoothing"), 100
SIZES = tuple(32 << i for i in range(10))
TARGET = 5.0  # seconds, for 10,000 records
DECAY = Decay(at=("60%", "85%"))


def study(seeds: int) -> StudySpec:
    """The grid; its arms differ in name and in a technique's options only."""
    arms = tuple(Arm(name=arm, techniques=technique(arm)) for arm in ARMS)
    return StudySpec(
        name="bench-report", workload="article", batch_sizes=SIZES, seeds=tuple(range(seeds)),
        budget=f"{EPOCHS}ep", lr=LrRule(base=0.1, base_batch_size=128), decay=DECAY, arms=arms,
        settings=Settings(), data="cifar10",
    )  # fmt: skip


def technique(arm: str) -> tuple[tuple[str, Options], ...]:
    options = (("duration", f"{1 + ARMS.index(arm)}ep"), ("shape", "linear"), ("start", 0.01))
    return (("warmup", options),) if arm != "none" else ()


def record(arm: str, size: int, seed: int) -> TrialRecord:
    """A trial whose accuracy falls with the batch size, with noise of its own."""
    draw = random.Random(f"{arm}/{size}/{seed}")
    x = math.log2(size / 2048) - 0.5 * ARMS.index(arm)
    accuracy = 0.1 + 0.8 / (1 + math.exp(2 * x)) + draw.gauss(0, 0.003)
    an_epoch, lr = 50_000 // size, 0.1 * size / 128
    spec = TrialSpec(
        workload="article", data="cifar10", data_digest="d" * 64, arm=arm,
        techniques=technique(arm), settings=Settings(), batch_size=size, lr=lr, decay=DECAY,
        budget=f"{EPOCHS}ep", seed=seed,
    )  # fmt: skip
    ledger = Ledger(
        num_train=50_000, num_test=10_000, num_classes=10, updates=an_epoch * EPOCHS,
        updates_per_epoch=float(an_epoch), epochs=float(EPOCHS),
        examples=an_epoch * EPOCHS * size, dropped_per_epoch=50_000 - an_epoch * size,
        batch_norm_group=size, batch_norm_horizon_epochs=10 / an_epoch, accumulation=1,
        warmup_updates=0, lr_provenance=f"{lr:g} = 0.1 x {size}/128 (linear)",
    )  # fmt: skip
    up = [
        accuracy * (1 - math.exp(-e / 15)) + draw.gauss(0, 0.01) for e in range(1, EPOCHS + 1)
    ]
    return TrialRecord(
        spec=spec, outcome=Outcome.OK, accuracy=accuracy, accuracy_reestimated=accuracy,
        test_loss=1 - accuracy, train_loss=1 - accuracy, updates=ledger.updates, ledger=ledger,
        curves=Curves(
            train_loss=tuple(2.3 - 2 * u + draw.random() * 0.01 for u in up),
            lr=(lr,) * EPOCHS, test_accuracy=tuple(min(max(u, 0.0), 1.0) for u in up),
        ),
        provenance=Provenance(
            seconds=11.5, compile_seconds=20.0, examples_per_second=2e5, started=utc_now(),
            stacked=1, device="none: made up",
            versions=(("python", platform.python_version()),),
        ),
    )  # fmt: skip


def make(folder: Path, count: int) -> int:
    """The study's folder with at least `count` records; how many. Written without the store's
    own `fsync`s, which would take minutes and are not what is measured."""
    seeds = -(-count // (len(ARMS) * len(SIZES)))
    cells = [(arm, size, seed) for arm in ARMS for size in SIZES for seed in range(seeds)]
    facts = {"name": "cifar10", "digest": "d" * 64, "num_train": 50_000, "num_test": 10_000,
             "num_classes": 10, "image_shape": [32, 32, 3], "source": "made up"}  # fmt: skip
    with Store.create(folder, study(seeds), facts, code_name()) as store:
        planned = []
        for arm, size, seed in cells:
            made = record(arm, size, seed)
            plain = to_plain(made)
            provenance = plain.pop("provenance")
            name = f"{made.trial_id}.json"
            (folder / "results" / name).write_bytes(seal(plain, provenance))
            planned.append(Planned(arm, size, seed, made.trial_id))
        store.add(planned)
    return len(cells)


def verbs(folder: Path, out: Path, seeds: int) -> dict[str, list[str]]:
    """The words of each command. The plan is that of a recipe, of the same arms in number."""
    return {
        "report": ["report", str(folder), "--out", str(out)],
        "status": ["status", str(folder)],
        "export": ["export", str(folder)],
        "plan": ["plan", "digits", "--out", str(folder), "--seeds", str(seeds)],
    }


def one_run(words: list[str]) -> tuple[float, float]:
    """(seconds of the clock, seconds of CPU) of one command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "batchcliff", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return end - start, cpu


def profile(folder: Path, out: Path, rows: int) -> None:
    """What is left, by function, of the reading and of the report."""
    with cProfile.Profile() as found, Store.open(folder) as store:
        records = list(store.records().values())
        plan = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in store.planned()]
        write_report(store.study, records, plan, out)
    pstats.Stats(found).sort_stats("tottime").print_stats(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--records", type=int, default=10_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--profile", type=int, default=12, help="rows of it; 0: none")
    options.add_argument("--json", type=Path, help="file for the result")
    options.add_argument("--keep", type=Path, help="make the study here and leave it")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = chosen.keep or Path(scratch) / "study", Path(scratch) / "out"
        count = make(folder, chosen.records)
        rows = []
        for verb, words in verbs(folder, out, count // (len(ARMS) * len(SIZES))).items():
            runs = [one_run(words) for _ in range(chosen.runs)]
            clock, cpu = min(run[0] for run in runs), min(run[1] for run in runs)
            target = TARGET if verb == "report" and count >= 10_000 else None
            aim = f"; target {target:g} s, ratio {clock / target:.2f}" if target else ""
            print(f"{verb} of {count:,} records: {clock:.2f} s, of CPU {cpu:.2f} s{aim}")
            rows.append({"verb": verb, "seconds": clock, "cpu_seconds": cpu, "target": target})
        if chosen.profile:
            profile(folder, out, chosen.profile)
    if chosen.json:
        common = {"records": count, "runs": chosen.runs, "code": code_name(),
                  "machine": platform.processor() or platform.machine(),
                  "python": platform.python_version(), "date": utc_now()[:10]}  # fmt: skip
        chosen.json.write_text(json.dumps([row | common for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
