"""Where the seconds of a launch go: marks of every process of a run, on one clock.

Off unless $BATCHCLIFF_TRACE names a file; then each mark is appended to it as a line of JSON,
with seconds of the monotonic clock, which all processes of a machine share. For measuring
(benchmarks/bench_launch.py); no result depends on it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

VARIABLE = "BATCHCLIFF_TRACE"


def mark(what: str, facts: Callable[[], Any] | None = None) -> None:
    """Note that `what` is over, in this process, now; `facts` are asked for only then."""
    place = os.environ.get(VARIABLE)
    if not place:
        return
    line = {"at": time.monotonic(), "pid": os.getpid(), "what": what}
    if facts is not None:
        line["facts"] = facts()
    # One write of one line: others append to the same file.
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)
