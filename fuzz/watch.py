"""What no reader of strangers' bytes may do, and a scratch folder where it may write."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Trespass(BaseException):
    """A reader did what no reader may do. No `except Exception` hides it."""


# --- what no reader may do ----------------------------------------------------------------

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.",
             "pickle.find_class", "shutil.", "ctypes.dlopen", "urllib.",
             "webbrowser.", "ftplib.", "http.client.")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
            "os.chmod", "os.truncate")  # fmt: skip
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event.startswith(FORBIDDEN):
        raise Trespass(f"{event} {arguments!r}")
    changes = event in CHANGING
    if event == "open":
        _, mode, flags = arguments
        changes = bool(isinstance(flags, int) and flags & WRITING) or (
            isinstance(mode, str) and any(letter in mode for letter in "wax+")
        )
    if changes and not str(arguments[0]).startswith(str(scratch())):
        raise Trespass(f"{event} {arguments!r}")


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Raise Trespass for what no reader may do, as long as the block lasts."""
    global _watching
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _watching = True
    try:
        yield
    finally:
        _watching = False


_hooked: list[bool] = []
_scratch: list[tempfile.TemporaryDirectory[str]] = []


def scratch() -> Path:
    """A folder of this process, in memory where there is one."""
    if not _scratch:
        memory = "/dev/shm"
        place = memory if os.access(memory, os.W_OK) else None
        _scratch.append(tempfile.TemporaryDirectory(prefix="fuzz-", dir=place))
    return Path(_scratch[0].name)
