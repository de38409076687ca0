"""What of the host a process may use: cores, and memory where the system tells (Linux)."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """That this process may run on; all of the machine's where the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_room(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may have in all: what is available, and what it has. The
    container's limit counts where there is one (cgroup 2). None if the system does not say."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        kilobytes = next(x for x in lines if x.startswith("MemAvailable:")).split()[1]
        own = resident_bytes(proc)
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    if own is None:
        return None
    available = int(kilobytes) * 1024
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current"))
        available = min(available, max(int(limit) - int(used), 0))
    except (OSError, ValueError):  # none, or "max"
        pass
    return available + own


def resident_bytes(proc: Path = Path("/proc"), *, most: bool = False) -> int | None:
    """Bytes that this process has in memory, or has had at most; None if the system does not
    say. OSError, ValueError and IndexError for a status of another form."""
    name = "VmHWM:" if most else "VmRSS:"
    for line in (proc / "self" / "status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None
