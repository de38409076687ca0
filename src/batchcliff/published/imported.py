"""A table of somebody else's trials in a folder of its own, marked as what it is.

The folder holds the table as it came (`trials.csv`) and `IMPORT.json`, which says where it is
from, how it is to be read, and its digest. There is no study and no record in it: nothing is
known of these trials but the table, and nothing is made up. Stdlib only.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchcliff.canonical import canonical_json, from_plain, parse_json, to_plain
from batchcliff.errors import DataError, UsageError, did_you_mean
from batchcliff.published import Published
from batchcliff.published.table import Table, read_table

HEAD, TRIALS = "IMPORT.json", "trials.csv"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """How a table of trials is read. digest: SHA-256 of the table's bytes.

    tolerance: loss of accuracy, a share, that counts as the tolerance cliff. num_classes:
    guessing is right in 1 of so many, which is what a diverged trial counts as.
    """

    name: str
    source: str  # the file's name, or the publication
    digest: str
    unit: str
    num_classes: int
    reference_arm: str
    tolerance: float
    notes: tuple[str, ...] = ()

    def head(self) -> bytes:
        """The content of `IMPORT.json`."""
        plain = {"schema": SCHEMA, "kind": "imported", "import": to_plain(self)}
        return canonical_json(plain) + b"\n"


def describe(
    data: bytes,
    *,
    name: str,
    source: str,
    unit: str,
    num_classes: int,
    reference_arm: str | None,
    tolerance: float,
    notes: tuple[str, ...] = (),
) -> tuple[Imported, Table]:
    """The table in `data`, and how it is read. Raises UsageError for what is wrong with it.

    reference_arm None: the arm "none", or the only one.
    """
    table = read_table(data, unit, source)
    if num_classes < 2:
        raise UsageError(f"classes: {num_classes}; accuracy needs at least 2")
    if not 0.0 < tolerance < 1.0:
        raise UsageError(f"tolerance: {tolerance}; write a share of accuracy such as 0.02")
    reference = reference_arm
    if reference is None:
        reference = "none" if "none" in table.arms else table.arms[0]
        if reference != "none" and len(table.arms) > 1:
            raise UsageError(
                f"{source}: no arm is called 'none'. Say which one the others are compared "
                f"with: --reference {table.arms[0]!r}. Arms: {', '.join(table.arms)}."
            )
    if reference not in table.arms:
        hint = did_you_mean(reference, table.arms)
        raise UsageError(f"{source} has no arm {reference!r}.{hint}")
    imported = Imported(
        name=name,
        source=source,
        digest=hashlib.sha256(data).hexdigest(),
        unit=unit,
        num_classes=num_classes,
        reference_arm=reference,
        tolerance=tolerance,
        notes=notes,
    )
    return imported, table


def table_of(published: Published) -> tuple[bytes, tuple[str, ...]]:
    """A published set of curves as a table of trials, and what is to be said of it.

    One row a cell: a mean over several runs stands as one value, since the runs themselves
    are not published, and gets no interval.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(("arm", "batch_size", "accuracy"))
    for arm in published.arms:
        writer.writerows((arm.name, p.batch_size, repr(p.accuracy)) for p in arm.points)
    notes = [f"{published.title}. {published.workload}; {published.metric}."]
    if published.url:
        notes.append(published.url)
    if published.runs_per_cell > 1:
        notes.append(
            f"Each value is the mean of {published.runs_per_cell} runs and stands as one: the "
            "runs are not published, so there is no interval."
        )
    return out.getvalue().encode(), (*notes, *published.notes)


def load(folder: Path) -> tuple[Imported, Table]:
    """What was imported into `folder`.

    Raises UsageError if nothing was, or by a newer version; DataError for a table that is
    not the one that was imported.
    """
    try:
        plain: Any = parse_json((folder / HEAD).read_bytes())
    except OSError as error:
        raise UsageError(f"nothing was imported into {str(folder)!r}: {error}") from error
    except ValueError as error:
        raise DataError(f"{str(folder / HEAD)!r} is damaged: import the table again") from error
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise UsageError(f"{str(folder / HEAD)!r} was written by another version of batchcliff")
    try:
        imported = from_plain(Imported, plain["import"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{str(folder / HEAD)!r} is damaged: import the table again") from error
    try:
        data = (folder / TRIALS).read_bytes()
    except OSError as error:
        raise DataError(f"the imported table cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != imported.digest:
        raise DataError(
            f"{str(folder / TRIALS)!r} is not the table that was imported (its digest "
            "differs). Import the new one into a folder of its own."
        )
    return imported, read_table(data, imported.unit, imported.source)
