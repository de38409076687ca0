"""The parts of an open study: read with suspicion, written only once it is known that we can.

Source: RELIABILITY.md 5.2. What cannot be believed is moved to quarantine/ and reported, so
that one bad file never stops a study.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from batchcliff.errors import StorageError
from batchcliff.study import files
from batchcliff.study.files import Folder
from batchcliff.study.sealed import Damaged, NotUnderstood

T = TypeVar("T")

CANNOT_MOVE = files.NO_WRITES | {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file of the study that cannot be believed.

    `kept` is where it has been moved; None if it lies where it was: the folder is read only,
    or the seal is intact and another version of batchcliff may be able to read it.
    """

    name: str  # inside the study, e.g. "results/0123456789abcdef0123.json"
    reason: str
    kept: Path | None


class Parts:
    """The open folders of one study. Methods raise StorageError when the disk refuses."""

    def __init__(self, root: Folder) -> None:
        self.root = root
        self.bad: dict[str, Quarantined] = {}
        self.rename_under: Folder | None = None  # the folder of locks, without hard links
        self._open: dict[str, Folder] = {}
        self._ready = False

    def close(self) -> None:
        """Close all descriptors."""
        for folder in self._open.values():
            folder.close()
        self._open.clear()
        self.root.close()

    def reading(self, name: str) -> Folder:
        """A part that is there. FileNotFoundError passes; UsageError for a symbolic link."""
        return self._part(name, create=False)

    def writing(self, name: str) -> Folder:
        """A part, made if missing, once it is known that this folder can be written to."""
        if not self._ready:
            tmp, locks = self._part("tmp", create=True), self._part("lease", create=True)
            if not files.has_hard_links(tmp):
                self.rename_under = locks
            self.settle("plan")
            self._ready = True
        return self._part(name, create=True)

    def _part(self, name: str, *, create: bool) -> Folder:
        if name not in self._open:
            self._open[name] = self.root.sub(name, create=create)
        return self._open[name]

    def names(self, part: str) -> list[str]:
        """Sorted names in a part; none if it is missing."""
        try:
            return self.reading(part).names()
        except FileNotFoundError:  # a study from version control lacks its empty folders
            return []

    def read(self, part: str, name: str) -> bytes | None:
        """`Folder.read` in a part; None if the part is missing."""
        try:
            return self.reading(part).read(name)
        except FileNotFoundError:
            return None

    def settle(self, part: str) -> None:
        """Make durable what others named in a part, before anybody acts on it.

        They may have died between link and fsync. Where nothing can be written, nobody acts.
        """
        try:
            self.reading(part).sync()
        except FileNotFoundError:
            pass
        except StorageError as error:
            if error.errno not in files.NO_WRITES:
                raise

    def publish(self, part: str, name: str, data: bytes) -> bool:
        """`files.publish_once` into a part."""
        folder = self.writing(part)
        return files.publish_once(self.writing("tmp"), folder, name, data, self.rename_under)

    def checked(
        self, part: str, name: str, read: Callable[[str], T | None], *, make_room: bool = False
    ) -> T | None:
        """What `read` makes of a file; None if there is none, or if it raises Damaged.

        A damaged file is set aside and entered in `bad`. One that is intact but not
        understood stays, as does one that cannot be moved; with `make_room` the first is
        moved too, and StorageError raised for the second.
        """
        try:
            return read(name)
        except Damaged as damage:
            kept = None
            if make_room or not isinstance(damage, NotUnderstood):
                try:
                    kept = files.set_aside(
                        self.root, self.reading(part), name, lambda: read(name)
                    )
                except StorageError as error:
                    if make_room or error.errno not in CANNOT_MOVE:
                        raise
                else:
                    if kept is None:  # somebody else has dealt with it
                        return self.checked(part, name, read, make_room=make_room)
            label = f"{part}/{name}"
            self.bad[label] = Quarantined(label, str(damage), kept)
            return None
