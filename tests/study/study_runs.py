"""Runs of small studies for the tests: in this process, or as a driver that can be killed.

As a program: `study_runs.py FOLDER OPTIONS` runs the faulty workload with fake workers, with
JSON progress on standard output and the exit codes of the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patience import PATIENCE, until

from batchcliff.errors import BatchcliffError
from batchcliff.record import TrialRecord
from batchcliff.spec import Arm, Decay, LrRule, StudySpec, TrialSpec
from batchcliff.study import checkpoints, supervisor
from batchcliff.study.options import RunOptions
from batchcliff.study.progress import JsonProgress
from batchcliff.study.store import Store
from batchcliff.study.supervisor import RunSummary, run_study
from batchcliff.studyfile import load_study

HERE = Path(__file__).resolve().parent
# Started in the background of a shell we ignore Ctrl-C, and by nohup a hangup; and so would all
# that we start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ != "__main__" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
PATH = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
MARK = "BATCHCLIFF_TEST_MARK"


def study_of(
    seeds: int | tuple[int, ...] = 4,
    batch_sizes: tuple[int, ...] = (8, 16),
    arms: tuple[Arm, ...] = (Arm(name="none"),),
    base: float = 0.1,
) -> StudySpec:
    """A study of the faulty workload: 64 examples, 4 classes."""
    sys.path.insert(0, str(HERE))
    import faulty

    return StudySpec(
        name="faulty",
        workload="faulty",
        batch_sizes=batch_sizes,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else seeds,
        budget="2ep",
        lr=LrRule(base=base, base_batch_size=16),
        decay=Decay(kind="constant"),
        arms=arms,
        settings=faulty.workload().settings,
        data="faulty-data",
    )


@dataclass
class Told:
    """Everything that a run says, in order."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        self.events.append(("started", total, done, examples, examples_done))

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        self.events.append(("trial_started", spec.trial_id, updates))

    def advanced(self, trial_id: str, update: int, updates: int, rate: float) -> None:
        self.events.append(("advanced", trial_id, update, updates, rate))

    def finished(self, record: TrialRecord) -> None:
        self.events.append(("finished", record.trial_id, record))

    def more(self, *, trials: int, examples: int) -> None:
        self.events.append(("more", trials, examples))

    def note(self, text: str) -> None:
        self.events.append(("note", text))

    def ended(self, *, exit_code: int, text: str = "") -> None:
        self.events.append(("ended", exit_code))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] == kind]

    @property
    def notes(self) -> str:
        return "\n".join(event[1] for event in self.of("note"))


def run(
    study: StudySpec, folder: Path, told: Told | None = None, workers: int = 2, **options: Any
) -> RunSummary:
    """In this process, with the faulty workload. Options: as in RunOptions; choose, seek."""
    deciding = {name: options.pop(name, None) for name in ("choose", "seek")}
    faulty = {"device": "cpu", "workload_reference": "faulty:workload"}
    return run_study(
        study,
        folder=folder,
        progress=told or Told(),
        options=RunOptions(workers=workers, **{**faulty, **options}),
        **deciding,
    )


def two_at_once(call: Callable[[], RunSummary]) -> list[int]:
    """The exit codes of two runs in two threads."""
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(call().exit_code)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return codes


def outcomes(folder: Path) -> dict[int, str]:
    """How each seed's trial ended, in a study with one trial a seed."""
    with Store.open(folder) as store:
        return {r.spec.seed: str(r.outcome) for r in store.records().values()}


def attempts(folder: Path) -> dict[int, list[str | None]]:
    """Why each seed's attempts ended, in a study with one trial a seed."""
    with Store.open(folder) as store:
        return {p.seed: [a.why for a in store.attempts(p.trial_id)] for p in store.planned()}


def table(folder: Path) -> bytes:
    with Store.open(folder) as store:
        return store.table()


def leases_are_free(folder: Path) -> bool:
    """Whether nobody holds any trial."""
    with Store.open(folder) as store:
        held = [store.lease(p.trial_id) for p in store.planned()]
        for lease in held:
            if lease is not None:
                lease.release()
    return None not in held


# --- processes -----------------------------------------------------------------------------


def marked(mark: str, contains: str = "") -> list[int]:
    """Living processes that have `mark` in their environment, and a word in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                here = f"{MARK}={mark}\0".encode() in (entry / "environ").read_bytes()
                if here and not dead and contains.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def all_gone(mark: str, seconds: float = PATIENCE) -> bool:
    """Whether nothing marked is alive within `seconds`: whoever is killed has to be given a
    processor once more."""
    deadline = time.monotonic() + seconds
    while left := marked(mark):
        if time.monotonic() > deadline:
            print("still alive:", [Path(f"/proc/{p}/cmdline").read_bytes() for p in left])
            return False
        time.sleep(0.02)
    return True


@dataclass
class Driver:
    """A process that runs a study, and can be told from others' by its mark."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Whole lines of its JSON progress so far."""
        lines = self.output.read_bytes().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [event for event in found if kind in ("", event["event"])]

    def until(self, kind: str, count: int = 1) -> None:
        """Wait for `count` events of a kind."""
        self.meets(lambda: len(self.events(kind)) >= count)

    def meets(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened; it does not if the run is over."""

        def looks() -> bool:
            alive = self.process.poll() is None
            found = happened()
            assert alive or found, self.errors()
            return found

        until(looks, self.errors)

    def errors(self) -> str:
        return self.output.with_suffix(".err").read_text()

    def workers(self) -> list[int]:
        return [pid for pid in marked(self.mark, "worker") if pid != self.process.pid]

    def wait(self) -> int:
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def driver(command: list[str], output: Path, **environment: str) -> Iterator[Driver]:
    """Start one; at the end nothing of it is left alive, whatever the test did."""
    mark = uuid.uuid4().hex
    with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env={**os.environ, **environment, MARK: mark, "PYTHONPATH": PATH},
        )
    try:
        yield Driver(process, mark, output)
    finally:
        for pid in {process.pid, *marked(mark)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def slowly(command: list[str]) -> list[str]:
    """A real run's command, its trials so slow that none is over before a test meets it."""
    assert command[1:3] == ["-m", "batchcliff"]
    return [command[0], str(HERE / "slowly.py"), *command[3:]]


def fake_command(folder: Path, **options: Any) -> list[str]:
    """A driver with fake workers. Options: seeds, batch_sizes, base, workers, extend, grace;
    room, that must be free on the disk, in bytes.

    With `digits`, overrides of that recipe, it trains for real.
    """
    return [sys.executable, str(HERE / "study_runs.py"), str(folder), json.dumps(options)]


def accounted(folder: Path, planned: int) -> Counter[str]:
    """The outcomes, after a check that each planned trial has one record and no other has."""
    with Store.open(folder) as store:
        records = store.records()
        assert len(records) == planned == len({p.trial_id for p in store.planned()})
        assert not store.quarantined
        names = sorted(path.name for path in (folder / "results").iterdir())
        assert names == [f"{trial_id}.json" for trial_id in sorted(records)]
    return Counter(str(record.outcome) for record in records.values())


def main(folder: str, options: str) -> int:
    import fake_worker

    wanted = json.loads(options)
    workers, digits = wanted.pop("workers", 2), wanted.pop("digits", None)
    extend, grace = wanted.pop("extend", False), wanted.pop("grace", None)
    checkpoints.LEAST_ROOM = wanted.pop("room", checkpoints.LEAST_ROOM)
    if "batch_sizes" in wanted:
        wanted["batch_sizes"] = tuple(wanted["batch_sizes"])
    if digits is None:
        fake_worker.use()
        supervisor.code_name = lambda: "no code trains here"
    progress = JsonProgress(sys.stdout)
    try:
        summary = run_study(
            study_of(**wanted) if digits is None else load_study("digits", overrides=digits),
            folder=Path(folder),
            progress=progress,
            options=RunOptions(
                device="cpu",
                workers=workers,
                workload_reference="faulty:workload" if digits is None else None,
                extend=extend,
                grace=grace,
            ),
        )
    except BatchcliffError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    progress.ended(exit_code=summary.exit_code)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
