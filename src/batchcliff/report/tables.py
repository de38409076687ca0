"""Tables as values and as text: the accounting, the results, rows for CSV, Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batchcliff.published import Published
from batchcliff.record import TrialRecord
from batchcliff.report.join import Joined, ok_accuracies
from batchcliff.report.text import clean, encodable

TRIAL_COLUMNS = (
    "arm", "batch_size", "seed", "outcome", "accuracy", "accuracy_reestimated", "test_loss",
    "train_loss", "updates", "planned_updates", "examples", "epochs", "seconds",
    "compile_seconds", "examples_per_second", "lr", "budget", "first_bad_update", "workload",
    "data", "precision", "skipped_updates", "first_gradient_norm", "max_gradient_norm",
    "weight_distance", "old_accuracy_before", "old_accuracy", "old_accuracy_reestimated",
    "ended", "device", "reason", "trial_id",
)  # fmt: skip


_MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|#!~$@"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One cell of a published table beside ours. Shares; None where one side has none."""

    arm: str
    batch_size: int
    published: float | None
    ours: float | None  # mean over ok trials
    n: int
    not_ok: int  # recorded trials of the cell that did not end ok
    difference: float | None  # ours - published


def published_rows(joined: Joined, published: Published) -> tuple[PublishedRow, ...]:
    """The published cells, arm by arm, beside the mean of our ok trials at the same place."""
    cells = joined.cells()
    rows = []
    for arm in published.arms:
        for point in arm.points:
            trials = cells.get((arm.name, point.batch_size), ())
            values = ok_accuracies(trials)
            ours = math.fsum(values) / len(values) if values else None
            rows.append(
                PublishedRow(
                    arm=arm.name,
                    batch_size=point.batch_size,
                    published=point.accuracy,
                    ours=ours,
                    n=len(values),
                    not_ok=sum(t.record is not None for t in trials) - len(values),
                    difference=None if ours is None else ours - point.accuracy,
                )
            )
    return tuple(rows)


def trial_rows(records: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """One dict a record with the keys of `TRIAL_COLUMNS`; None where there is no value.

    Accuracies are shares in [0, 1]; `updates` were applied, `planned_updates` were to be;
    `examples`: read by the updates applied; `skipped_updates`: of those, by loss scaling.
    Gradient norms where they were recorded: of update 0, and the largest of the epochs before
    the first bad update. `ended`: why before the budget, "stalled" or "target"; else "". The
    weights' distance and the old task's accuracies where a network was fine-tuned
    (`record.Transfer`). Sorted by arm, batch size, seed and id.
    """
    rows = [_trial_row(record) for record in records]
    rows.sort(key=lambda r: (r["arm"], r["batch_size"], r["seed"], r["trial_id"]))
    return rows


def _trial_row(record: TrialRecord) -> dict[str, Any]:
    spec, ledger, where = record.spec, record.ledger, record.provenance
    transfer = record.transfer
    row: dict[str, Any] = {
        "arm": spec.arm,
        "batch_size": spec.batch_size,
        "seed": spec.seed,
        "outcome": record.outcome.value,
        "accuracy": record.accuracy,
        "accuracy_reestimated": record.accuracy_reestimated,
        "test_loss": record.test_loss,
        "train_loss": record.train_loss,
        "updates": record.updates,
        "planned_updates": ledger.updates if ledger else None,
        "examples": record.examples,
        "epochs": ledger.epochs if ledger else None,
        "seconds": where.seconds if where else None,
        "compile_seconds": where.compile_seconds if where else None,
        "examples_per_second": where.examples_per_second if where else None,
        "lr": spec.lr,
        "budget": spec.budget,
        "first_bad_update": record.first_bad_update,
        "workload": spec.workload,
        "data": spec.data,
        "precision": spec.settings.precision,
        "skipped_updates": record.skipped_updates,
        "first_gradient_norm": next(iter(record.curves.first_gradient_norms), None),
        "max_gradient_norm": _largest(record.curves.gradient_norm_max),
        "weight_distance": transfer.distance if transfer else None,
        "old_accuracy_before": transfer.old_accuracy_before if transfer else None,
        "old_accuracy": transfer.old_accuracy if transfer else None,
        "old_accuracy_reestimated": transfer.old_accuracy_reestimated if transfer else None,
        "ended": record.ended,
        "device": where.device if where else None,
        "reason": record.reason,
        "trial_id": record.trial_id,
    }
    return {k: _finite(v) if isinstance(v, float) else v for k, v in row.items()}


def _largest(values: Sequence[float]) -> float | None:
    """The largest of the numbers; None where there is none."""
    return max((v for v in values if not math.isnan(v)), default=None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Spreadsheets take the wide forms of East Asian keyboards for the same characters.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def csv_cell(value: Any) -> str:
    """One CSV cell: "" for None and non-finite numbers, floats at full precision.

    A string that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    if isinstance(value, str):
        text = encodable(value)
        return "'" + text if text.startswith(FORMULA) else text
    if isinstance(value, float):
        value = _finite(value)
    return "" if value is None else str(value)


_AS_THEY_ARE = frozenset({int, type(None)})  # `csv` writes them as `csv_cell` does


def csv_text(rows: Iterable[dict[str, Any]], columns: Sequence[str] = TRIAL_COLUMNS) -> str:
    """Rows as CSV (RFC 4180, comma, CRLF) under a header line."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows(
        [v if type(v) in _AS_THEY_ARE else csv_cell(v) for v in map(row.get, columns)]
        for row in rows
    )
    return out.getvalue()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table; the first column is aligned left, the others right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    lines = [[markdown_cell(cell) for cell in row] for row in [header, *rows]]
    lines.insert(1, rule)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """`text` as it reads, whatever it holds: no HTML, no link, no end of the cell."""
    return clean(text).translate(_MARKDOWN)
