"""The commit protocol on raw files: temporary file, fsync, link, fsync of the folder.

Source: RELIABILITY.md 5.2. `link` is atomic publication and first-writer-wins in one call:
a reader sees nothing or a whole file, also after `kill -9` or a power cut at any moment.
Parts of a study are opened by descriptor with O_NOFOLLOW, so that a symbolic link put in
their place is refused instead of followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from batchcliff.errors import StorageError, UsageError
from batchcliff.study.sealed import Damaged, to_text

MAX_BYTES = 64 * 2**20  # no text of a study is larger; checked before anything is parsed
MEGABYTE = 10**6
SHARED = stat.S_ISGID | stat.S_IRWXU | stat.S_IRWXG  # 2770; new folders get the same group
RESERVE = "reserve"  # in tmp/: space for the last words on a full disk

NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
NO_WRITES = {errno.EROFS, errno.EACCES, errno.EPERM}
NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}  # file systems whose directories know no fsync


# --- errors of the disk ------------------------------------------------------------------


def shown(path: Path | str) -> str:
    """`path` for a message on one line: as it is, or quoted with escapes if not printable."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def storage_error(
    error: OSError, doing: str, path: Path, needed: int = 0, folder: int | None = None
) -> StorageError:
    """`error` as a StorageError that says what was done, where, and why it failed.

    For a full disk it adds what is `needed` and what is free where descriptor `folder` lies.
    """
    text = f"cannot {doing} {shown(path)}: {error.strerror or error} (errno {error.errno})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and folder is not None:
        with contextlib.suppress(OSError):
            text += f"; needs {_megabytes(max(needed, 4096))} MB, has "
            text += f"{_megabytes(free_bytes(folder))} MB in {shown(path.parent)}"
    wrapped = StorageError(text + ". The study can be resumed.")
    # errno alone: with a file name set as well, str() would no longer be our sentence.
    wrapped.errno = error.errno
    return wrapped


@contextlib.contextmanager
def disk(doing: str, path: Path, needed: int = 0, folder: int | None = None) -> Iterator[None]:
    """Turn every OSError of the block into a StorageError about `path`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, doing, path, needed, folder) from error


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:.1f}" if count >= MEGABYTE / 10 else f"{count / MEGABYTE:.3f}"


def free_bytes(fd: int) -> int:
    """What an unprivileged process may still write where descriptor `fd` lies."""
    room = os.fstatvfs(fd)
    return room.f_bavail * room.f_frsize


def check_space(path: Path, fd: int, needed: int) -> None:
    """Raises StorageError (ENOSPC) if fewer than `needed` bytes are free where `fd` lies."""
    with disk("ask for the free space of", path):
        free = free_bytes(fd)
    if free < needed:
        short = StorageError(
            f"needs {_megabytes(needed)} MB, has {_megabytes(free)} MB in {shown(path)}."
            " Free some space; the study can be resumed."
        )
        short.errno = errno.ENOSPC
        raise short


# --- folders -----------------------------------------------------------------------------


def close(fd: int) -> None:
    """Close what nothing was written to: an error of it has nothing to tell."""
    with contextlib.suppress(OSError):
        os.close(fd)


def sync_folder(fd: int) -> None:
    """fsync a directory, where the file system knows such a thing. Raises OSError."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


@dataclass(frozen=True, slots=True)
class Temporary:
    """A complete, durable file in tmp/ that nobody knows of yet."""

    name: str
    inode: tuple[int, int]  # (st_dev, st_ino)


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory held open by descriptor; all names are relative to it, none is a path."""

    path: Path
    fd: int

    @classmethod
    def open(cls, path: Path, parent: int | None = None) -> Folder:
        """Open a directory, inside of descriptor `parent` if given.

        Raises UsageError if it is a symbolic link or a file, StorageError as the disk says.
        FileNotFoundError passes.
        """
        name = path if parent is None else path.name
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return cls(path, os.open(name, flags, dir_fd=parent))
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise UsageError(
                    f"{shown(path)} is a symbolic link or no folder; no part of a study may be"
                ) from error
            raise storage_error(error, "open", path) from error

    def close(self) -> None:
        close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sub(self, name: str, *, create: bool = False) -> Folder:
        """Open the folder `name` in here; with `create`, make it durably if missing: for us
        (0700), or for the group that shares this one."""
        if create:
            with disk("make folder", self.path / name, folder=self.fd):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o770 if self.is_shared() else 0o700, dir_fd=self.fd)
                # Also if it was there: who made it may have been killed before its fsync.
                sync_folder(self.fd)
        return Folder.open(self.path / name, self.fd)

    def is_shared(self) -> bool:
        """Whether it is a group's, and nobody else's. OSError passes."""
        return stat.S_IMODE(os.fstat(self.fd).st_mode) == SHARED

    def sync(self) -> None:
        """Make names in here durable. Raises StorageError."""
        with disk("sync", self.path):
            sync_folder(self.fd)

    def names(self) -> list[str]:
        """Sorted names of what lies in here. Raises StorageError."""
        with disk("list", self.path):
            return sorted(os.listdir(self.fd))  # noqa: PTH208 (by descriptor)

    def holds(self, name: str) -> bool:
        """Whether anything of that name lies in here. Raises StorageError."""
        with disk("look for", self.path / name):
            try:
                os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def read(self, name: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        """The whole of a file; None if there is none.

        Raises Damaged if it is no plain file of at most `most_bytes`, StorageError.
        """
        # O_NONBLOCK: opening a named pipe that somebody left here must not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        path = self.path / name
        try:
            fd = os.open(name, flags, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise Damaged("not a plain file") from error
            raise storage_error(error, "read", path) from error
        try:
            with disk("read", path):
                state = os.fstat(fd)
                if not stat.S_ISREG(state.st_mode):
                    raise Damaged("not a plain file")
                if state.st_size > most_bytes:
                    raise Damaged(f"larger than {most_bytes} bytes")
                return _read_all(fd, state.st_size)
        finally:
            close(fd)

    def write_temporary(self, data: bytes) -> Temporary:
        """Write and fsync a new file of random name in here. Raises OSError, leaving none."""
        name = secrets.token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=self.fd)
        try:
            try:
                write_all(fd, data)
                os.fsync(fd)  # never tried again on this file: a second one may lie
                state = os.fstat(fd)
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self.fd)
            raise
        return Temporary(name, (state.st_dev, state.st_ino))

    def lock(self, name: str, *, shared: bool = False, wait: bool = False) -> int | None:
        """A descriptor that holds flock on the empty file `name`; None if somebody has it.

        The kernel frees it when its last holder closes it or dies. Raises StorageError.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        # For a group too, whose members open it to write; a private study's folder is closed.
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with disk("lock", self.path / name, folder=self.fd):
            fd = os.open(name, flags, 0o660, dir_fd=self.fd)
            try:
                fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
            except BlockingIOError:
                close(fd)
                return None
            except BaseException:
                close(fd)
                raise
            return fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; a short write goes on where it stopped. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read_all(fd: int, size: int) -> bytes:
    parts = []
    while part := os.read(fd, size + 1):
        parts.append(part)
    return b"".join(parts)


# --- publication -------------------------------------------------------------------------


def publish_once(
    tmp: Folder, target: Folder, name: str, data: bytes, locks: Folder | None = None
) -> bool:
    """Make `data` appear as `target/name`, whole and durable, unless something lies there.

    True if it is ours. False if the name was taken; then what lies there has been made
    durable too, whoever wrote it. `locks` is given where hard links are missing: then a lock
    in there decides who is first. Raises StorageError; no partial file is ever visible.
    """
    with disk("write", target.path / name, len(data), tmp.fd):
        temporary = tmp.write_temporary(data)
        try:
            if locks is None:
                won = _link(tmp, temporary, target, name)
            else:
                won = _rename(tmp, temporary, target, name, locks)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary.name, dir_fd=tmp.fd)
        sync_folder(target.fd)
        return won


def _link(tmp: Folder, temporary: Temporary, target: Folder, name: str) -> bool:
    try:
        os.link(temporary.name, name, src_dir_fd=tmp.fd, dst_dir_fd=target.fd)
    except FileExistsError:
        # NFS: the server did it and its answer was lost, so the second try met our own file.
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(name, dir_fd=target.fd, follow_symlinks=False)
            return (there.st_dev, there.st_ino) == temporary.inode
        return False
    return True


def _rename(
    tmp: Folder, temporary: Temporary, target: Folder, name: str, locks: Folder
) -> bool:
    with _locked(locks, "commit"):
        if target.holds(name):
            return False
        os.rename(temporary.name, name, src_dir_fd=tmp.fd, dst_dir_fd=target.fd)
        return True


@contextlib.contextmanager
def _locked(locks: Folder, name: str) -> Iterator[None]:
    fd = locks.lock(name, wait=True)
    assert fd is not None
    try:
        yield
    finally:
        close(fd)


def set_aside(
    root: Folder, part: Folder, name: str, check: Callable[[], object]
) -> Path | None:
    """Move a file for which `check` raises Damaged to quarantine/, with the reason beside it.

    Returns where it lies now; None if by now `check` passes or nothing is there. The lock is
    what makes this safe: between two looks somebody else may have set the bad file aside and
    a good one been published, and that one must stay. Raises StorageError.
    """
    with (
        root.sub("quarantine", create=True) as quarantine,
        root.sub("lease", create=True) as locks,
        disk("set aside", part.path / name, folder=root.fd),
        _locked(locks, "quarantine"),
    ):
        try:
            check()
        except Damaged as damage:
            kept = f"{name}.{secrets.token_hex(8)}"
            try:
                os.rename(name, kept, src_dir_fd=part.fd, dst_dir_fd=quarantine.fd)
            except FileNotFoundError:
                return None
            why = quarantine.write_temporary(to_text({"reason": str(damage)}) + b"\n")
            at = {"src_dir_fd": quarantine.fd, "dst_dir_fd": quarantine.fd}
            os.rename(why.name, f"{kept}.why", **at)  # noqa: PTH104 (by descriptor)
            sync_folder(quarantine.fd)
            sync_folder(part.fd)
            return quarantine.path / kept
        return None


def has_hard_links(tmp: Folder) -> bool:
    """Whether link(2) works where `tmp` lies, found by trying. Raises StorageError."""
    with disk("write in", tmp.path, folder=tmp.fd):
        temporary = tmp.write_temporary(b"")
        second = temporary.name + ".link"
        try:
            os.link(temporary.name, second, src_dir_fd=tmp.fd, dst_dir_fd=tmp.fd)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return False
        finally:
            for name in (second, temporary.name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=tmp.fd)
        return True


def sweep(tmp: Folder, stale_seconds: float) -> None:
    """Remove what killed writers left in `tmp`: published long ago, or old.

    Age is taken against a file made just now, so no clock but the file system's is asked.
    Raises StorageError.
    """
    with disk("clean up", tmp.path, folder=tmp.fd):
        probe = tmp.write_temporary(b"")
        now = os.stat(probe.name, dir_fd=tmp.fd).st_mtime
        for name in set(tmp.names()) - {RESERVE}:
            with contextlib.suppress(FileNotFoundError):
                state = os.stat(name, dir_fd=tmp.fd, follow_symlinks=False)
                old = now - state.st_mtime > stale_seconds
                if name == probe.name or state.st_nlink > 1 or old:
                    os.unlink(name, dir_fd=tmp.fd)
