"""Who works on a trial, who tried, and what they said: leases, attempts, the event log.

Source: RELIABILITY.md 5.1 and 5.3. None of this is read for results: losing it costs work
at most, never truth.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from batchcliff.canonical import parse_json
from batchcliff.provenance import utc_now
from batchcliff.study.files import (
    RESERVE,
    Folder,
    close,
    disk,
    free_bytes,
    publish_once,
    sync_folder,
    write_all,
)
from batchcliff.study.sealed import Damaged, seal, to_text, unseal

ATTEMPT = re.compile(r"([1-9][0-9]{0,8})\.json")
SUSPECT = "suspect"  # died unexplained, as had those before it: see study/retries.py
WHY = ("done", "interrupted", "storage", "crashed", "hung", SUSPECT)  # first word of an end
COUNTED = ("crashed", "hung")  # what uses up an attempt; a signal or a full disk does not
RESERVE_BYTES = 2**20


class Lease:
    """A held flock. Pass `fileno()` on (`pass_fds`) and a child holds it too, until it dies.

    No time-out and no process id: the kernel frees it when the last holder is gone.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def fileno(self) -> int:
        """The descriptor. Raises ValueError after `release`."""
        if self._fd is None:
            raise ValueError("the lease has been released")
        return self._fd

    def release(self) -> None:
        """Close our descriptor; a child that inherited it goes on holding the lease."""
        # Never LOCK_UN: that would free it for the child as well.
        if self._fd is not None:
            fd, self._fd = self._fd, None
            close(fd)

    def free(self) -> None:
        """Take it from every holder, one of which is a process that cannot be killed: it runs
        no instruction any more, and would hold the trial for as long as it is there."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def take_lease(leases: Folder, trial_id: str) -> Lease | None:
    """The right to run a trial, or None if somebody has it. Raises StorageError."""
    fd = leases.lock(trial_id)
    if fd is None:
        return None
    # Ranks that could not inherit our descriptor hold this one shared, and may outlive us.
    alive = f"{trial_id}.alive"
    try:
        if leases.holds(alive):
            ranks = leases.lock(alive)
            if ranks is None:
                close(fd)
                return None
            close(ranks)
    except BaseException:
        close(fd)
        raise
    return Lease(fd)


def hold_alive(leases: Folder, trial_id: str) -> Lease | None:
    """For a rank under a launcher that closes descriptors: keep others off while we live."""
    fd = leases.lock(f"{trial_id}.alive", shared=True)
    return None if fd is None else Lease(fd)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claimed run of a trial. `why` is None while it runs, or if it died unexplained.

    reached: the update of the trial's newest checkpoint when it began, 0 without one.
    """

    n: int
    host: str
    pid: int
    started: str
    why: str | None
    reached: int = 0

    @property
    def counted(self) -> bool:
        """Whether it uses up one of the attempts that a trial has."""
        return self.why is not None and self.why.split()[0] in COUNTED

    @property
    def unexplained(self) -> bool:
        """Whether it died, or still runs, without a word of its own."""
        return self.why is None or self.why.split()[0] == SUSPECT


def claim_attempt(folder: Folder, started: str, reached: int = 0) -> int:
    """Claim the next number in a trial's attempts; nobody else gets it. Raises StorageError."""
    body = {
        "host": socket.gethostname(), "pid": os.getpid(), "started": started, "reached": reached
    }  # fmt: skip
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    n = max(_numbers(folder), default=0)
    while True:
        n += 1
        name = f"{n}.json"
        with disk("write", folder.path / name, folder=folder.fd):
            try:
                fd = os.open(name, flags, 0o644, dir_fd=folder.fd)
            except FileExistsError:
                continue
            try:
                try:
                    write_all(fd, seal(body))
                    os.fsync(fd)
                finally:
                    os.close(fd)
                sync_folder(folder.fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder.fd)
                raise
            return n


def end_attempt(folder: Folder, tmp: Folder, n: int, why: str, locks: Folder | None) -> bool:
    """Say why attempt `n` ended; the first to say so is believed (True).

    Raises ValueError if `why` does not begin with a word of WHY, StorageError.
    """
    if not why.split() or why.split()[0] not in WHY:
        raise ValueError(f"why an attempt ended is one of {', '.join(WHY)}, not {why!r}")
    return publish_once(tmp, folder, f"{n}.end", seal({"why": why}), locks)


def read_attempts(folder: Folder) -> tuple[Attempt, ...]:
    """All attempts of a trial in order. A torn file is an attempt of an unknown host."""
    attempts = []
    for n in _numbers(folder):
        claim = _body(folder, f"{n}.json")
        end = _body(folder, f"{n}.end").get("why")
        pid, reached = claim.get("pid"), claim.get("reached")
        attempts.append(
            Attempt(
                n=n,
                host=str(claim.get("host", "")),
                pid=pid if isinstance(pid, int) else 0,
                started=str(claim.get("started", "")),
                why=end if isinstance(end, str) and end.split() else None,
                reached=reached if isinstance(reached, int) else 0,
            )
        )
    return tuple(attempts)


def _numbers(folder: Folder) -> list[int]:
    found = (ATTEMPT.fullmatch(name) for name in folder.names())
    return sorted(int(match[1]) for match in found if match)


def _body(folder: Folder, name: str) -> dict[str, Any]:
    try:
        data = folder.read(name)
        body = {} if data is None else unseal(data)[0]
    except Damaged:
        return {}
    return body if isinstance(body, dict) else {}


class EventLog:
    """One JSON line per event in a file of our own: one writer, so nothing to lock."""

    def __init__(self, folder: Folder, tmp: Folder) -> None:
        self._folder, self._tmp = folder, tmp
        self._pid, self._fd = 0, -1
        self._name, self._torn = "", False

    def write(self, event: Mapping[str, Any]) -> None:
        """Append `event` with the time. Raises StorageError if even the reserve is used up."""
        line = to_text({"at": utc_now(), **event}) + b"\n"
        if self._pid != os.getpid():  # a fork must not write into its parent's file
            self._open()
        with disk("write", self._folder.path / self._name, len(line), self._folder.fd):
            try:
                self._append(line)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if not full or not self._release_reserve():
                    raise
                self._append(line)

    def close(self) -> None:
        """Close the file, if it is this process' own."""
        if self._fd >= 0 and self._pid == os.getpid():
            close(self._fd)
        self._pid, self._fd = 0, -1

    def _open(self) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())[:64]
        self._name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with disk("write", self._folder.path / self._name, folder=self._folder.fd):
            self._fd = os.open(self._name, flags, 0o644, dir_fd=self._folder.fd)
        self._pid, self._torn = os.getpid(), False

    def _append(self, line: bytes) -> None:
        if self._torn:  # fence off what a full disk cut short
            line = b"\n" + line
        self._torn = True
        write_all(self._fd, line)
        self._torn = False

    def _release_reserve(self) -> bool:
        try:
            os.unlink(RESERVE, dir_fd=self._tmp.fd)
        except FileNotFoundError:
            return False
        return True


def make_reserve(tmp: Folder) -> None:
    """Set a megabyte aside for the last words on a full disk, if there is one to spare."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if free_bytes(tmp.fd) < 64 * RESERVE_BYTES:
            return
        fd = os.open(RESERVE, flags, 0o600, dir_fd=tmp.fd)
    except OSError:
        return
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        else:
            os.write(fd, bytes(RESERVE_BYTES))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(RESERVE, dir_fd=tmp.fd)
    finally:
        close(fd)


def read_events(folder: Folder) -> tuple[list[dict[str, Any]], int]:
    """All events of all writers, by file, and how many lines could not be read.

    The last line of a killed writer is such a line. Raises StorageError.
    """
    events, torn = [], 0
    for name in folder.names():
        if not name.endswith(".jsonl"):
            continue
        try:
            data = folder.read(name)
        except Damaged:
            torn += 1
            continue
        for line in (data or b"").splitlines(keepends=True):
            try:
                event = parse_json(line)
            except (ValueError, TypeError, RecursionError):
                event = None
            if isinstance(event, dict) and line.endswith(b"\n"):
                events.append(event)
            elif line.strip():
                torn += 1
    return events, torn
