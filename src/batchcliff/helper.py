"""A process that does one thing after the other for us, beside what our own does.

What lets no other thread of its process run, as drawing figures or decoding small images does,
is done by helpers. Both ways a message is a line of JSON with the sizes of its parts, and the
parts. A helper ends with its input, so none outlives who asks. Who asks finds out why there is
no answer by doing the work himself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, ClassVar

PATIENCE = 5.0  # seconds that a helper has for ending


class Helper:
    """A process that runs a module, which calls `serve`."""

    # -P: the current folder may be a stranger's, and a json.py in it is not to be run.
    command: ClassVar[tuple[str, ...]] = (sys.executable, "-P", "-m")

    def __init__(self, module: str) -> None:
        """OSError if no process can be started."""
        self.process = subprocess.Popen(  # noqa: S603
            [*self.command, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        atexit.register(self.end)

    def ask(self, request: Sequence[bytes]) -> list[bytes]:
        """The answer's parts. OSError, EOFError or ValueError if the process is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        _write(self.process.stdin, request)
        answer = _read(self.process.stdout)
        if answer is None:
            raise EOFError
        return answer

    def end(self) -> None:
        """Close its input, at which it ends."""
        atexit.unregister(self.end)
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(answered: Callable[[list[bytes]], Sequence[bytes]]) -> None:
    """In a helper: answer every request, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's, meant for who asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with contextlib.suppress(EOFError, OSError):  # who asks is gone
        while (request := _read(sys.stdin.buffer)) is not None:
            _write(answers, answered(request))


def _write(stream: IO[bytes], parts: Sequence[bytes]) -> None:
    sizes = json.dumps({"sizes": [len(part) for part in parts]}).encode()
    stream.write(b"\n".join((sizes, b"".join(parts))))
    stream.flush()


def _read(stream: IO[bytes]) -> list[bytes] | None:
    """The parts of the next message; None where there is none. EOFError for half of one,
    ValueError for something else."""
    line = stream.readline()
    if not line:
        return None
    told = json.loads(line)
    sizes = told.get("sizes") if isinstance(told, dict) else None
    if not isinstance(sizes, list) or not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"no message: {line[:80]!r}")
    parts = [stream.read(size) for size in sizes]
    if [len(part) for part in parts] != sizes:
        raise EOFError
    return parts
