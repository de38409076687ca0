"""Tables of trials from elsewhere: into a folder of their own, and their report.

An imported folder has no study in it: `run`, `status` and `export` have nothing to do there.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff import published
from batchcliff.errors import StorageError, UsageError
from batchcliff.naming import STUDIES
from batchcliff.published.imported import HEAD, TRIALS, describe, load, table_of
from batchcliff.study.printable import printable

if TYPE_CHECKING:
    from batchcliff.published.imported import Imported
    from batchcliff.published.table import Table

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What was imported, where it lies, and what it says. marks: what it is and is not."""

    folder: Path
    page: Path
    headlines: tuple[str, ...]
    marks: tuple[str, ...]


def import_(
    source: str | Path,
    *,
    out: str | Path | None = None,
    unit: str | None = None,
    classes: int | None = None,
    reference_arm: str | None = None,
    tolerance: float = 0.02,
) -> ImportReport:
    """Import a CSV file of trials, or a published set by its name, and write its report.

    source: a path, or a name such as "article". out: the folder; by default studies/NAME of
    NAME.csv, studies/NAME-published of a published set. unit: "share" (the default) or
    "percent". classes: guessing is right in 1 of so many; needed for a file. reference_arm:
    by default "none", or the only arm. tolerance: loss of accuracy, a share, that is the
    tolerance cliff. Raises UsageError (nothing was written), StorageError.
    """
    path = Path(source)
    if path.suffix.casefold() == ".csv" or _is_file(path):
        if classes is None:
            raise UsageError(
                "--classes is missing: what guessing reaches is not in a table. Write e.g. "
                "--classes 10."
            )
        imported, table, data = _of_file(
            path, out, unit or "share", classes, reference_arm, tolerance
        )
    else:
        if unit is not None or classes is not None:
            raise UsageError(
                f"{printable(source)} is no file, and of a published set unit and classes are "
                "known: leave --unit and --classes out, or give a CSV file"
            )
        imported, table, data = _of_published(str(source), reference_arm, tolerance)
    folder = Path(out) if out is not None else STUDIES / imported.name
    _check_folder(folder, imported)
    from batchcliff.report.write import write_files

    write_files(folder, {TRIALS: data, HEAD: imported.head()}, "the imported table")
    return _report(folder, folder / "report", imported, table)


def find_imported(name: str | Path) -> Path | None:
    """The folder of an imported table, a path or studies/NAME; None if there is none."""
    given = Path(name)
    with contextlib.suppress(OSError, ValueError):
        for folder in (given, STUDIES / given):
            if (folder / HEAD).is_file():
                return folder
    return None


def report_imported(folder: Path, out: str | Path | None = None) -> ImportReport:
    """Write the report of an imported folder. Raises UsageError, DataError, StorageError."""
    imported, table = load(folder)
    place = Path(out) if out is not None else folder / "report"
    return _report(folder, place, imported, table)


def _report(folder: Path, place: Path, imported: Imported, table: Table) -> ImportReport:
    from batchcliff.report.imported import write_imported

    page, content = write_imported(imported, table, place)
    return ImportReport(
        folder=folder,
        page=page,
        headlines=content.headline,
        marks=(*content.marks, *content.summary.notes),
    )


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def _of_file(
    path: Path,
    out: str | Path | None,
    unit: str,
    classes: int,
    reference_arm: str | None,
    tolerance: float,
) -> tuple[Imported, Table, bytes]:
    name = path.stem if out is None else Path(out).name
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{printable(name)!r} cannot be the name of a folder in {STUDIES}: name one with "
            "--out (letters, digits and . _ + -)"
        )
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{printable(path)} cannot be read: {error}") from error
    imported, table = describe(
        data,
        name=name,
        source=printable(path.name),
        unit=unit,
        num_classes=classes,
        reference_arm=reference_arm,
        tolerance=tolerance,
    )
    return imported, table, data


def _of_published(
    name: str, reference_arm: str | None, tolerance: float
) -> tuple[Imported, Table, bytes]:
    found = published.load(name)
    data, notes = table_of(found)
    imported, table = describe(
        data,
        name=f"{name}-published",
        source=found.source,
        unit="share",
        num_classes=found.num_classes,
        reference_arm=reference_arm,
        tolerance=tolerance,
        notes=notes,
    )
    return imported, table, data


def _check_folder(folder: Path, imported: Imported) -> None:
    """UsageError if anything but this very import lies in the folder."""
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, NotADirectoryError | ValueError):
            raise UsageError(f"{printable(folder)} cannot be a folder: {error}") from error
        raise StorageError(error.errno, f"{printable(folder)}: {error}") from error
    if HEAD in names:
        if (folder / HEAD).read_bytes() != imported.head():
            raise UsageError(
                f"{printable(folder)} holds another import (another table, unit, reference "
                "arm or tolerance): name a new folder with --out"
            )
    elif strangers := sorted(names - {TRIALS, "report"}):
        raise UsageError(
            f"{printable(folder)} is not empty (it holds {printable(strangers[0])}): name a "
            "new folder with --out"
        )
