"""The verbs: plan, run, status, report, export, import_, target, advise, diagnose, init,
schedule, doctor. The command line calls these.

Each returns a frozen value and prints nothing. Importing this module imports no torch; only
`run` and `doctor` do, when they are called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff.canonical import parse_json
from batchcliff.diagnosing import diagnose
from batchcliff.errors import UsageError, did_you_mean
from batchcliff.importing import ImportReport, find_imported, import_, report_imported
from batchcliff.planning import (
    STUDIES,
    Plan,
    PlannedTrial,
    check_device,
    folder_of,
    lr_choices,
    plan,
    resolved,
    usual_workers,
    with_weights,
)
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.study.cost import Cost, expected
from batchcliff.study.printable import escaped, json_text, printable
from batchcliff.study.progress import Progress, SilentProgress
from batchcliff.study.tuning import reported_plan, tuning_records
from batchcliff.studyfile import load_study, recipe_text
from batchcliff.workloads import load_workload

if TYPE_CHECKING:
    from batchcliff.advising import Advised
    from batchcliff.machine import Check
    from batchcliff.schedule_view.view import View
    from batchcliff.stats.budget import Budget
    from batchcliff.study.store import Store
    from batchcliff.study.supervisor import RunSummary

__all__ = [
    "CellStatus",
    "ImportReport",
    "Plan",
    "PlannedTrial",
    "Report",
    "Status",
    "advise",
    "diagnose",
    "doctor",
    "export",
    "find_study",
    "import_",
    "init",
    "plan",
    "report",
    "run",
    "schedule",
    "status",
    "target",
]

FORMATS = ("csv", "json", "md")
COUNTS = (*(outcome.value for outcome in Outcome), "missing")


@dataclass(frozen=True, kw_only=True, slots=True)
class CellStatus:
    """How the trials of one cell ended; `counts` has every outcome, and "missing".

    planned = ok + diverged + infeasible + oom + timeout + failed + missing, always.
    """

    arm: str
    batch_size: int
    planned: int
    counts: dict[str, int]
    accuracy: float | None  # mean over the ok trials, running batch-norm statistics

    def __post_init__(self) -> None:
        assert self.planned == sum(self.counts.values()), self


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How far a study is: a row for each cell."""

    study: StudySpec
    folder: Path
    cells: tuple[CellStatus, ...]
    quarantined: tuple[str, ...]
    cost: Cost  # of the missing trials
    tuning: tuple[CellStatus, ...] = ()  # the trials that choose rates; validation accuracy
    search: tuple[str, ...] = ()  # of an adaptive study: what is known of each cliff, in words

    @property
    def planned(self) -> int:
        """Trials of all cells."""
        return sum(cell.planned for cell in self.cells)

    @property
    def counts(self) -> dict[str, int]:
        """The counts of all cells."""
        return {name: sum(cell.counts[name] for cell in self.cells) for name in COUNTS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Where a report's page lies, and what it says in a sentence or two."""

    page: Path
    headlines: tuple[str, ...]


def run(
    study: StudySpec | str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    workload: str | None = None,
    progress: Progress | None = None,
    extend: bool = False,
    accept_code_change: bool = False,
    weights: str | Path | None = None,
    checkpoint_every: float = 120.0,
    micro_batch: int | str | None = None,
    deterministic: bool = False,
    grace: float | None = None,
    ranks: int = 1,
) -> RunSummary:
    """Run what is missing of a study; the same call resumes one that was interrupted.

    study, out, data, workload: as for `plan`; device: "auto", "cpu", "cuda" or "cuda:0";
    workers: processes that train side by side, None for as many as fit; extend: the study may
    be the one in the folder with more seeds, batch sizes or arms, which are added to it;
    accept_code_change: go on although the code that trains is another than in the folder;
    weights: a safetensors file to begin with in place of the study's own pretraining;
    checkpoint_every: seconds after which a trial that is under way is saved at the end of an
    epoch, so that a run that is interrupted goes on from there; 0: never;
    micro_batch: most examples that pass through a network at once in training, with the result
    of the whole batch; "auto": smaller ones after an out-of-memory; None: "auto" on a GPU;
    deterministic: the same bits again on the same machine, at some cost in time;
    ranks: processes that share every batch of a trial, each on a GPU of its own;
    grace: seconds that trials have to be saved after a signal, None: 8 after Ctrl-C, else 25.
    Returns the counts by outcome, the exit code and the folder. Raises UsageError (nothing
    was written), DataError, StorageError (resumable).
    """
    check_device(device)
    own = load_workload(workload) if workload else None
    spec = with_weights(resolved(study, own), weights)
    from batchcliff.stats.search import search
    from batchcliff.stats.tuning import best_lr
    from batchcliff.study import supervisor

    shown, exit_code = progress or SilentProgress(), 1
    try:
        summary = supervisor.run_study(
            spec,
            folder=folder_of(spec, out),
            data=Path(data) if data else None,
            device=device,
            workers=workers,
            progress=shown,
            workload_reference=workload,
            extend=extend,
            accept_code_change=accept_code_change,
            weights=Path(weights) if weights else None,
            checkpoint_every=checkpoint_every,
            micro_batch=micro_batch,
            deterministic=deterministic,
            grace=grace,
            ranks=ranks,
            choose=best_lr,
            seek=search,
        )
        exit_code = summary.exit_code
    finally:
        shown.ended(exit_code=exit_code)
    return summary


def find_study(name: str | Path) -> Path:
    """The folder of a study: a path, or a name that means studies/NAME.

    Raises UsageError with the nearest study that there is.
    """
    from batchcliff.study.identity import STUDY

    given = Path(name)
    with contextlib.suppress(OSError, ValueError):  # what no path can be is no study either
        for folder in (given, STUDIES / given):
            if (folder / STUDY).is_file():
                return folder
        if given.suffix == ".toml" and given.is_file():
            return find_study(STUDIES / load_study(given).name)
    if find_imported(name) is not None:
        raise UsageError(
            f"{printable(name)!r} is an imported table, not a study: no trial of it ran here. "
            "`batchcliff report` shows it."
        )
    known = sorted(p.parent.name for p in STUDIES.glob(f"*/{STUDY}"))
    hint = did_you_mean(given.name, known) if known else " `batchcliff run` makes one."
    raise UsageError(f"no study at {printable(name)!r}.{hint}")


def _cells(
    store: Store, records: Mapping[str, TrialRecord]
) -> dict[tuple[str, int], list[TrialRecord | None]]:
    """The records of each cell, under the arm's name of the plan; None for a missing one.

    An arm's name is a label and no part of a trial's id, so two arms may share a record.
    records: of the store, by trial id.
    """
    cells: dict[tuple[str, int], list[TrialRecord | None]] = {}
    for planned in reported_plan(store):
        record = records.get(planned.trial_id)
        if record is not None and record.spec.arm != planned.arm:
            labelled = dataclasses.replace(record.spec, arm=planned.arm)
            record = dataclasses.replace(record, spec=labelled)
        cells.setdefault((planned.arm, planned.batch_size), []).append(record)
    order = {arm.name: index for index, arm in enumerate(store.study.arms)}
    return dict(sorted(cells.items(), key=lambda item: (order.get(item[0][0], 0), item[0][1])))


def status(study: str | Path) -> Status:
    """How far the study in a folder is. Raises UsageError if there is none."""
    from batchcliff.study.store import Store

    folder = find_study(study)
    with Store.open(folder) as store:
        records = store.records()
        cells, tuning = _cells(store, records), tuning_records(store, records)
        spec, bad = store.study, tuple(q.name for q in store.quarantined)
    cells_left = [*cells.items(), *tuning.items()]
    return Status(
        study=spec,
        folder=folder,
        cells=tuple(_cell_status(*cell, found) for cell, found in cells.items()),
        quarantined=bad,
        cost=_cost_left(cells_left),
        tuning=tuple(_cell_status(*cell, found) for cell, found in tuning.items()),
        search=_searched(spec, cells),
    )


def _searched(
    study: StudySpec, cells: dict[tuple[str, int], list[TrialRecord | None]]
) -> tuple[str, ...]:
    """What an adaptive study knows of each cliff by the records of its cells."""
    if study.search is None:
        return ()
    from batchcliff.stats.search import brackets

    every = [r for found in cells.values() for r in found if r is not None]
    found = {(r.spec.arm, r.spec.batch_size, r.spec.seed): r for r in every}
    return brackets(study, found).lines


def _cell_status(arm: str, batch_size: int, found: list[TrialRecord | None]) -> CellStatus:
    counts = dict.fromkeys(COUNTS, 0)
    for record in found:
        counts["missing" if record is None else record.outcome.value] += 1
    ok = [r.accuracy for r in found if r and r.outcome is Outcome.OK and r.accuracy is not None]
    return CellStatus(
        arm=arm,
        batch_size=batch_size,
        planned=len(found),
        counts=counts,
        accuracy=math.fsum(ok) / len(ok) if ok else None,
    )


def _cost_left(cells: list[tuple[tuple[str, int], list[TrialRecord | None]]]) -> Cost:
    """Of the missing trials, where each of their batch sizes has a trial that has run."""
    records = [record for _, found in cells for record in found if record is not None]
    examples = {r.spec.batch_size: r.ledger.examples for r in records if r.ledger}
    missing = [size for (_, size), found in cells for r in found if r is None]
    if any(size not in examples for size in missing):
        return Cost(seconds=None, basis="unknown until each batch size has run; see `plan`")
    work = [(size, examples[size]) for size in missing]
    return expected(work, records, workers=usual_workers("auto"))


def export(study: str | Path, *, format: str = "csv") -> str:  # noqa: A002
    """A row per trial as text: "csv", "json" or "md". Raises UsageError."""
    from batchcliff.report import tables
    from batchcliff.study.store import Store

    if format not in FORMATS:
        raise UsageError(
            f"unknown format {printable(format)!r}.{did_you_mean(format, FORMATS)}"
        )
    with Store.open(find_study(study)) as store:
        cells = _cells(store, store.records())
    found = [r for cell in cells.values() for r in cell if r is not None]
    rows = tables.trial_rows(found)
    if format == "json":
        return json_text(rows) + "\n"
    rows = [{k: escaped(v) if isinstance(v, str) else v for k, v in r.items()} for r in rows]
    if format == "csv":
        return tables.csv_text(rows)
    shown = [["" if v is None else str(v) for v in row.values()] for row in rows]
    return tables.markdown_table(tables.TRIAL_COLUMNS, shown)


def report(study: str | Path, *, out: str | Path | None = None) -> Report:
    """Write the report of a study or an imported table, by default into its folder's report/.

    Raises UsageError if there is neither, StorageError if the folder cannot be written to.
    """
    if (table := find_imported(study)) is not None:
        shown = report_imported(table, out)
        return Report(page=shown.page, headlines=(*shown.headlines, shown.marks[0]))
    folder = find_study(study)
    from batchcliff.report.vega import Engine
    from batchcliff.study.store import Store

    with Engine() as engine:  # it starts while records are read
        with Store.open(folder) as store:
            records = store.records()
            cells = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in reported_plan(store)]
            choices = lr_choices(store, records)
            spec, quarantined = store.study, [q.name for q in store.quarantined]
        from batchcliff.report import write_report

        place = Path(out) if out is not None else folder / "report"
        written = write_report(
            spec,
            list(records.values()),
            cells,
            place,
            quarantined=quarantined,
            choices=choices,
            engine=engine,
        )
    summary = parse_json(written.summary.read_bytes())
    return Report(page=written.page, headlines=tuple(summary["headline"]))


def target(study: str | Path, accuracy: float | None = None) -> tuple[Budget, ...]:
    """Updates to `accuracy`, a share, at each batch size of each arm, with the knee.

    None: the accuracy of the study's own budget. Only trials that were evaluated during the
    run can say when they reached it. Raises UsageError if there is no study, no arm with a
    measured trial, or no accuracy.
    """
    from batchcliff.stats.budget import budget
    from batchcliff.study.store import Store

    with Store.open(find_study(study)) as store:
        cells = _cells(store, store.records())
        own = store.study.settings.stop.accuracy
    if accuracy is None and not own:
        raise UsageError(
            f"the budget of {printable(study)!r} is no accuracy: name one, such as 0.9"
        )
    records = [record for found in cells.values() for record in found if record is not None]
    measured = [r for r in records if r.outcome in (Outcome.OK, Outcome.DIVERGED)]
    arms = dict.fromkeys(record.spec.arm for record in measured)
    if not arms:
        raise UsageError(f"{printable(study)!r} has no measured trial yet")
    wanted = own if accuracy is None else accuracy
    return tuple(budget(measured, arm, wanted) for arm in arms)


def advise(study: str | Path) -> Advised:
    """The largest safe batch size of a study or an imported table, with its settings, what it
    gains, why not more, and what was not tested (docs/advice.md).

    `batchcliff.advising.exported` writes it as settings. Raises UsageError if there is no
    such study, or if no estimate can be made of it.
    """
    from batchcliff.advising import advise_imported, advise_study

    if (table := find_imported(study)) is not None:
        return advise_imported(table)
    return advise_study(find_study(study))


def init(recipe: str) -> str:
    """The text of a recipe, to start a study file from. Raises UsageError."""
    return recipe_text(recipe)


def schedule(
    *names: str,
    arms: Sequence[str] = (),
    conventions: Sequence[str] = (),
    diff: bool = False,
    batch_size: int | None = None,
    budget: str | None = None,
    warmup: str | None = None,
    lr: str | None = None,
    decay: str | None = None,
    num_examples: int | None = None,
    updates_per_epoch: int | None = None,
    remainder: str | None = None,
    overrides: Sequence[str] = (),
    workload: str | None = None,
    data: str | Path | None = None,
) -> View:
    """The learning rate of every update: `schedule("article").schedules[0].lr`.

    Names and options are those of `batchcliff schedule`, as texts: a study or recipe and some
    of its arms, or conventions, or with `warmup`, `lr`, `decay` and `budget` a schedule of its
    own; `diff`: `.differences()` compares with the first. Raises UsageError.
    """
    from batchcliff.schedule_view.make import Asked, make_view

    asked = Asked(
        names=names,
        arms=tuple(arms),
        conventions=tuple(conventions),
        diff=diff,
        batch_size=batch_size,
        budget=budget,
        warmup=warmup,
        lr=lr,
        decay=decay,
        num_examples=num_examples,
        updates_per_epoch=updates_per_epoch,
        remainder=remainder,
        overrides=tuple(overrides),
        workload=workload,
        data=Path(data) if data else None,
    )
    return make_view(asked)


def doctor(*, data: str | Path | None = None) -> tuple[Check, ...]:
    """What this machine has and lacks: Python, torch, devices, memory, threads, data."""
    from batchcliff.machine import checks

    return checks(Path(data) if data else None)
