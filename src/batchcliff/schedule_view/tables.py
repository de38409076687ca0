"""A view as text for people, as CSV and as plain values for scripts."""

from __future__ import annotations

import csv
import io
import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

from batchcliff import show
from batchcliff.schedule_view.view import Schedule, View
from batchcliff.schedules.conventions import CONVENTIONS, Difference, rates

FIRST = 8  # updates that a comparison shows one by one
WIDTH = 30  # characters of a curve in a table
BARS = ("▁▂▃▄▅▆▇█", "_.-:=+*#")  # the second where the output takes ASCII only


def show_view(view: View) -> None:
    """The tables of a view on standard output."""
    show.write(f"{view.title} ({view.hint})" if view.hint else view.title, *view.notes)
    abouts = {schedule.about for schedule in view.schedules}
    if len(abouts) == 1 and "" not in abouts:
        show.write(f"lr {view.schedules[0].about}")
    for name, reason in view.refused:
        show.write(f"infeasible: {name}: {reason}")
    differences = view.differences() if view.diff else []
    for group in view.groups():
        show.write("")
        _show_group(group, differences)
    show.write("")
    _show_totals(view.schedules, by_arm=len(abouts) > 1)
    if view.diff:
        show.write("")
        _show_differences(differences)
        for other in view.unlike():
            show.write(
                f"{other.name} has {len(other.lr)} updates and {view.schedules[0].name} "
                f"{len(view.schedules[0].lr)}: not compared update by update"
            )


def _show_group(group: Sequence[Schedule], differences: Sequence[Difference]) -> None:
    """The updates at which something happens; schedules with equal rates share a column."""
    columns: dict[tuple[float, ...], list[Schedule]] = {}
    for schedule in group:
        columns.setdefault(schedule.lr, []).append(schedule)
    shown_ones = [equal[0] for equal in columns.values()]
    for equal in columns.values():
        if len(equal) > 1:
            show.write("the same: " + ", ".join(schedule.name for schedule in equal))
    progress = group[0].progress
    counted = {
        "epoch": progress.epochs(0) is not None,
        "examples": progress.examples(0) is not None,
        "batch size": bool(progress.growth()),
    }
    header = ["", "update", *(name for name, known in counted.items() if known)]
    header += ["learning rate" if s.name == "lr" else s.name for s in shown_ones]
    marks = [schedule.marks() for schedule in shown_ones]
    rows = []
    for t in sorted(_shown(group[0], marks, differences)):
        cells = {
            "epoch": _epoch(group[0], t),
            "examples": f"{progress.examples(t) or 0:,}",
            "batch size": str(progress.batch_size_at(t)),
        }
        known_cells = [cells[name] for name, known in counted.items() if known]
        learning_rates = [f"{schedule.lr[t]:.6g}" for schedule in shown_ones]
        rows.append([_happens(shown_ones, marks, t), str(t), *known_cells, *learning_rates])
    show.write_table(header, rows)


def _shown(
    first: Schedule, marks: Sequence[dict[int, str]], differences: Sequence[Difference]
) -> set[int]:
    """Updates that get a row: all that are marked, and where a comparison looks."""
    shown = {t for said in marks for t in said}
    if differences:
        shown |= {*range(min(FIRST, len(first.lr)))}
    for found in differences:
        if found.differing:
            shown |= {*found.differing[:1], *found.differing[-1:], found.largest_at or 0}
    return {t for t in shown if t < len(first.lr)}


def _epoch(schedule: Schedule, update: int) -> str:
    passed = schedule.progress.epochs(update)
    return "" if passed is None else f"{float(passed):.3f}".rstrip("0").rstrip(".")


def _happens(group: Sequence[Schedule], marks: Sequence[dict[int, str]], update: int) -> str:
    """What happens at an update, said once where it is the same for all."""
    said = [found.get(update, "") for found in marks]
    if len(set(said)) == 1:
        return said[0]
    pairs = zip(group, said, strict=True)
    return "; ".join(f"{schedule.name}: {text}" for schedule, text in pairs if text)


def _show_totals(schedules: Sequence[Schedule], by_arm: bool) -> None:
    header = ["schedule", "updates", "epochs", "examples", "warmup updates", "peak",
              "first at the peak", "sum of lr / peak", "lr over the run"]  # fmt: skip
    rows = []
    for schedule in schedules:
        count, at = len(schedule.lr), schedule.first_at_peak
        seen = schedule.progress.examples(count)
        rows.append(
            [
                schedule.name,
                str(count),
                _epoch(schedule, count),
                "" if seen is None else f"{seen:,}",
                str(schedule.warmup_updates or "none"),
                schedule.about if by_arm else f"{schedule.peak:.6g}",
                "never" if at is None else f"update {at}",
                f"{schedule.area:.6g}",
                sparkline(schedule),
            ]
        )
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    show.write_table([header[i] for i in used], [[row[i] for i in used] for row in rows])


def sparkline(schedule: Schedule, width: int = WIDTH) -> str:
    """The rates as bars of eight heights, each the mean over its share of the run."""
    bars = BARS[0]
    try:
        bars.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        bars = BARS[1]
    lr, cells = schedule.lr, min(width, len(schedule.lr))
    ends = [len(lr) * i // cells for i in range(cells + 1)]
    top = max(lr) or 1.0
    means = [math.fsum(lr[a:b]) / (b - a) / top for a, b in itertools.pairwise(ends)]
    return "".join(bars[min(int(mean * len(bars)), len(bars) - 1)] for mean in means)


def _show_differences(differences: Sequence[Difference]) -> None:
    if not differences:
        return
    header = ["compared", "first difference", "updates that differ", "largest difference",
              "sum of lr"]  # fmt: skip
    rows = []
    for found in differences:
        if not found.differing:
            rows.append([f"{found.second} - {found.first}", "none", "0", "0", "equal"])
            continue
        rows.append(
            [
                f"{found.second} - {found.first}",
                f"update {found.differing[0]}",
                str(len(found.differing)),
                f"{100 * found.largest:.3g}% of the peak at update {found.largest_at}",
                f"{found.lost_updates:+.4g} updates at the peak",
            ]
        )
    show.write_table(header, rows)


def csv_text(view: View) -> str:
    """A row for each update of each schedule."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["schedule", "update", "epoch", "examples", "batch_size", "lr"])
    for schedule in view.schedules:
        progress = schedule.progress
        for t, lr in enumerate(schedule.lr):
            passed = progress.epochs(t)
            epoch = "" if passed is None else repr(float(passed))
            size = progress.batch_size_at(t)
            writer.writerow([schedule.name, t, epoch, progress.examples(t), size, repr(lr)])
    return text.getvalue()


def plain(view: View) -> dict[str, Any]:
    """The view as plain values; `examples` and `epochs` are those of the whole run."""
    return {
        "title": view.title,
        "notes": list(view.notes),
        "infeasible": dict(view.refused),
        "schedules": [_plain_schedule(schedule) for schedule in view.schedules],
        "differences": [
            {
                "first": found.first,
                "second": found.second,
                "first_difference": found.differing[0] if found.differing else None,
                "updates_that_differ": len(found.differing),
                "largest_share_of_peak": found.largest,
                "largest_at": found.largest_at,
                "area_updates_at_peak": found.lost_updates,
            }
            for found in (view.differences() if view.diff else [])
        ],
    }


def _plain_schedule(schedule: Schedule) -> dict[str, Any]:
    count, progress = len(schedule.lr), schedule.progress
    epochs = progress.epochs(count)
    return {
        "name": schedule.name,
        "updates": count,
        "epochs": None if epochs is None else float(epochs),
        "examples": progress.examples(count),
        "batch_size": progress.batch_size_at(0),
        "batch_size_changes": [list(pair) for pair in progress.growth()],
        "peak": schedule.peak,
        "peak_provenance": schedule.about or None,
        "warmup_updates": schedule.warmup_updates,
        "first_at_peak": schedule.first_at_peak,
        "area_updates_at_peak": schedule.area,
        "lr": list(schedule.lr),
    }


def conventions_table() -> str:
    """What every convention does with "linear warmup over W updates", as a Markdown table."""
    header = (
        "| convention | factor of the peak at t < W | updates 0 to 7, W = 5 | least W | "
        "`start` | version and call |"
    )
    lines = [header, "|---|---|---|---|---|---|"]
    for convention in CONVENTIONS.values():
        shown = " ".join(
            f"{rate:.3f}".rstrip("0").rstrip(".") for rate in _eight(convention.name)
        )
        takes = "yes" if convention.takes_start else "no"
        cells = (f"`{convention.name}`", convention.formula, shown, str(convention.minimum),
                 takes, convention.source)  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _eight(name: str) -> list[float]:
    """Of updates 0 to 7 of a run of 20, the length of a decay that is part of a convention."""
    return rates(name, 5, 20)[:8]
