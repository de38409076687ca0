"""The checkpoints of trials that are under way, in a study's `ckpt/`.

Source: RELIABILITY.md 5.1 and 5.2. A name holds the ids of the trials that are trained
together, the update, and the SHA-256 of the content. A file is published whole and durable;
only then are older ones of the same trials removed, and all of them with the first record of
one of the trials: the others cannot be trained beside it again. Nothing in here is truth:
what is lost or refused costs work.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from batchcliff.errors import StorageError
from batchcliff.study.files import Folder, disk
from batchcliff.study.parts import Parts
from batchcliff.study.sealed import Damaged, NotUnderstood

T = TypeVar("T")

LEAST_ROOM = 64 * 10**6
"""Bytes that must be free before any trial is trained: records, logs, what others write."""

PART = "ckpt"
NAME = re.compile(
    r"([0-9a-f]{20}(?:\+[0-9a-f]{20})*)-([0-9]{1,18})-([0-9a-f]{64})\.safetensors"
)


def room(largest: int, workers: int) -> int:
    """Bytes that must be free for `workers` that each save checkpoints of at most `largest`:
    two of each, since an older one goes only when the next is durable."""
    return 2 * largest * workers + LEAST_ROOM


@contextlib.contextmanager
def _opened(study: Path) -> Iterator[Parts]:
    """The parts of a study, as long as they are needed: what trains holds no descriptor."""
    parts = Parts(Folder.open(study))
    try:
        yield parts
    finally:
        parts.close()


class CheckpointFolder:
    """All checkpoints of the study in `folder`. UsageError if its ckpt/ is a symbolic link."""

    def __init__(self, folder: Path) -> None:
        self._study = folder

    def of(self, trial_ids: Sequence[str], tell: Callable[[str], None]) -> Kept:
        """The checkpoints of trials that are trained together, in this order."""
        return Kept(self._study, "+".join(trial_ids), tell)

    def reached(self, trial_id: str) -> int:
        """The update of the newest checkpoint that the trial is part of, by name; 0: none.

        What the disk refuses to list counts as nothing.
        """
        newest = 0
        with contextlib.suppress(StorageError), _opened(self._study) as parts:
            for name in parts.names(PART):
                match = NAME.fullmatch(name)
                if match and trial_id in match[1].split("+"):
                    newest = max(newest, int(match[2]))
        return newest

    def drop(self, trial_ids: Collection[str]) -> None:
        """Remove the checkpoints that any of these trials, which have records, is part of.

        What the disk refuses to remove now is left for the next run.
        """
        with contextlib.suppress(StorageError), _opened(self._study) as parts:
            for name in parts.names(PART):
                match = NAME.fullmatch(name)
                if match and not set(match[1].split("+")).isdisjoint(trial_ids):
                    _remove(parts, name)


class Kept:
    """The checkpoints of one run; see `batchcliff.training.checkpoint.Place`.

    tell: called with why a checkpoint is not used.
    """

    def __init__(self, study: Path, key: str, tell: Callable[[str], None]) -> None:
        self._study, self._key, self._tell = study, key, tell

    def _names(self, parts: Parts) -> list[str]:
        """Those that are there, the newest first."""
        found = (NAME.fullmatch(name) for name in parts.names(PART))
        mine = [match for match in found if match and match[1] == self._key]
        return [match[0] for match in sorted(mine, key=lambda m: int(m[2]), reverse=True)]

    def newest(self, read: Callable[[bytes], T], most_bytes: int) -> T | None:
        """What `read` makes of the newest checkpoint that is as it was written.

        One that is not is set aside in quarantine/; one by other code or under other numerics
        stays until a newer one is there. No error of the disk ends anything here.
        """
        try:
            with _opened(self._study) as parts:
                for name in self._names(parts):
                    found = self._checked(parts, name, read, most_bytes)
                    if found is not None:
                        return found
        except StorageError as error:
            self._tell(str(error))
        return None

    def _checked(
        self, parts: Parts, name: str, read: Callable[[bytes], T], most_bytes: int
    ) -> T | None:
        """What `read` makes of one of them; None, and a word about it, if nothing."""
        try:
            found = parts.checked(PART, name, lambda n: _read(parts, n, read, most_bytes))
        except StorageError as error:
            self._tell(str(error))
            return None
        bad = parts.bad.get(f"{PART}/{name}")
        if bad is not None:
            place = f" (now {bad.kept.name} in quarantine/)" if bad.kept else ""
            update = int(name.split("-")[1])
            self._tell(f"the checkpoint at update {update} is not used: {bad.reason}{place}")
        return found

    def keep(self, update: int, data: bytes) -> None:
        """Publish a checkpoint; when it is durable, remove the older ones. StorageError."""
        name = f"{self._key}-{update}-{hashlib.sha256(data).hexdigest()}.safetensors"
        with _opened(self._study) as parts:
            parts.publish(PART, name, data)
            for other in self._names(parts):
                if other != name:
                    _remove(parts, other)


def _read(parts: Parts, name: str, read: Callable[[bytes], T], most_bytes: int) -> T | None:
    """None if the file is gone. Raises Damaged, NotUnderstood, StorageError."""
    from batchcliff.training.checkpoint import Elsewhere, Unusable

    data = parts.reading(PART).read(name, most_bytes)
    if data is None:
        return None
    if hashlib.sha256(data).hexdigest() not in name:
        raise Damaged("SHA-256 of the content is not the one in its name")
    try:
        return read(data)
    except Unusable as reason:
        raise Damaged(str(reason)) from reason
    except Elsewhere as reason:
        raise NotUnderstood(str(reason)) from reason


def _remove(parts: Parts, name: str) -> None:
    folder = parts.reading(PART)
    with disk("remove", folder.path / name):
        try:
            os.unlink(name, dir_fd=folder.fd)
        except FileNotFoundError:  # another process was faster
            return
