"""Worker processes of this machine, over a socket pair each.

A worker is started with `exec` in a process group that is on a leash: nothing in it outlives
us, even if it is stopped at birth, and the terminal's Ctrl-C does not reach it. It asks the
kernel to be killed when its parent dies, and only then moves to a session of its own, which is
put on a leash as well, for what the worker itself starts. With every job it gets the
descriptors of the leases: as long as it lives, nobody else runs those trials.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from batchcliff.canonical import parse_json, to_plain

HEADER = struct.Struct("!I")
TAIL_BYTES = 8_000
GRACE_SECONDS = 5.0  # for leaving, which takes torch half a second
UNKILLABLE_SECONDS = 5.0


class Worker:
    """A process that trains jobs one after another; see `batchcliff.study.worker`."""

    # -P: the current folder may be a stranger's, and a numpy.py in it is not to be run.
    command: ClassVar[tuple[str, ...]] = (sys.executable, "-P", "-m", "batchcliff.study.worker")

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        # What the worker's libraries say, for the last lines of a crash.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603
                [*self.command, str(theirs.fileno()), str(os.getpid()), str(collar())],
                stdin=subprocess.DEVNULL,
                stdout=self.stderr,
                stderr=self.stderr,
                pass_fds=[theirs.fileno(), collar()],
                process_group=leashed_group(),
                env={**os.environ, **environment},
            )
        self.socket = ours
        self._received = b""

    @property
    def members(self) -> list[Worker]:
        """The processes that it is made of: itself, or the ranks of a team."""
        return [self]

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Mapping[str, Any], descriptors: list[int] | None = None) -> None:
        """One message, and descriptors that the worker will hold. OSError if it is gone."""
        # In ASCII: a folder's name may hold bytes that are no text, and UTF-8 has none of them.
        data = json.dumps(to_plain(dict(message))).encode()
        socket.send_fds(self.socket, [HEADER.pack(len(data))], descriptors or [])
        self.socket.sendall(data)

    def receive(self) -> list[dict[str, Any]] | None:
        """What has arrived, as whole messages; None when the worker is gone."""
        try:
            data = self.socket.recv(1 << 20)
        except OSError:  # it left without reading what we had sent
            data = b""
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [parse_json(line) for line in lines]

    def tail(self, lines: int = 50) -> str:
        """The last lines that the process wrote to its standard streams."""
        # Not by seeking: the place in the file is the process' as well, which may write now.
        file = self.stderr.fileno()
        first = max(0, os.fstat(file).st_size - TAIL_BYTES)
        text = os.pread(file, TAIL_BYTES, first).decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """End the process and whatever it started, now; `reap` waits for it."""
        if self.process.returncode is None:  # not reaped: the number is still its own
            for kill in (os.killpg, os.kill):  # it has no group of its own when it is young
                with contextlib.suppress(ProcessLookupError):
                    kill(self.process.pid, signal.SIGKILL)

    def ask_where(self) -> None:
        """Have it write the stacks of its threads to what `tail` reads, if it still can."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR2)

    def ask_to_leave(self) -> None:
        """Have it save the trials that it trains, and end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR1)

    def hang_up(self) -> None:
        """Close the socket: it ends when it has nothing left to do."""
        self.socket.close()

    def reap(self, grace: float = 0.0) -> int | None:
        """Give it `grace` seconds to end, then kill it, and its helpers in any case.

        Its exit status; None if not even the kernel gets rid of it (a device that hangs).
        """
        deadline = time.monotonic() + grace
        while not self._over() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill()
        try:
            return self.process.wait(timeout=UNKILLABLE_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def _over(self) -> bool:
        """Whether it has ended; it is not reaped, so that nobody else gets its number."""
        if self.process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):  # macOS, which has no other way to look without reaping
            return self.process.poll() is not None
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.process.pid, look) is not None
        except ChildProcessError:  # somebody else reaped it
            return True

    def close(self, grace: float = GRACE_SECONDS) -> int | None:
        """Let it finish within `grace` seconds, and let go of it; its exit status."""
        self.hang_up()
        status = self.reap(grace)
        self.stderr.close()
        return status


@functools.cache
def collar() -> int:
    """The reading end of a pipe whose writing end nobody but us has; closed when we die."""
    reading, _ours_alone = os.pipe()
    return reading


@functools.cache
def leashed_group() -> int:
    """A process group in our session that the kernel kills when we die.

    Its first member only waits for our end, with the collar in its hand: when the pipe's
    writing end is closed, the kernel signals the pipe's owner, which is the group (fcntl(2),
    F_SETOWN and F_SETSIG). Nothing is asked of who is in the group, so there is no moment
    between its birth and its asking in which it could be stopped.
    """
    wait = "import sys; sys.stdin.buffer.read()"
    first = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-c", wait],
        stdin=collar(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    fasten(collar(), first.pid)
    # Never waited for: its number stays the group's. Without a return code Popen would do it
    # when another process is started, and warn at our end that this one still runs.
    first.returncode = 0
    return first.pid


def fasten(reading: int, group: int) -> None:
    """Have the kernel kill a process group, of which somebody holds the end `reading` of a
    pipe, when the last writing end is closed. Linux only."""
    if sys.platform == "linux":
        fcntl.fcntl(reading, fcntl.F_SETOWN, -group)
        fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(reading, fcntl.F_SETFL, fcntl.fcntl(reading, fcntl.F_GETFL) | os.O_ASYNC)


def stay_on_leash(inherited: int) -> None:
    """Have the kernel kill our process group, with all helpers that we start in it, when the
    driver that gave us its collar dies. PR_SET_PDEATHSIG would end ourselves alone."""
    if sys.platform == "linux":
        # Opened anew: an open file has one owner, and the one that we inherited has another.
        own = os.open(f"/proc/self/fd/{inherited}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fasten(own, os.getpgrp())
    os.close(inherited)


def end_of_process(status: int | None) -> str:
    """ "SIGSEGV", or "exit status 7"."""
    if status is None:
        return "cannot be killed"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def oom_kills() -> int:
    """How often the kernel of this machine has killed for lack of memory (0: it won't say)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
