"""What the verbs return, as text for people and as plain values for `--json`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from batchcliff.canonical import to_plain
from batchcliff.study.printable import json_text, printable
from batchcliff.study.progress import duration_text

if TYPE_CHECKING:
    from batchcliff.machine import Check
    from batchcliff.planning import Plan, PlannedTrial
    from batchcliff.standing import CellStatus, Status
    from batchcliff.study.cost import Cost

PIPE_WIDTH = 160  # columns where the output is no terminal and nothing need be cut


def write_json(value: Any) -> None:
    """`value` (dataclasses allowed) as one JSON document on standard output."""
    sys.stdout.write(json_text(to_plain(value)) + "\n")


def write(*lines: str) -> None:
    """Lines on standard output, with nothing in them that a terminal acts on."""
    for line in lines:
        sys.stdout.write(printable(line, limit=10_000) + "\n")


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """A table with its first `left` columns aligned to the left."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def cost_text(cost: Cost) -> str:
    """The expected time, and what it was computed from."""
    if cost.seconds is None:
        return f"expected time: {cost.basis}"
    return f"expected time: {duration_text(cost.seconds)} of training ({cost.basis})"


def show_plan(plan: Plan) -> None:
    """A row for each cell, what is infeasible and why, and the expected time."""
    study = plan.study
    todo = len(plan.trials) - plan.done - plan.infeasible
    grid = (
        f"{len(study.arms)} arms x {len(study.batch_sizes)} batch sizes x "
        f"{len(study.seeds)} seeds"
    )
    if study.search is not None:
        grid = f"the search so far and its next round, at most {plan.most}"
    write(
        f"study {study.name}: {len(plan.trials)} trials = {grid}; workload "
        f"{study.workload}, data {study.data}, {study.budget} each"
        + (", or longer" if any(t.spec.budget != study.budget for t in plan.trials) else ""),
        f"data: {plan.data_source}",
        f"folder: {plan.folder}",
        *([f"ranks: every batch is shared by {plan.ranks} processes"] * (plan.ranks > 1)),
        "",
    )
    header = ("arm", "batch", "learning rate", "updates/epoch", "updates", "warmup updates",
              "norm group", "left out", "trials")  # fmt: skip
    write_table(header, [_plan_row(cell) for cell in _cells(plan)])
    write(
        "",
        "batch: examples per update; norm group: examples that share batch-norm statistics; "
        "left out: examples that an epoch skips",
    )
    for cell in _cells(plan):
        write(*_stages(cell[0]))
    for reason in dict.fromkeys(t.infeasible for t in plan.trials if t.infeasible):
        write(f"infeasible: {reason}")
    if plan.tuning:
        write(*_tuning_lines(plan))
    write(*plan.search)
    write(f"to run: {todo}, done: {plan.done}, infeasible: {plan.infeasible}")
    write(cost_text(plan.cost))
    if plan.differences:
        what = "another study, so `run` will refuse (name one with --out):"
        if plan.extends:
            what = "a part of this study; `run --extend` adds the rest:"
        write("", f"The folder holds {what}")
        write(*(f"  {line}" for line in plan.differences))


def _tuning_lines(plan: Plan) -> list[str]:
    """What runs before the learning rates are chosen."""
    cells = len({(t.spec.arm, t.spec.batch_size) for t in plan.tuning})
    done = sum(bool(trial.outcome) for trial in plan.tuning)
    each, share = len(plan.tuning) // cells, plan.tuning[0].spec.validation
    left = sum(bool(t.ledger) and not t.outcome for t in plan.tuning)
    first = (
        f"first, to choose learning rates: {len(plan.tuning)} trials = {cells} cells x {each}, "
        f"judged by {share:.3g} of the training set, which they do not train on; to run: "
        f"{left}, done: {done}"
    )
    reasons = dict.fromkeys(t.infeasible for t in plan.tuning if t.infeasible)
    return [first, *(f"infeasible, of these: {reason}" for reason in reasons)]


def _cells(plan: Plan) -> list[list[PlannedTrial]]:
    """Trials that differ in the seed alone: arms as in the file, batch sizes ascending."""
    order = {arm.name: index for index, arm in enumerate(plan.study.arms)}
    cells: dict[tuple[int, int], list[PlannedTrial]] = {}
    for trial in plan.trials:
        cells.setdefault((order[trial.spec.arm], trial.spec.batch_size), []).append(trial)
    return [cells[key] for key in sorted(cells)]


def _plan_row(cell: list[PlannedTrial]) -> tuple[str, ...]:
    first = cell[0]
    head = (first.spec.arm, str(first.spec.batch_size), first.lr_provenance)
    if (ledger := first.ledger) is None:
        return (*head, "", "", "", "", "", f"{len(cell)} infeasible")
    done = sum(bool(trial.outcome) for trial in cell)
    counted = f"{len(cell)} ({done} done)" if done else str(len(cell))
    warmup = str(ledger.warmup_updates) if ledger.warmup_updates else "none"
    return (
        *head,
        f"{ledger.updates_per_epoch:g}",
        str(ledger.updates),
        warmup,
        str(ledger.batch_norm_group),
        str(ledger.dropped_per_epoch),
        counted,
    )


def _stages(trial: PlannedTrial) -> list[str]:
    """Where the batch size changes: every size, its updates and rate, in a line."""
    if trial.ledger is None or not trial.ledger.stages:
        return []
    parts = [
        f"{s.updates:,} updates of {s.batch_size} at {s.lr:g}" for s in trial.ledger.stages
    ]
    return [f"{trial.spec.arm}, batch {trial.spec.batch_size}: {', then '.join(parts)}"]


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, for scripts."""
    return {
        "study": to_plain(plan.study),
        "folder": str(plan.folder),
        "data_source": plan.data_source,
        "trials": [
            {
                "trial_id": t.spec.trial_id if t.spec.data_digest else None,
                "arm": t.spec.arm,
                "batch_size": t.spec.batch_size,
                "seed": t.spec.seed,
                "lr": t.spec.lr,
                "lr_provenance": t.lr_provenance,
                "ledger": to_plain(t.ledger),
                "infeasible": t.infeasible or None,
                "outcome": t.outcome or None,
            }
            for t in plan.trials
        ],
        "tuning": [
            {
                "arm": t.spec.arm,
                "batch_size": t.spec.batch_size,
                "seed": t.spec.seed,
                "lr": t.spec.lr,
                "validation": t.spec.validation,
                "ledger": to_plain(t.ledger),
                "infeasible": t.infeasible or None,
                "outcome": t.outcome or None,
            }
            for t in plan.tuning
        ],
        "to_run": len(plan.trials) - plan.done - plan.infeasible,
        "done": plan.done,
        "infeasible": plan.infeasible,
        "expected_seconds": plan.cost.seconds,
        "expected_basis": plan.cost.basis,
        "differences": list(plan.differences),
        "extends": plan.extends,
        "ranks": plan.ranks,
    } | ({"search": list(plan.search), "most": plan.most} if plan.search else {})


def write_ids(plan: Plan, *, as_json: bool) -> None:
    """The ids of the trials that have no outcome. Raises UsageError if they are not known."""
    if as_json:
        write_json(plan.missing_ids)
    else:
        write(*plan.missing_ids)


def show_status(status: Status) -> None:
    """A row for each cell: how its trials ended, and the mean accuracy of those that are ok."""
    from batchcliff.standing import suspects_text

    write(f"study {status.study.name} in {status.folder}", "")
    total = status.counts
    shown = [name for name in total if name in ("ok", "missing") or total[name]]
    rows = []
    for cell in status.cells:
        accuracy = "" if cell.accuracy is None else f"{cell.accuracy:.4f}"
        counts = [_counted(cell, name) for name in shown]
        rows.append((cell.arm, str(cell.batch_size), str(cell.planned), *counts, accuracy))
    rows.append(("all", "", str(status.planned), *(str(total[name]) for name in shown), ""))
    write_table(("arm", "batch size", "planned", *shown, "mean accuracy"), rows)
    if status.tuning:
        write("", "trials that choose learning rates, judged by held-out training examples:")
        write_table(
            ("arm", "batch size", "planned", "measured", "missing"), _tuning_rows(status)
        )
    write(*([""] if status.search else []), *status.search)
    for name in status.quarantined:
        write(f"quarantined: {name} was damaged; its trial runs again")
    if status.suspects:
        write("", suspects_text(status.suspects))
    if total["missing"] or any(cell.counts["missing"] for cell in status.tuning):
        write("", cost_text(status.cost))


def _tuning_rows(status: Status) -> list[tuple[str, ...]]:
    return [
        (
            cell.arm,
            str(cell.batch_size),
            str(cell.planned),
            str(cell.counts["ok"] + cell.counts["diverged"]),
            _counted(cell, "missing"),
        )
        for cell in status.tuning
    ]


def _counted(cell: CellStatus, name: str) -> str:
    """How many trials of a cell, and of the missing ones how many are suspects."""
    suspects = cell.suspects if name == "missing" else 0
    return f"{cell.counts[name]} ({suspects} suspect)" if suspects else str(cell.counts[name])


def status_json(status: Status) -> dict[str, Any]:
    """The status as plain values, for scripts."""
    return {
        "study": status.study.name,
        "folder": str(status.folder),
        "planned": status.planned,
        "counts": status.counts,
        "cells": to_plain(status.cells),
        "tuning": to_plain(status.tuning),
        "quarantined": list(status.quarantined),
        "search": list(status.search),
        "suspects": to_plain(status.suspects),
        "expected_seconds": status.cost.seconds,
        "expected_basis": status.cost.basis,
    }


def show_checks(checks: Sequence[Check]) -> None:
    """A line for each check, then what to do."""
    rows = [("ok" if c.fine else "MISSING", c.what, c.found) for c in checks]
    write_table(("", "what", "found"), rows, left=3)
    advice = [c for c in checks if c.advice]
    if advice:
        write("")
    for check in advice:
        write(f"{check.what}: {check.advice}")
