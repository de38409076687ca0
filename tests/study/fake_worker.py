"""A worker without torch: it speaks the protocol, and its numbers are hashes of trial ids.

It starts in a fraction of a second, so that faults can be had by the hundred. FAULTS as in
`faulty`; PAUSE is the time between two reports of progress; with DEAF it does not hear a
signal that asks it to leave.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from batchcliff.canonical import from_plain, to_plain
from batchcliff.record import Curves, Ledger, Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.engines.local import Worker, stay_on_leash
from batchcliff.study.worker import Channel, die_with

COMMAND = (sys.executable, str(Path(__file__).resolve()))
REPORTS = (1, 3, 2, 3, 4)  # of how many updates are done; one goes backwards


def pretend(spec: TrialSpec, ledger: Ledger) -> TrialRecord:
    number = int(spec.trial_id, 16) / 16**20
    return TrialRecord(
        spec=spec,
        outcome=Outcome.OK,
        accuracy=number,
        accuracy_reestimated=number / 2,
        test_loss=1 - number,
        train_loss=number,
        updates=ledger.updates,
        ledger=ledger,
        curves=Curves(train_loss=(number, float("nan")), lr=(spec.lr,), test_accuracy=(None,)),
    )


def work(channel: Channel, job: dict[str, Any]) -> None:
    """All trials of a job together, as in a stack."""
    from faulty import misbehave

    specs = [from_plain(TrialSpec, plain) for plain in job["specs"]]
    ledgers = [from_plain(Ledger, plain) for plain in job["ledgers"]]
    ids = [spec.trial_id for spec in specs]
    start = time.monotonic()
    channel.send("phase", phase="training")
    for done in REPORTS:
        time.sleep(float(os.environ.get("PAUSE", "0.01")))
        seconds = time.monotonic() - start
        channel.send("progress", ids=ids, done=done, updates=4, seconds=seconds)
    for spec, ledger in zip(specs, ledgers, strict=True):
        fault = misbehave(spec.seed)
        if fault.startswith("heartbeat"):
            for _ in range(int(20 * float(os.environ["HEARTBEAT_SECONDS"]))):
                time.sleep(0.05)
                channel.send("progress", ids=ids, done=4, updates=4, seconds=seconds)
        channel.send("record", record=to_plain(pretend(spec, ledger)))


def main(fd: int, parent: int, collar: int | None = None) -> None:
    die_with(parent)
    os.setsid()
    if collar is not None:
        stay_on_leash(collar)
    if "DEAF" in os.environ:  # as in the middle of a long update: it does not leave when asked
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.path.insert(0, str(Path(__file__).parent))
    channel = Channel(fd)
    if channel.receive() is None:
        return
    start = json.loads(os.environ.get("START", "null"))
    if start is not None and Path(start["unless"]).exists():
        start = None
    if start is not None:
        Path(start["unless"]).touch()
        os.kill(os.getpid(), start["signal"])
    channel.send("ready")
    while (message := channel.receive()) is not None:
        job, leases = message
        try:
            work(channel, job)
        except Exception as error:
            channel.send(
                "error",
                kind=type(error).__name__,
                message=str(error),
                trace="a trace",
                out_of_memory=isinstance(error, MemoryError),
                ours=False,
            )
            return
        for lease in leases:
            os.close(lease)
        channel.send("idle")


def use() -> None:
    """Let this process' supervisor start fake workers."""
    Worker.command = COMMAND


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
