"""When, and by what code: the only module that reads the wall clock."""

from __future__ import annotations

import datetime
import functools
import hashlib
from pathlib import Path

from batchcliff import __version__


def utc_now() -> str:
    """The time in UTC, ISO 8601 to the second, e.g. "2026-01-31T12:00:00Z".

    For people to read; no decision is taken on it, since clocks jump.
    """
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# What decides numbers; the store, the statistics and the report only pass them on.
_NUMERIC = (
    "schedules", "data", "kernels", "models", "optimizers", "techniques", "training",
    "randomness.py",
)  # fmt: skip


@functools.cache
def code_name() -> str:
    """This version of batchcliff and a digest of the sources that decide what a trial computes.

    E.g. "batchcliff 0.1.0 (1f3a9c0b2d4e)". A change of the digest makes a study refuse to
    mix records, unless told that the change does not matter.
    """
    root, found = Path(__file__).parent, hashlib.sha256()
    for part in _NUMERIC:
        path = root / part
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        for file in files:
            found.update(f"{file.relative_to(root)}\0".encode())
            found.update(file.read_bytes())
    return f"batchcliff {__version__} ({found.hexdigest()[:12]})"
