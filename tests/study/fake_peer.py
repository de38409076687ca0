"""A trainer without torch: its "accuracy" is a chain of hashes of the trial's id.

Run as a program it is one of any number of peers that work a study off, or (`--zygote`) a
process that has imported everything and forks such peers on command, so that a test can
start and kill them by the hundred.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pydantic_core  # noqa: F401  (who reads a record imports it: here, before any fault)
from patience import until

from batchcliff.canonical import canonical_json, to_plain
from batchcliff.errors import BatchcliffError
from batchcliff.record import Curves, Outcome, Provenance, TrialRecord
from batchcliff.spec import Arm, Decay, LrRule, Settings, StudySpec, TrialSpec
from batchcliff.study import files, identity
from batchcliff.study.store import Lease, Planned, Store

DATA = {"name": "fake", "digest": "ab" * 32, "classes": ["cat", "dog"]}
CODE = "0.1.0 fake"
Ack = Callable[[str], None]


def study_of(trials: int, base_lr: float = 0.1) -> StudySpec:
    return StudySpec(
        name="fake",
        workload="fake",
        batch_sizes=(128,),
        seeds=tuple(range(trials)),
        budget="1ep",
        lr=LrRule(base=base_lr, base_batch_size=128),
        decay=Decay(),
        arms=(Arm(name="none"),),
        settings=Settings(),
        data="fake",
    )


def specs_of(study: StudySpec) -> list[TrialSpec]:
    return [
        TrialSpec(
            workload=study.workload,
            data=study.data,
            data_digest=DATA["digest"],
            arm=arm.name,
            techniques=arm.techniques,
            settings=study.settings,
            batch_size=batch_size,
            lr=study.lr.base,
            decay=study.decay,
            budget=study.budget,
            seed=seed,
        )
        for arm in study.arms
        for batch_size in study.batch_sizes
        for seed in study.seeds
    ]


def train(spec: TrialSpec, epochs: int = 8, seconds: float = 0.0) -> TrialRecord:
    """The record that any peer would make of this trial; only the provenance differs."""
    state, losses = spec.trial_id.encode(), []
    for _ in range(epochs):
        state = hashlib.sha256(state).digest()
        losses.append(int.from_bytes(state[:6]) / 2**48)
    if seconds:
        time.sleep(seconds)
    diverged = state[-1] < 32
    return TrialRecord(
        spec=spec,
        outcome=Outcome.DIVERGED if diverged else Outcome.OK,
        first_bad_update=3 if diverged else None,
        accuracy=None if diverged else losses[-1],
        train_loss=float("nan") if diverged else losses[-1],
        updates=epochs,
        curves=Curves(train_loss=tuple(losses), lr=(spec.lr,) * epochs),
        provenance=Provenance(
            seconds=time.monotonic(),
            compile_seconds=0.0,
            examples_per_second=1.0,
            started="2026-01-01T00:00:00Z",
            stacked=1,
            device=f"process {os.getpid()}",
        ),
    )


def start(folder: Path, trials: int, base_lr: float = 0.1, *, shared: bool = False) -> Store:
    study = study_of(trials, base_lr)
    store = Store.create(folder, study, DATA, CODE, shared=shared)
    store.extend(map(Planned.of, specs_of(study)))
    return store


def work(
    store: Store,
    ack: Ack = lambda trial_id: None,
    seconds: float = 0.0,
    gate: Path | None = None,
) -> None:
    """Until nothing is missing: lease, look again, claim, train, publish, acknowledge.

    gate: no training ends before that file is there.
    """
    specs = {spec.trial_id: spec for spec in specs_of(store.study)}
    while todo := store.missing():
        progressed = False
        for cell in todo:
            lease = store.lease(cell.trial_id)
            if lease is None:
                continue
            with lease:
                if store.record(cell.trial_id) is None:
                    progressed = True
                    n = store.claim_attempt(cell.trial_id)
                    while gate is not None and not gate.exists():
                        time.sleep(0.005)
                    if store.publish(train(specs[cell.trial_id], seconds=seconds)):
                        ack(cell.trial_id)
                    store.end_attempt(cell.trial_id, n, "done")
                    store.log({"event": "done", "trial": cell.trial_id})
        if not progressed:
            time.sleep(0.005)


def true_table(trials: int, base_lr: float = 0.1) -> bytes:
    """The table of a study that nothing happened to, without a store."""
    records = [train(spec) for spec in specs_of(study_of(trials, base_lr))]
    rows = []
    for record in sorted(records, key=lambda record: record.trial_id):
        facts = to_plain(record)
        del facts["provenance"]
        rows.append({"trial_id": record.trial_id, "facts": facts})
    return canonical_json(rows)


def file_digest(store: Store, trial_id: str) -> str:
    return hashlib.sha256(
        (store.folder / "results" / f"{trial_id}.json").read_bytes()
    ).hexdigest()


def ack_to(path: Path, store: Store) -> Ack:
    """Write the trial and what its file holds now to a file outside of the study."""

    def ack(trial_id: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{trial_id} {file_digest(store, trial_id)}\n".encode())
        os.close(fd)

    return ack


# --- deliberately broken variants, for the tests that must then fail --------------------------


def publish_in_place(tmp, target, name, data, locks=None) -> bool:
    """What people write first: open the final file and write into it."""
    if target.holds(name):
        return False
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=target.fd)
    for start in range(0, len(data), 256):
        os.write(fd, data[start : start + 256])
        time.sleep(0.01)
    os.close(fd)
    return True


def publish_over(tmp, target, name, data, locks=None) -> bool:
    """Atomic, but the last writer wins."""
    temporary = tmp.write_temporary(data)
    time.sleep(0.01)  # so that others may be as far, even on one processor
    os.rename(temporary.name, name, src_dir_fd=tmp.fd, dst_dir_fd=target.fd)
    return True


def everybody_gets_it(self: Store, trial_id: str) -> Lease:
    return Lease(os.open(os.devnull, os.O_RDONLY))


def breaks(kind: str) -> None:
    if kind == "in-place":
        files.publish_once = publish_in_place
    elif kind == "over":
        files.publish_once = identity.publish_once = publish_over
    elif kind == "no-lease":
        Store.lease = everybody_gets_it
    elif kind:
        raise ValueError(kind)


# --- the program ------------------------------------------------------------------------------


def peer(options: argparse.Namespace) -> int:
    breaks(options.broken)
    if options.stop:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        if options.shared:
            os.umask(int(options.umask, 8))
        with start(options.folder, options.trials, options.lr, shared=options.shared) as store:
            if options.need:
                store.check_space(options.need)
            if not options.only_create:
                ack = ack_to(options.acks, store) if options.acks else lambda trial_id: None
                work(store, ack, options.seconds, options.gate)
    except BatchcliffError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def zygote() -> None:
    """Commands, one a line: a JSON list of arguments forks a peer; its process id comes back.

    `wait PID` gives its exit status (128 + signal if killed).
    """
    for line in sys.stdin:
        if line.startswith("wait "):
            _, status = os.waitpid(int(line[5:]), 0)
            code = os.waitstatus_to_exitcode(status)
            print(code if code >= 0 else 128 - code, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            status = 99
            with contextlib.suppress(BaseException):
                os.close(0)
                status = peer(parser().parse_args(json.loads(line)))
            os._exit(status)
        print(pid, flush=True)


def _state(stat: Path) -> str:
    """The kernel's letter for a process: T is stopped."""
    return stat.read_text().rpartition(")")[2].split()[0]


class Zygote:
    """Forks peers on command, so that each of hundreds starts in milliseconds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def say(self, line: str) -> int:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, *arguments: object) -> int:
        return self.say(json.dumps([str(argument) for argument in arguments]))

    def wait(self, pid: int) -> int:
        return self.say(f"wait {pid}")

    def together(self, calls: Sequence[Sequence[object]]) -> list[int]:
        """The exit statuses of peers, none of which begins before all are there."""
        peers = [self.start(*call, "--stop") for call in calls]
        for pid in peers:
            until(lambda stat=Path(f"/proc/{pid}/stat"): _state(stat) == "T")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        return [self.wait(pid) for pid in peers]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("--trials", type=int, default=20)
    options.add_argument("--lr", type=float, default=0.1)
    options.add_argument("--seconds", type=float, default=0.0)
    options.add_argument("--gate", type=Path)
    options.add_argument("--need", type=int, default=0)
    options.add_argument("--acks", type=Path)
    options.add_argument("--broken", default="")
    options.add_argument("--only-create", action="store_true")
    options.add_argument("--stop", action="store_true")
    options.add_argument("--shared", action="store_true")
    options.add_argument("--umask", default="007")  # of `sharing.UMASK`
    return options


if __name__ == "__main__":
    if sys.argv[1:] == ["--zygote"]:
        zygote()
    else:
        sys.exit(peer(parser().parse_args()))
