"""A run that a signal ends: its workers save what they are at, for as long as there is time.

Source: RELIABILITY.md, F21 and F22. What is not saved in time is killed, and costs the work
since its last checkpoint.
"""

from __future__ import annotations

import math
import selectors
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

from batchcliff.errors import UsageError
from batchcliff.study.engines.local import Worker

CTRL_C_SECONDS = 8.0  # somebody waits for it: the run has ended within ten
GRACE_SECONDS = 25.0  # Slurm kills 30 seconds after it has asked


def check_grace(grace: float | None) -> None:
    """UsageError unless it is a number of seconds, or None."""
    if grace is not None and not 0 <= grace < math.inf:
        raise UsageError(
            f"grace: {grace} is no number of seconds; write 25, or 0 to save nothing"
        )


def grace_after(number: int, grace: float | None) -> float:
    """Seconds that workers have after signal `number`; grace: what was asked for, or None."""
    if grace is not None:
        return grace
    return CTRL_C_SECONDS if number == signal.SIGINT else GRACE_SECONDS


def let_save(
    workers: Iterable[Worker], seconds: float, hear: Callable[[Worker, dict[str, Any]], None]
) -> None:
    """Ask workers to save their trials and to end; until they have, or `seconds` are over.

    hear: called with what they say meanwhile, which may be the record of a trial.
    """
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for worker in workers if seconds else ():
            worker.ask_to_leave()
            selector.register(worker, selectors.EVENT_READ, worker)
        while selector.get_map() and (rest := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(rest):
                messages = key.data.receive()
                if messages is None:
                    selector.unregister(key.data)
                for message in messages or ():
                    hear(key.data, message)
