"""The exceptions that batchcliff raises on purpose, and the exit code of each.

Stdlib only. A message names the key, the value that came and what to write instead;
the command line prints it as it is, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BatchcliffError(Exception):
    """Base of every error that a user can cause or meet; `exit_code` is the process's."""

    exit_code = 1


class UsageError(BatchcliffError, ValueError):
    """Bad study file, option or argument. Nothing has been written. Exit code 2."""

    exit_code = 2


class NoEffect(UsageError):
    """A technique found nothing to change: the trial would be a mislabelled baseline."""


class Infeasible(BatchcliffError, ValueError):
    """A trial that cannot run as specified; an outcome of the trial, not of the study."""


class DataError(UsageError):
    """Data that is missing, damaged, or not what its digest says. Exit code 2."""


class StorageError(BatchcliffError, OSError):
    """The disk refused (full, read-only, I/O error). The study can be resumed. Exit code 74."""

    exit_code = 74


class Incomplete(BatchcliffError):
    """Some trials have no terminal outcome yet. The study can be resumed. Exit code 75."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'? Known: a, b, c.` for the end of a message about an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Known: {', '.join(names)}."
