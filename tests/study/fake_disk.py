"""A disk that refuses, kills or loses power: `os` is wrapped, calls are counted and recorded.

The model of a power cut (RELIABILITY.md appendix A): what was fsynced is there; a name
that was not made durable by an fsync of its folder is there or not, each for itself; a file
that was not fsynced holds nothing, zeros, a random prefix, or all.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

CALLS = [
    "open",
    "write",
    "fsync",
    "close",
    "link",
    "rename",
    "unlink",
    "mkdir",
    "stat",
    "fstat",
]
CALLS += ["read", "listdir", "lstat", "fstatvfs"]


def in_memory() -> Path | None:
    """A folder of the memory's that has room for all who test at once; None if there is none,
    as in most containers."""
    shared = Path("/dev/shm")
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 30
    return shared if roomy else None


class Killed(BaseException):
    """The process is gone: every later call raises this too and does nothing."""


class Disk:
    """`with Disk(base):` wraps the calls that touch `base` (by path or descriptor).

    at, error: what call number `at` (from 0) raises: an errno, or None to be killed there.
    honest_folders, honest_files: False forgets fsyncs of that kind, for negative controls.
    """

    def __init__(
        self,
        base: Path,
        at: int = -1,
        error: int | None = None,
        *,
        honest_folders: bool = True,
        honest_files: bool = True,
    ) -> None:
        self.base, self.at, self.error = str(base), at, error
        self.honest = {"folder": honest_folders, "file": honest_files}
        self.calls = 0
        self.dead = False
        self.log: list[tuple[Any, ...]] = []
        self.synced_after_failure: list[int] = []
        self._failed: set[int] = set()
        self._fds: dict[int, tuple[str, Any]] = {}
        self._inodes: dict[str, int] = {}  # path -> number of the file there
        self._next = 0

    def __enter__(self) -> Disk:
        self._real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        for fd in self._fds:  # as the kernel does for a dead process; frees its locks
            os.close(fd)
        self._fds.clear()

    def again(self, at: int = -1, error: int | None = None) -> Disk:
        """A new process on the same disk; its record goes on where this one stopped."""
        other = Disk(Path(self.base), at, error)
        other.honest, other.log = self.honest, self.log
        other._inodes, other._next = self._inodes, self._next
        return other

    def _wrapped(self, name: str) -> Any:
        real = self._real[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            subject = args[0] if args else "."
            if isinstance(subject, int):
                if subject not in self._fds:
                    return real(*args, **kwargs)
                path = ""
            else:
                path = self._path(subject, kwargs.get("dir_fd", kwargs.get("src_dir_fd")))
                if not path.startswith(self.base):
                    return real(*args, **kwargs)
            self._meet_fate(name, subject, real)
            result = real(*args, **kwargs)
            self._record(name, path, args, kwargs, result)
            return result

        return call

    def _path(self, name: Any, folder: int | None) -> str:
        name = os.fsdecode(name)
        inside = "/" if folder is None else self._fds.get(folder, ("", "/"))[1]
        return str(Path(inside) / name)

    def _meet_fate(self, name: str, subject: Any, real: Any) -> None:
        if self.dead:
            raise Killed
        here, self.calls = self.calls, self.calls + 1
        if name == "fsync" and self._fds[subject][0] == "file":
            if self._fds[subject][1] in self._failed:
                self.synced_after_failure.append(here)
            if here == self.at:
                self._failed.add(self._fds[subject][1])
        if here != self.at:
            return
        if self.error is None:
            self.dead = True
            raise Killed
        if name == "close":  # as on Linux: the descriptor is gone all the same
            del self._fds[subject]
            real(subject)
        raise OSError(self.error, os.strerror(self.error))

    def _record(self, name: str, path: str, args: Any, kwargs: Any, result: Any) -> None:
        if name == "open":
            if args[1] & os.O_DIRECTORY:
                self._fds[result] = ("folder", path)
                return
            if path not in self._inodes:
                self._inodes[path] = self._next
                self._next += 1
                self.log.append(("name", *os.path.split(path), self._inodes[path]))
            self._fds[result] = ("file", self._inodes[path])
        elif name == "write":
            self.log.append(("write", self._fds[args[0]][1], bytes(args[1])[:result]))
        elif name == "fsync":
            kind, what = self._fds[args[0]]
            if self.honest[kind]:
                self.log.append((f"fsync-{kind}", what))
        elif name == "close":
            del self._fds[args[0]]
        elif name == "mkdir":
            self.log.append(("name", *os.path.split(path), "folder"))
        elif name in ("link", "rename"):
            to = self._path(args[1], kwargs.get("dst_dir_fd"))
            self._inodes[to] = self._inodes[path]
            self.log.append(("name", *os.path.split(to), self._inodes[path]))
        if name in ("unlink", "rename"):
            self._inodes.pop(path, None)
            self.log.append(("name", *os.path.split(path), None))


def survivors(log: list[tuple[Any, ...]], cut: int, rng: random.Random) -> dict[str, Any]:
    """What lies on the disk after a power cut before entry `cut`: path -> bytes or "folder"."""
    durable: dict[str, dict[str, Any]] = defaultdict(dict)
    pending: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    content: dict[int, bytes] = defaultdict(bytes)
    safe: dict[int, bytes] = {}
    for kind, *what in log[:cut]:
        if kind == "name":
            pending[what[0]].append((what[1], what[2]))
        elif kind == "write":
            content[what[0]] += what[1]
        elif kind == "fsync-file":
            safe[what[0]] = content[what[0]]
        elif kind == "fsync-folder":
            durable[what[0]].update(pending.pop(what[0], []))
    left: dict[str, Any] = {}
    held: dict[int, bytes] = {}
    for folder in sorted({*durable, *pending}):
        names = dict(durable[folder])
        names.update(change for change in pending[folder] if rng.random() < 0.5)
        for name, number in names.items():
            if number == "folder":
                left[f"{folder}/{name}"] = "folder"
            elif number is not None:
                if number not in held:
                    held[number] = _held(safe.get(number, b""), content[number], rng)
                left[f"{folder}/{name}"] = held[number]
    return left


def _held(safe: bytes, full: bytes, rng: random.Random) -> bytes:
    if safe == full:
        return full
    cut = rng.randrange(len(full) + 1)
    return rng.choice([safe, bytes(len(full)), full[:cut], full])


def lay_out(left: dict[str, Any], base: Path, target: Path) -> None:
    """Make the survivors below `base` anew below `target`; what lost its folder is lost."""
    for path in sorted(left):
        place = target / Path(path).relative_to(base)
        if place.parent.is_dir():
            if left[path] == "folder":
                place.mkdir()
            else:
                place.write_bytes(left[path])


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One accident of a disk: cut, flipped, zeroed, inserted, deleted, another's, foreign."""
    at = rng.randrange(len(data))
    stop = min(len(data), at + rng.randrange(1, 64))
    kinds = [
        data[:at],
        data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
        data[:at] + bytes(stop - at) + data[stop:],
        data[:at] + bytes([rng.randrange(256)]) + data[at:],
        data[:at] + data[stop:],
        bytes(len(data)),
        other,
        b"",
        rng.randbytes(200),
        b'{"hello": "world"}',
    ]
    return rng.choice(kinds)
