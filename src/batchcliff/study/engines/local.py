"""Worker processes of this machine, over a socket pair each.

A worker is started with `exec` in a session of its own, so that the terminal's Ctrl-C does
not reach it, and asks the kernel to be killed when its parent dies. With every job it gets
the descriptors of the leases: as long as it lives, nobody else runs those trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from batchcliff.canonical import canonical_json

HEADER = struct.Struct("!I")
TAIL_BYTES = 8_000


class Worker:
    """A process that trains jobs one after another; see `batchcliff.study.worker`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        # What the worker's libraries say, for the last lines of a crash.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "batchcliff.study.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self.stderr,
                stderr=self.stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **environment},
            )
        self.socket = ours
        self._received = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Mapping[str, Any], descriptors: list[int] | None = None) -> None:
        """One message, and descriptors that the worker will hold. OSError if it is gone."""
        data = canonical_json(dict(message))
        socket.send_fds(self.socket, [HEADER.pack(len(data))], descriptors or [])
        self.socket.sendall(data)

    def receive(self) -> list[dict[str, Any]] | None:
        """What has arrived, as whole messages; None when the worker is gone."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def tail(self, lines: int = 50) -> str:
        """The last lines that the process wrote to its standard streams."""
        size = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, size - TAIL_BYTES))
        text = self.stderr.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """End the process and whatever it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> int:
        """Let it finish (it ends when its socket closes) and reap it; its exit status."""
        self.socket.close()
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self.process.wait()
        self.stderr.close()
        return status
