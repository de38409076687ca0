"""Whose a study is: its owner's alone (0700), or with `--shared` a group's (2770).

Source: RELIABILITY.md, F37. Nothing of a study's folder is ever run, but whoever can write
there can write records, so another user's folder is refused unless it is a group's of ours,
and to work in such a one has to be asked for, as git asks with safe.directory.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from batchcliff.errors import UsageError
from batchcliff.study.files import SHARED, disk, shown

UMASK = 0o007  # of who works on a shared study: nothing is for others


def is_shared(mode: int) -> bool:
    """Whether a folder of this mode is a group's, and nobody else's."""
    return stat.S_IMODE(mode) == SHARED


def check_owner(path: Path, *, any_owner: bool = False) -> None:
    """Raises UsageError if the folder is another user's and no group of ours shares it.

    OSError passes.
    """
    state = path.lstat()
    ours = is_shared(state.st_mode) and state.st_gid in {os.getegid(), *os.getgroups()}
    if not (any_owner or ours or state.st_uid == os.geteuid()):
        with_whom = "its owner" if not is_shared(state.st_mode) else _group(state.st_gid)
        raise UsageError(
            f"{shown(path)} is owned by {_user(state.st_uid)}; it is used by {with_whom} only"
        )


def check_shared(path: Path, *, shared: bool, exists: bool) -> None:
    """Raises UsageError unless the study at `path` is to be run as it was made.

    exists: there is a study; else a folder may be there, which is to become one. Raises
    StorageError.
    """
    with disk("look at", path):
        try:
            state = path.lstat()
        except FileNotFoundError:
            return
    if is_shared(state.st_mode) and not shared:
        raise UsageError(
            f"{shown(path)} is shared with {_group(state.st_gid)}: write --shared to work in it"
        )
    if shared and exists and not is_shared(state.st_mode):
        raise UsageError(
            f"--shared: {shown(path)} holds a study that was begun without it, and is private. "
            "Leave --shared out, or give the shared study a folder of its own."
        )


def plain_folder(path: Path) -> Path:
    """`path`, which is written to by name; UsageError if somebody has put a link there.

    Raises StorageError.
    """
    with disk("look at", path):
        link = path.is_symlink()
    if link:
        raise UsageError(f"{shown(path)} is a symbolic link; no part of a study may be")
    return path


def share(path: Path) -> None:
    """Give a new folder of ours to its group. Raises OSError if it is another user's."""
    if not is_shared(path.lstat().st_mode):
        path.chmod(SHARED)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return f"group {grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"group {gid}"
