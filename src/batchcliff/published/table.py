"""Somebody's table of trials as text: a row a trial, read strictly, every error at its place.

CSV with a header line (RFC 4180, commas, UTF-8). Needed: arm, batch_size, accuracy. Known:
seed, outcome. Other columns are left out, by name. Stdlib only.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from dataclasses import dataclass

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.record import Outcome

NEEDED = ("arm", "batch_size", "accuracy")
KNOWN = (*NEEDED, "seed", "outcome")
UNITS = {"share": 1.0, "percent": 100.0}
"""What the accuracies of a file are: name -> the value of an accuracy of 1."""

MOST_BYTES = 64 << 20
_WHOLE = re.compile(r"\d{1,15}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One trial. `accuracy` is a share, None unless the outcome is ok."""

    arm: str
    batch_size: int
    seed: int
    outcome: Outcome
    accuracy: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The trials of a file in its order. paired: it has seeds, so equal ones are pairs.

    Without a column `seed` every row has one of its own. left_out: columns not read.
    """

    rows: tuple[Row, ...]
    paired: bool
    left_out: tuple[str, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of the file."""
        return tuple(dict.fromkeys(row.arm for row in self.rows))


def read_table(data: bytes, unit: str, name: str = "the file") -> Table:
    """The trials in `data`. Raises UsageError with line and column of what is wrong.

    `unit` is "share" (0.91) or "percent" (91): it is never guessed, and a file that cannot
    be in the unit said is refused.
    """
    if unit not in UNITS:
        raise UsageError(f"unit {unit!r}: unknown.{did_you_mean(unit, UNITS)}")
    if len(data) > MOST_BYTES:
        raise UsageError(f"{name} has {len(data):,} bytes; at most {MOST_BYTES:,} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{name}, line {line}: not UTF-8. Save it as UTF-8 text.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        place = _columns(header, name)
        rows: list[Row] = []
        lines: dict[tuple[str, int, int], int] = {}
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{name}, line {reader.line_num}"
            if len(cells) != len(header):
                raise UsageError(
                    f"{where}: {len(cells)} cells, and the header has {len(header)} columns"
                )
            row = _row({c: cells[i].strip() for c, i in place.items()}, unit, where, len(rows))
            key = row.arm, row.batch_size, row.seed
            if key in lines:
                raise UsageError(
                    f"{where}: arm {row.arm!r}, batch size {row.batch_size}, seed {row.seed} "
                    f"stands in line {lines[key]} already. Give each trial its own seed."
                )
            lines[key] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num}: {error}") from error
    if not rows:
        raise UsageError(f"{name} has no trial: write a line for each under the header")
    _check_unit(rows, unit, name)
    left_out = tuple(cell for cell in header if cell.strip() not in KNOWN)
    return Table(rows=tuple(rows), paired="seed" in place, left_out=left_out)


def _columns(header: list[str], name: str) -> dict[str, int]:
    """Index of each known column."""
    names = [cell.strip() for cell in header]
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        raise UsageError(f"{name}, line 1: no comma. Separate the columns with commas.")
    for known in KNOWN:
        if names.count(known) > 1:
            raise UsageError(f"{name}, line 1: column {known!r} stands twice")
    for cell in names:
        lower = cell.casefold().replace(" ", "_").replace("-", "_")
        near = difflib.get_close_matches(lower, KNOWN, n=1, cutoff=0.8)
        if near and cell not in KNOWN and near[0] not in names:
            raise UsageError(
                f"{name}, line 1: column {cell!r} is unknown. Did you mean {near[0]!r}?"
            )
    if missing := [needed for needed in NEEDED if needed not in names]:
        raise UsageError(
            f"{name}, line 1: no column {missing[0]!r}. Write the header "
            "arm,batch_size,seed,accuracy,outcome; seed and outcome may be left out."
        )
    return {known: names.index(known) for known in KNOWN if known in names}


def _row(cells: dict[str, str], unit: str, where: str, number: int) -> Row:
    arm = cells["arm"]
    if arm[:1] == "'" and arm[1:2] in tuple("=+-@\t\r"):
        arm = arm[1:]  # what `export` writes, so that no spreadsheet runs it as a formula
    if not arm:
        raise UsageError(f"{where}, column arm: empty. Write the name of the arm.")
    batch_size = _whole(cells["batch_size"], 1, where, "batch_size")
    seed = _whole(cells["seed"], 0, where, "seed") if "seed" in cells else number
    said = cells.get("outcome", "") or Outcome.OK.value
    if said not in list(Outcome):
        hint = did_you_mean(said, [o.value for o in Outcome])
        raise UsageError(f"{where}, column outcome: {said!r} is unknown.{hint}")
    outcome, text = Outcome(said), cells["accuracy"]
    if outcome is not Outcome.OK and text:
        raise UsageError(
            f"{where}, column accuracy: {text!r}, and the outcome is {said}. A trial that did "
            "not end ok has none: leave the cell empty."
        )
    accuracy = _accuracy(text, unit, where) if outcome is Outcome.OK else None
    return Row(arm=arm, batch_size=batch_size, seed=seed, outcome=outcome, accuracy=accuracy)


def _whole(text: str, least: int, where: str, column: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise UsageError(f"{where}, column {column}: {text!r} is no whole number >= {least}")
    return int(text)


def _accuracy(text: str, unit: str, where: str) -> float:
    if not text:
        raise UsageError(
            f"{where}, column accuracy: empty. Write it, or say how the trial ended in a "
            "column outcome (diverged, oom, ...)."
        )
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise UsageError(
            f"{where}, column accuracy: {text!r} is no number. For a trial that diverged leave "
            "it empty, with the outcome diverged."
        )
    if not 0.0 <= value <= UNITS[unit]:
        hint = " Are these percent? Say --unit percent." if unit == "share" else ""
        raise UsageError(
            f"{where}, column accuracy: {text} is not between 0 and {UNITS[unit]:g}.{hint}"
        )
    return value / UNITS[unit]


def _check_unit(rows: list[Row], unit: str, name: str) -> None:
    known = [row.accuracy for row in rows if row.accuracy is not None]
    if unit == "percent" and known and max(known) <= 0.01:
        raise UsageError(
            f"{name}: no accuracy is above 1 percent. Are these shares? Say --unit share."
        )
