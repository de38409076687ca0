"""What makes a folder this study and no other: STUDY.json, its owner, its parts.

Source: RELIABILITY.md 5.1, F6, F7, F35, F37.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchcliff.canonical import canonical_json
from batchcliff.errors import UsageError
from batchcliff.provenance import utc_now
from batchcliff.study import sharing
from batchcliff.study.files import (
    Folder,
    close,
    disk,
    has_hard_links,
    publish_once,
    set_aside,
    shown,
    storage_error,
    sync_folder,
)
from batchcliff.study.sealed import Damaged, NewerVersion, NotUnderstood, seal, unseal

SCHEMA = 1
STUDY = "STUDY.json"
PARTS = ("plan", "results", "attempts", "lease", "ckpt", "log", "tmp", "quarantine", "cache")
REPORT = "report"
NOT_A_PATH = {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


def real_path(folder: str | Path) -> Path:
    """Absolute, with links resolved: the folder may be reached by a link, its parts may not.

    Raises UsageError for what no path can be.
    """
    try:
        return Path(os.path.realpath(folder))
    except ValueError as error:
        raise UsageError(f"{shown(folder)} cannot be a path: {error}") from error


def check_owner(path: Path, *, any_owner: bool = False) -> None:
    """Raises UsageError if the folder is another user's, and not a group's of ours;
    FileNotFoundError passes."""
    try:
        sharing.check_owner(path, any_owner=any_owner)
    except (FileNotFoundError, UsageError):
        raise
    except OSError as error:
        raise _path_error(error, "open", path) from error


def _path_error(error: OSError, doing: str, path: Path) -> Exception:
    if error.errno in NOT_A_PATH:
        return UsageError(f"{shown(path)} cannot be a folder: {error.strerror}")
    return storage_error(error, doing, path)


def read_head(root: Folder) -> dict[str, Any]:
    """The body of STUDY.json.

    Raises UsageError if there is none or a newer batchcliff wrote it, Damaged, StorageError.
    """
    data = root.read(STUDY)
    if data is None:
        raise UsageError(f"there is no study at {shown(root.path)} (it has no {STUDY})")
    try:
        head, _ = unseal(data)
        if not isinstance(head, dict) or not {"schema", "study", "data", "code"} <= head.keys():
            raise Damaged("not a study")
        if head["schema"] != SCHEMA:
            raise NewerVersion(f"schema {head['schema']!r}, this batchcliff reads {SCHEMA}")
    except NotUnderstood as error:
        raise UsageError(
            f"{shown(root.path)} was written by another version of batchcliff ({error})"
        ) from error
    return head


def is_study(path: Path) -> bool:
    """Whether STUDY.json is there; a damaged one is set aside first.

    Raises UsageError if the folder is another user's, StorageError.
    """
    try:
        check_owner(path)
        root = Folder.open(path)
    except FileNotFoundError:
        return False
    with root:
        if not root.holds(STUDY):
            return False
        try:
            read_head(root)
        except Damaged:
            return set_aside(root, root, STUDY, lambda: read_head(root)) is None
        return True


def make_study(path: Path, head: dict[str, Any], *, shared: bool = False) -> None:
    """Make the folder and its parts (0700; 2770 if shared), durably, then STUDY.json unless
    one is there.

    Raises UsageError if other things lie in the folder, StorageError.
    """
    try:
        _refuse_strangers(path)
        _make_folders(path, shared=shared)
    except OSError as error:
        if isinstance(error, UsageError):
            raise
        raise _path_error(error, "make folder", path) from error
    with Folder.open(path) as root:
        for part in (*PARTS, *([REPORT] if shared else [])):  # else made by who reports first
            root.sub(part, create=True).close()
        with root.sub("tmp") as tmp, root.sub("lease") as locks:
            rename_under = None if has_hard_links(tmp) else locks
            data = seal(head, {"created": utc_now()})
            publish_once(tmp, root, STUDY, data, rename_under)


def _refuse_strangers(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        names = {name.name for name in path.iterdir()} - {*PARTS, STUDY, REPORT}
        if strangers := sorted(name for name in names if not name.startswith(".")):
            raise UsageError(
                f"{shown(path)} is no study and not empty (it holds {strangers[0]!r}):"
                " name a new folder"
            )


def _make_folders(path: Path, *, shared: bool) -> None:
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if shared:
        sharing.share(path)
    # All the way up: whoever made a folder above may have been killed before its fsync.
    for parent in path.parents:
        try:
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            break  # nothing of ours: we could not have made a folder in there
        try:
            with disk("sync", parent):
                sync_folder(fd)
        finally:
            close(fd)


def difference(old: Any, new: Any, where: str = "") -> list[str]:
    """One line per field that differs: `lr.base: 0.1 in the study, 0.2 now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            at = f"{where}.{key}" if where else str(key)
            if key not in old:
                lines.append(f"{at}: not in the study, {_short(new[key])} now")
            elif key not in new:
                lines.append(f"{at}: {_short(old[key])} in the study, not given now")
            else:
                lines += difference(old[key], new[key], at)
        return lines
    nested = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if nested and any(isinstance(item, dict | list) for item in old):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in difference(a, b, f"{where}[{i}]")]
    # By text: 1 and 1.0 are equal to Python, but name different trials.
    if canonical_json(old) == canonical_json(new):
        return []
    return [f"{where}: {_short(old)} in the study, {_short(new)} now"]


GRID = ("seeds", "batch_sizes", "arms")  # more of them are more trials
READING = ("description", "published", "reference_arm", "search", "tolerance")  # same trials


def only_adds(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether study `new` has every trial of `old` as it is; both as plain values.

    Seeds, batch sizes and arms may be added, and what a report makes of them may change.
    """
    for key in (old.keys() | new.keys()) - set(READING):
        if key in GRID:
            now = {canonical_json(item) for item in new[key]}
            if not all(canonical_json(item) in now for item in old[key]):
                return False
        elif key not in old or key not in new or difference(old[key], new[key]):
            return False
    return True


def check_same(
    path: Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    extend: bool,
    accept_code_change: bool,
) -> None:
    """UsageError unless the study, the data and the code are those in the folder.

    With `extend` the study may have grown, with `accept_code_change` the code be another.
    The message has a line for each field that differs, and what to do about it.
    """
    changed = {part: bool(difference(old[part], new[part])) for part in old}
    grown = changed["study"] and only_adds(old["study"], new["study"])
    needed = []
    if grown and not extend:
        needed.append("--extend (every planned trial stays as it is, new ones are added)")
    if changed["code"] and not accept_code_change:
        needed.append("--accept-code-change (if the numbers of a trial cannot have changed)")
    lost = changed["data"] or (changed["study"] and not grown)
    if not lost and not needed:
        return
    lines = "".join(f"\n  {line}" for line in difference(old, new))
    todo = "Put the values back, or give the study a folder of its own."
    if not lost:
        todo = f"To go on in this folder, run with {' and '.join(needed)}. Otherwise: {todo}"
    elif extend:
        todo = f"--extend adds seeds, batch sizes and arms, and changes no trial. {todo}"
    raise UsageError(f"{shown(path)} holds a study that differs from this one:{lines}\n{todo}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
