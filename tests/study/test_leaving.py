"""What workers get to do between a signal and the end of their run."""

from __future__ import annotations

import math
import signal
import sys
import time

import pytest
from patience import PATIENCE

from batchcliff.errors import UsageError
from batchcliff.study.engines.local import Worker
from batchcliff.study.leaving import check_grace, grace_after, let_save

# Says its line, and then what a signal makes of it.
SAYS = "import os, signal, socket, sys, time; s = socket.socket(fileno=int(sys.argv[1]));"
ENDS = SAYS + 'signal.signal(10, lambda *_: (s.sendall(b\'{"event": "x"}\\n\'), os._exit(0)));'
STAYS = SAYS + "signal.signal(10, signal.SIG_IGN);"
WAITS = "s.sendall(b'{}\\n'); time.sleep(3600)"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    """Makes a worker of a program, once it is ready; ends all of them."""
    made: list[Worker] = []

    def start(program: str) -> Worker:
        monkeypatch.setattr(Worker, "command", (sys.executable, "-c", program + WAITS))
        made.append(Worker({}))
        assert made[-1].receive() == [{}]
        return made[-1]

    yield start
    for worker in made:
        worker.kill()
        worker.close(0.0)


def test_workers_end_by_themselves_and_are_heard(started) -> None:
    heard: list[object] = []
    workers = [started(ENDS), started(ENDS)]
    let_save(workers, 3600.0, lambda worker, message: heard.append((worker, message)))
    assert [worker.reap(PATIENCE) for worker in workers] == [0, 0]
    assert {worker for worker, _ in heard} == set(workers)
    assert all(message == {"event": "x"} for _, message in heard)


def test_who_stays_is_not_waited_for_beyond_the_grace(started) -> None:
    worker, began = started(STAYS), time.monotonic()
    let_save([worker], 0.5, lambda *_: None)
    assert time.monotonic() - began >= 0.5
    assert worker.process.poll() is None, "killing is somebody else's matter"


def test_without_grace_nobody_is_asked(started) -> None:
    worker = started(ENDS)
    let_save([worker], 0.0, lambda *_: None)
    time.sleep(0.1)
    assert worker.process.poll() is None


def test_the_grace_of_a_signal() -> None:
    assert grace_after(signal.SIGINT, None) < 10 < grace_after(signal.SIGTERM, None) < 30
    assert grace_after(signal.SIGINT, 3.0) == grace_after(signal.SIGTERM, 3.0) == 3.0


@pytest.mark.parametrize("grace", [-1.0, math.inf, math.nan])
def test_what_is_no_grace(grace: float) -> None:
    with pytest.raises(UsageError, match="write 25, or 0"):
        check_grace(grace)
    check_grace(None)
    check_grace(0.0)
