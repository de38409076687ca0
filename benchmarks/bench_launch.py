"""From launch to answer: the seconds of a whole study, and who waited for what.

    python benchmarks/bench_launch.py article --data DIR --json FILE
    python benchmarks/bench_launch.py digits

Runs `batchcliff run STUDY --json` in a process of its own, as a user would, with cold caches:
of compiled code (torch.compile, Triton, CUDA) and, with --data, of the decoded images. Every
event is timed as it arrives; from the records comes how long each trial was prepared and
trained, and from $BATCHCLIFF_TRACE what each process was at. The time line says when each
trial was handed out, began and ended, for how long no trial was trained at all, and what a
launch costs before the first update; the marks of every process say what that consists of.
--limit stops the run as Ctrl-C does, so that what there is by then is still written. --mps
starts NVIDIA's Multi-Process Service for it, under which workers train side by side instead of
one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchcliff.provenance import code_name, utc_now
from batchcliff.record import TrialRecord
from batchcliff.study.store import Store

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
GOAL = 360.0  # seconds, for the article's 14 trials on one H100


@dataclass
class Events:
    """What a run told, in seconds since its launch."""

    read: float = 0.0  # the data are read and the study is planned
    handed_out: dict[str, float] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    trained: float = 0.0  # the last trial has its record
    done: float = 0.0  # the report is written and the process is gone
    notes: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    launched: float = 0.0  # on the clock of the marks

    def take(self, now: float, event: dict[str, Any]) -> None:
        match event["event"]:
            case "started":
                self.read = now
            case "trial_started":
                self.handed_out[event["trial_id"]] = now
            case "finished":
                self.finished[event["trial_id"]] = self.trained = now
            case "note":
                self.notes.append(event["text"])
            case "ended" | "done":
                self.last |= event


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something was over in a process: seconds since the launch, and since the mark before it
    in the same process (since the launch, for the first)."""

    process: int  # 0, 1, ... in the order of their first marks
    at: float
    took: float
    what: str
    facts: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial on the time line; seconds since the launch, and seconds of each part."""

    arm: str
    batch_size: int
    handed_out: float
    trained_from: float
    finished: float
    waited: float  # from being handed out to its first update: a start, or compilation
    prepare_seconds: float  # of its shape, by the worker that prepared it
    examples_per_second: float


def launch(command: list[str], environment: dict[str, str], limit: float) -> Events:
    """Run to its end, or for `limit` seconds; the events."""
    begin = time.monotonic()
    events = Events(launched=begin)
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    stop = threading.Timer(limit, lambda: child.send_signal(signal.SIGINT))
    stop.start()
    assert child.stdout is not None
    try:
        for line in child.stdout:
            events.take(time.monotonic() - begin, json.loads(line))
        child.wait()
    finally:
        stop.cancel()
        child.kill()
        child.wait()
    events.done = time.monotonic() - begin
    return events


@contextlib.contextmanager
def served_by_mps(folder: Path) -> Iterator[dict[str, str]]:
    """The service runs within the block; the variables by which programs find it."""
    found = {}
    for name in ("PIPE", "LOG"):
        (folder / name).mkdir()
        found[f"CUDA_MPS_{name}_DIRECTORY"] = str(folder / name)
    environment = {**os.environ, **found}
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
    try:
        yield found
    finally:
        subprocess.run(
            ["nvidia-cuda-mps-control"], env=environment, input="quit\n", text=True, check=True
        )


def rows_of(events: Events, records: dict[str, TrialRecord]) -> list[Row]:
    """The time line, in the order of the first updates."""
    rows = []
    for trial_id, end in events.finished.items():
        record = records[trial_id]
        where = record.provenance
        if where is None:  # it could not start
            continue
        # A stack's trials end together; each record has its share of the seconds.
        begin, out = end - where.seconds * where.stacked, events.handed_out[trial_id]
        rows.append(
            Row(
                arm=record.spec.arm,
                batch_size=record.spec.batch_size,
                handed_out=out,
                trained_from=begin,
                finished=end,
                waited=max(begin - out, 0.0),
                prepare_seconds=where.compile_seconds,
                examples_per_second=where.examples_per_second,
            )
        )
    return sorted(rows, key=lambda row: row.trained_from)


def marks_of(lines: Iterable[str], launched: float) -> list[Mark]:
    """What the processes of a run noted (batchcliff/trace.py), process by process."""
    before: dict[int, float] = {}
    found = []
    for line in lines:
        noted = json.loads(line)
        pid, at = noted["pid"], noted["at"] - launched
        took = at - before.get(pid, 0.0)
        before[pid] = at
        number = list(before).index(pid)
        facts = noted.get("facts", {})
        found.append(Mark(process=number, at=at, took=took, what=noted["what"], facts=facts))
    return sorted(found, key=lambda mark: (mark.process, mark.at))


def covered(rows: Iterable[Row]) -> float:
    """Seconds during which at least one trial was trained."""
    total, reached = 0.0, 0.0
    for row in sorted(rows, key=lambda row: row.trained_from):
        total += max(row.finished - max(row.trained_from, reached), 0.0)
        reached = max(reached, row.finished)
    return total


def summary(events: Events, rows: list[Row]) -> dict[str, float]:
    """Where the seconds went; they sum to "launch to answer"."""
    first = min((row.trained_from for row in rows), default=events.done)
    trained, busy = max(events.trained, first), covered(rows)
    return {
        "launch to answer": events.done,
        "until the data are read": events.read,
        "from there to the first update": first - events.read,
        "training, at least one trial": busy,
        "training, none at all": trained - first - busy,
        "from the last trial to the answer": events.done - trained,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", default="article", help="a recipe or a study file")
    parser.add_argument("--data", help="as of `batchcliff run`")
    parser.add_argument("--workers", help="as of `batchcliff run`")
    parser.add_argument("--set", action="append", default=[], help="as of `batchcliff run`")
    parser.add_argument(
        "--limit", type=float, default=400.0, help="seconds, then it is stopped"
    )
    parser.add_argument("--warm", action="store_true", help="leave the caches as they are")
    parser.add_argument("--mps", action="store_true", help="with the Multi-Process Service")
    parser.add_argument("--caches", type=Path, help="new folder to keep the caches in")
    parser.add_argument("--keep", type=Path, help="folder to keep the study in")
    parser.add_argument("--json", type=Path, help="file for the result")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-launch-") as scratch:
        folder, environment = chosen.keep or Path(scratch) / "study", {}
        if not chosen.warm:
            caches = chosen.caches or Path(scratch)
            if chosen.caches:
                chosen.caches.mkdir()  # a full one would not be cold
            environment = {name: str(caches / name.lower()) for name in CACHES}
            if chosen.data:
                environment["BATCHCLIFF_DATA"] = str(Path(scratch) / "data")
        trace = Path(scratch) / "trace"
        environment |= {"BATCHCLIFF_TRACE": str(trace)}
        command = [sys.executable, "-m", "batchcliff", "run", chosen.study, "--json"]
        command += ["--out", str(folder)]
        for name in ("data", "workers"):
            if value := getattr(chosen, name):
                command += [f"--{name}", value]
        for value in chosen.set:
            command += ["--set", value]
        service = served_by_mps(Path(scratch)) if chosen.mps else contextlib.nullcontext({})
        with service as variables:
            events = launch(command, environment | variables, chosen.limit)
        with Store.open(folder) as store:
            records = store.records()
        marks = marks_of(trace.read_text().splitlines(), events.launched)
    rows = rows_of(events, records)
    found = summary(events, rows)
    place = next((r.provenance for r in records.values() if r.provenance), None)
    show_marks(marks)
    show(chosen.study, events, rows, found, place.device if place else "?")
    if chosen.json:
        torch_ = dict(place.versions).get("torch", "?") if place else "?"
        common = {"device": place.device if place else "?", "torch": torch_,
                  "code": code_name(), "cores": len(os.sched_getaffinity(0)),
                  "workers": place.workers if place else 0, "mps": chosen.mps,
                  "date": utc_now()[:10],
                  "what": f"{chosen.study}, launch to report, {len(rows)} trials"}  # fmt: skip
        whole = {**common, "seconds": {k: round(v, 2) for k, v in found.items()},
                 "missing": events.last.get("missing"), "notes": events.notes}  # fmt: skip
        trials = [
            {k: v if isinstance(v, str) else round(v, 2) for k, v in _plain(row).items()}
            for row in rows
        ]
        whole["marks"] = [
            [m.process, round(m.at, 2), round(m.took, 2), m.what, m.facts] for m in marks
        ]
        chosen.json.write_text(json.dumps([whole, *trials], indent=1) + "\n")
    return int(events.last.get("exit_code", 1))


def _plain(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


LONGEST = 12  # phases of the compiler that are shown


def show_marks(marks: list[Mark]) -> None:
    """What each process was at, in seconds since the launch."""
    for mark in marks:
        print(f"process {mark.process} {mark.at:>7.1f} s (+{mark.took:.1f})  {mark.what}")
        longest = sorted(mark.facts.items(), key=lambda item: -item[1])[:LONGEST]
        if longest:
            said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in longest)
            print(f"{'':>10}compiler so far, s: {said}")


def show(
    study: str, events: Events, rows: list[Row], found: dict[str, float], device: str
) -> None:
    """The time line and its sums on the screen."""
    print(f"{'trial':<28} {'handed out':>10} {'from':>7} {'to':>7} {'waited':>7}  examples/s")
    for row in rows:
        print(
            f"{row.arm + ', ' + format(row.batch_size, ','):<28} {row.handed_out:>10.1f} "
            f"{row.trained_from:>7.1f} {row.finished:>7.1f} {row.waited:>7.1f}  "
            f"{row.examples_per_second:>10,.0f}"
        )
    for name, seconds in found.items():
        print(f"{name:<36} {seconds:>7.1f} s")
    missing = events.last.get("missing")
    goal = f"; goal {GOAL:g} s on an H100" if study == "article" else ""
    print(f"{device}: {len(rows)} trials{f', {missing} missing' if missing else ''}{goal}")
    for note in dict.fromkeys(events.notes):
        print(f"note: {note}")


if __name__ == "__main__":
    sys.exit(main())
