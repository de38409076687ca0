"""Two ranks on two GPUs: the result of one, and what becomes of a rank that hangs or dies.

    python benchmarks/two_ranks.py --json FILE

A network like the article's, but small enough to be compiled in seconds, on scikit-learn's
digits (so no data set is needed), in float32 with deterministic algorithms:

same      one rank and two: training losses and test loss agree to rounding
repeat    two runs of two ranks: every bit of every fact
hang      SIGSTOP of rank 1: the team ends in time, with its stack in the log; tried again
kill      SIGKILL of rank 1: both processes are gone and both GPUs' memory is free
interrupt SIGINT of the driver: exit code 130, nothing left

Exit code 0 if all of them hold. `--device cpu` rehearses it over gloo with a small network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchcliff.provenance import code_name, utc_now
from batchcliff.record import TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.study import jobs
from batchcliff.study.options import RunOptions
from batchcliff.study.progress import SilentProgress
from batchcliff.study.store import Store
from batchcliff.study.supervisor import run_study
from batchcliff.studyfile import load_study

HANG = 8.0  # seconds without progress, in place of half an hour
TIME_TO_END = HANG + 40.0  # RELIABILITY: a hung rank's trial ends by then
TIME_TO_FREE = 10.0
LEAST_TAKEN, LEAST_LEFT = 300, 60  # MiB: a context and its graphs; what a driver keeps
TOLERANCE = 2e-3


def study(device: str, budget: str) -> StudySpec:
    """One trial: batch 256, groups of batch norm of an eighth."""
    changes = [
        'data="digits"',
        'settings.precision="fp32"',
        "settings.evaluate_every=0",
        'lr={base=0.02, base_batch_size=256, scaling="linear"}',
        "batch_sizes=[256]",
        "seeds=1",
        f'budget="{budget}"',
    ]
    widths = "[[64], [128]]" if device == "cuda" else "[[8], [16]]"
    changes.append(f"settings.model.widths={widths}")
    loaded = load_study("article", overrides=changes)
    (plain,) = [arm for arm in loaded.arms if arm.name == "none"]
    return dataclasses.replace(loaded, arms=(plain,))


def train(device: str, ranks: int, folder: Path) -> TrialRecord:
    """The record of a short run."""
    single = "cuda:0" if device == "cuda" and ranks == 1 else device
    run_study(
        study(device, "24up"),
        folder=folder,
        progress=SilentProgress(),
        options=RunOptions(device=single, workers=1, deterministic=True, ranks=ranks),
    )
    with Store.open(folder) as store:
        (record,) = store.records().values()
    return record


def facts(record: TrialRecord) -> tuple[Any, ...]:
    """What equal runs agree on to the bit."""
    return record.outcome, record.accuracy, record.test_loss, record.curves


def workers() -> list[int]:
    """Our living worker processes, in the order in which they were started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            mine = stat[0] not in "ZX" and int(stat[1]) == os.getpid()
            if mine and b"batchcliff.study.worker" in command:
                found.append(int(entry.name))
    return sorted(found)


def memory() -> list[int]:
    """MiB in use on the first two GPUs; none on a CPU."""
    ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [int(line) for line in said.stdout.split()[:2]]


@dataclass
class Saboteur(SilentProgress):
    """Stops a rank, then kills one, then the run: each once the trial gets on."""

    before: list[int]
    found: dict[str, Any] = field(default_factory=dict)
    deed: str = "stop"
    done: bool = False
    began: float = 0.0
    notes: list[str] = field(default_factory=list)

    def advanced(self, *_: Any) -> None:
        """The trial trains: time for a deed, if none is under way."""
        if self.done:
            return
        self.done, self.began = True, time.monotonic()
        team = workers()
        self.found[self.deed] = {"pids": team, "memory": memory()}
        if self.deed == "stop":
            jobs.HUNG_SECONDS, jobs.HUNG_GAPS = HANG, 0
            os.kill(team[1], signal.SIGSTOP)
        elif self.deed == "kill":
            os.kill(team[1], signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        """A deed has had its end if the trial is tried again."""
        self.notes.append(text.splitlines()[0])
        if not self.done or "trying again" not in text:
            return
        jobs.HUNG_SECONDS, jobs.HUNG_GAPS = 60.0, 20
        was = self.found[self.deed]
        was["seconds"] = time.monotonic() - self.began
        was["left"] = [pid for pid in was["pids"] if Path(f"/proc/{pid}").exists()]
        while not is_free(self.before) and time.monotonic() - self.began < 30:
            time.sleep(0.1)
        was["seconds_to_free"] = time.monotonic() - self.began
        was["memory_after"] = memory()
        self.deed, self.done = {"stop": "kill", "kill": "interrupt"}[self.deed], False


def is_free(before: list[int]) -> bool:
    """Whether the GPUs have no more in use than before anything ran."""
    return all(now <= was + LEAST_LEFT for now, was in zip(memory(), before, strict=True))


def sabotage(device: str, folder: Path) -> dict[str, Any]:
    """What was found while ranks were stopped and killed."""
    saboteur = Saboteur(before=memory())
    summary = run_study(
        study(device, "20000ep"),
        folder=folder,
        progress=saboteur,
        options=RunOptions(device=device, workers=1, deterministic=True, ranks=2),
    )
    logs = [p.read_text() for p in (folder / "log").iterdir()]
    hung = [
        e for text in logs for e in map(json.loads, text.splitlines()) if e["event"] == "hung"
    ]
    tail = hung[0]["tail"] if hung else ""
    return {
        **saboteur.found,
        "notes": saboteur.notes,
        "before": saboteur.before,
        "exit_code": summary.exit_code,
        "left": workers(),
        "stack_of_the_stopped": "rank 1 of 2, stopped by a signal" in tail
        and "most recent call first" in tail.partition("rank 1 of 2")[2],
        "tail": tail[-3000:],
    }


def judged(one: TrialRecord, two: TrialRecord, again: TrialRecord, bad: dict[str, Any]) -> dict:
    """Each property, whether it holds, and the figures behind it."""
    pairs = list(zip(one.curves.train_loss, two.curves.train_loss, strict=True))
    pairs.append((one.test_loss, two.test_loss))
    apart = max(abs(a - b) / abs(a) for a, b in pairs)
    stop, kill = bad.get("stop", {}), bad.get("kill", {})
    taken = [m - b for m, b in zip(kill.get("memory", []), bad["before"], strict=False)]
    return {
        "same": (apart < TOLERANCE, f"largest difference {apart:.1e} of a loss"),
        "repeat": (facts(two) == facts(again), "every fact of two runs of two ranks"),
        "hang": (
            bool(
                stop.get("seconds", 1e9) < TIME_TO_END
                and not stop["left"]
                and bad["stack_of_the_stopped"]
            ),
            f"{stop.get('seconds', 0):.1f} s to the end of the team (limit {HANG:g} s)",
        ),
        "kill": (
            bool(
                kill.get("seconds_to_free", 1e9) < TIME_TO_FREE
                and not kill["left"]
                and all(t > LEAST_TAKEN for t in taken)
            ),
            f"{kill.get('seconds_to_free', 0):.1f} s until {taken} MiB were free",
        ),
        "interrupt": (
            bad["exit_code"] == 130 and not bad["left"],
            f"exit code {bad['exit_code']}",
        ),
    }


def main() -> int:
    """Run all, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder, took = Path(place), {}
        records = {}
        for name, ranks in (("one", 1), ("two", 2), ("again", 2)):
            start = time.monotonic()
            records[name] = train(given.device, ranks, folder / name)
            took[name] = round(time.monotonic() - start, 1)
            print(f"{name}: {took[name]} s", flush=True)
        start = time.monotonic()
        bad = sabotage(given.device, folder / "bad")
        took["sabotage"] = round(time.monotonic() - start, 1)
    found = judged(**records, bad=bad)
    for name, (holds, text) in found.items():
        print(f"{name:10} {'holds' if holds else 'FAILS':6} {text}")
    two = records["two"].provenance
    assert two is not None
    print(f"{two.device}; ranks {dict(two.numerics)['ranks']}; {took}", flush=True)
    if given.json:
        said = {
            "date": utc_now(),
            "code": code_name(),
            "device": two.device,
            "versions": dict(two.versions),
            "numerics": dict(two.numerics),
            "seconds": took | {"all": round(time.monotonic() - began, 1)},
            "holds": {name: {"holds": h, "text": t} for name, (h, t) in found.items()},
            "sabotage": bad,
        }
        given.json.write_text(json.dumps(said, indent=1) + "\n")
    return 0 if all(holds for holds, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
