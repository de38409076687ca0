"""Who trains on a GPU that several workers share: one after the other.

Processes on one GPU run in slices of time, not side by side, and what one of them had in the
cache is gone when its next slice comes: three trials of the article together take a tenth
longer than one after the other (docs/log.md, 2026-11-23). So a trial that keeps the GPU busy by
itself takes a turn, while others compile, draw or wait. One that leaves it idle, since the host
cannot follow, gives its turn back. Where NVIDIA's MPS runs, which does let kernels of several
processes run side by side, nobody waits.

A turn is a lock of the kernel's on a file in memory, one for each GPU of a run: it ends with
the process that holds it, whatever ends that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Sequence

POLL_SECONDS = 0.02
SETTLED_SECONDS = 1.0  # of training, after which a trial is known
# Share of its time that the host waits where the GPU is behind: it queues an epoch and waits
# for the one before, so if it waits at all, the GPU has always had something to do.
BUSY = 0.1


class Places:
    """A file to lock for each GPU; none for a CPU, or for several GPUs of one team."""

    def __init__(self, devices: Sequence[str]) -> None:
        alone = [
            device for device in devices if device.startswith("cuda") and "+" not in device
        ]
        self._files = {device: _file() for device in alone}

    def of(self, device: str) -> list[int]:
        """What a worker on the device is given: a file, or none."""
        return [self._files[device]] if device in self._files else []

    def renew(self, device: str) -> bool:
        """Another file, since somebody may hold the former for good; whether there is one."""
        if device not in self._files:
            return False
        os.close(self._files[device])
        self._files[device] = _file()
        return True

    def close(self) -> None:
        """Let go of the files, which others may still hold."""
        for file in self._files.values():
            os.close(file)
        self._files = {}


def _file() -> int:
    return os.memfd_create("turns")


class Turn:
    """Within `with`, nobody else of the run trains on the GPU, unless it is given back.

    place: one of `Places`, in this process. waits: called again and again until it has come.
    """

    def __init__(self, place: int, waits: Callable[[], None]) -> None:
        self.place, self.waits = place, waits
        self.begun = self.waited = 0.0  # on the clock; seconds, once it has come
        self.holds = False

    def __enter__(self) -> Turn:
        asked = time.perf_counter()
        while not self._taken():
            self.waits()
            time.sleep(POLL_SECONDS)
        self.holds, self.begun = True, time.perf_counter()
        self.waited = self.begun - asked
        return self

    def _taken(self) -> bool:
        with contextlib.suppress(BlockingIOError, PermissionError):  # POSIX leaves it open
            fcntl.lockf(self.place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def look(self, idle: float) -> None:
        """Give it back if it is the host that the trial waits for.

        idle: seconds that the host has waited for the GPU since the turn began.
        """
        spent = time.perf_counter() - self.begun
        if spent >= SETTLED_SECONDS and idle < BUSY * spent:
            self.give_back()

    def give_back(self) -> None:
        """Let others train, too."""
        if self.holds:
            self.holds = False
            fcntl.lockf(self.place, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        self.give_back()
