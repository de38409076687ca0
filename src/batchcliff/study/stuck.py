"""Ending a worker that hangs, and what is left when not even the kernel can end it.

Source: RELIABILITY.md, F24. A process in an uninterruptible wait (a dead file server, a
wedged driver of a device) outlives SIGKILL until that wait is over. It runs no instruction
of ours any more, so its trials are free to be tried again, but what it holds of a device is
not.
"""

from __future__ import annotations

import contextlib
import signal
import time

from batchcliff.study.engines.local import Worker

DUMP_SECONDS = 0.5  # for writing the stacks of all threads
TERM_SECONDS = 5.0  # from SIGTERM to SIGKILL


def end_hung(worker: Worker) -> None:
    """Stacks of its threads to where `tail` reads, SIGTERM, five seconds, SIGKILL."""
    worker.ask_where()
    time.sleep(DUMP_SECONDS)
    for one in worker.members:
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(signal.SIGTERM)
    worker.reap(TERM_SECONDS)


def not_reaped(worker: Worker) -> list[int]:
    """The numbers of its processes that are there after it has been closed."""
    return [one.process.pid for one in worker.members if one.process.returncode is None]


def told_of(pids: list[int], device: str, places: int) -> str:
    """What people are told of processes that cannot be ended; places: what is left to run."""
    numbers = ", ".join(map(str, pids))
    who = f"process {numbers}" if len(pids) == 1 else f"processes {numbers}"
    rest = f"{places} other{'s go' if places > 1 else ' goes'} on" if places else "none is left"
    return (
        f"{who} of a worker on {device} cannot be killed, not even by SIGKILL: "
        f"its place is not used any more, {rest}"
    )
