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
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Self, TypeVar

from batchcliff.errors import StorageError
from batchcliff.study.files import Folder, disk
from batchcliff.study.parts import Parts
from batchcliff.study.sealed import Damaged, NotUnderstood

T = TypeVar("T")

PART = "ckpt"
NAME = re.compile(
    r"([0-9a-f]{20}(?:\+[0-9a-f]{20})*)-([0-9]{1,18})-([0-9a-f]{64})\.safetensors"
)


class CheckpointFolder:
    """All checkpoints of the study in `folder`; opens it, and reads and writes when asked."""

    def __init__(self, folder: Path) -> None:
        self._parts = Parts(Folder.open(folder))

    def close(self) -> None:
        """Close the descriptors."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, trial_ids: Sequence[str], tell: Callable[[str], None]) -> Kept:
        """The checkpoints of trials that are trained together, in this order."""
        return Kept(self._parts, "+".join(trial_ids), tell)

    def drop(self, trial_ids: Collection[str]) -> None:
        """Remove the checkpoints that any of these trials, which have records, is part of.

        What the disk refuses to remove now is left for the next run.
        """
        with contextlib.suppress(StorageError):
            for name in self._parts.names(PART):
                match = NAME.fullmatch(name)
                if match and not set(match[1].split("+")).isdisjoint(trial_ids):
                    _remove(self._parts, name)


class Kept:
    """The checkpoints of one run; see `batchcliff.training.checkpoint.Place`.

    tell: called with why a checkpoint is not used.
    """

    def __init__(self, parts: Parts, key: str, tell: Callable[[str], None]) -> None:
        self._parts, self._key, self._tell = parts, key, tell

    def names(self) -> list[str]:
        """Those that are there, the newest first."""
        found = (NAME.fullmatch(name) for name in self._parts.names(PART))
        mine = [match for match in found if match and match[1] == self._key]
        return [match[0] for match in sorted(mine, key=lambda m: int(m[2]), reverse=True)]

    def newest(self, read: Callable[[bytes], T], most_bytes: int) -> T | None:
        """What `read` makes of the newest checkpoint that is as it was written.

        One that is not is set aside in quarantine/; one by other code or under other numerics
        stays until a newer one is there. No error of the disk ends anything here.
        """

        def checked(name: str) -> T | None:
            return self._read(name, read, most_bytes)

        for name in self.names():
            try:
                found = self._parts.checked(PART, name, checked)
            except StorageError as error:
                self._tell(str(error))
                continue
            if found is not None:
                return found
            bad = self._parts.bad.pop(f"{PART}/{name}", None)
            if bad is not None:
                place = f" (now {bad.kept.name} in quarantine/)" if bad.kept else ""
                update = int(name.split("-")[1])
                self._tell(
                    f"the checkpoint at update {update} is not used: {bad.reason}{place}"
                )
        return None

    def keep(self, update: int, data: bytes) -> None:
        """Publish a checkpoint; when it is durable, remove the older ones. StorageError."""
        name = f"{self._key}-{update}-{hashlib.sha256(data).hexdigest()}.safetensors"
        self._parts.publish(PART, name, data)
        for other in self.names():
            if other != name:
                _remove(self._parts, other)

    def _read(self, name: str, read: Callable[[bytes], T], most_bytes: int) -> T | None:
        """None if the file is gone. Raises Damaged, NotUnderstood, StorageError."""
        from batchcliff.training.checkpoint import Elsewhere, Unusable

        try:
            data = self._parts.reading(PART).read(name, most_bytes)
        except FileNotFoundError:
            return None
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
