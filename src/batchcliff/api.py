"""The verbs: plan, run, status, report, export, import_, target, advise, compare, diagnose,
init, schedule, doctor. The command line calls these.

Each returns a frozen value and prints nothing. Importing this module imports no torch; only
`run` and `doctor` do, when they are called.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff.canonical import uncollected
from batchcliff.comparing import compare
from batchcliff.diagnosing import diagnose
from batchcliff.errors import UsageError, did_you_mean
from batchcliff.importing import ImportReport, find_imported, import_, report_imported
from batchcliff.naming import begun, folder_of, resolved, with_weights
from batchcliff.planning import Plan, PlannedTrial, check_device, lr_choices, plan
from batchcliff.record import Outcome
from batchcliff.spec import StudySpec
from batchcliff.standing import CellStatus, Status, cells_of, find_study, status, suspects_text
from batchcliff.study.named import check_ids
from batchcliff.study.printable import escaped, json_text, printable
from batchcliff.study.progress import Progress, SilentProgress
from batchcliff.study.tuning import reported_plan
from batchcliff.studyfile import recipe_text
from batchcliff.trace import mark
from batchcliff.workloads import load_workload

if TYPE_CHECKING:
    from batchcliff.advising import Advised
    from batchcliff.advising.probe import Probed
    from batchcliff.machine import Check
    from batchcliff.schedule_view.view import View
    from batchcliff.stats.budget import Budget
    from batchcliff.study.options import RunOptions
    from batchcliff.study.supervisor import RunSummary

__all__ = [
    "CellStatus",
    "ImportReport",
    "Plan",
    "PlannedTrial",
    "Report",
    "Status",
    "advise",
    "compare",
    "diagnose",
    "doctor",
    "export",
    "find_study",
    "import_",
    "init",
    "plan",
    "probe",
    "report",
    "run",
    "schedule",
    "status",
    "target",
]

FORMATS = ("csv", "json", "md")


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
    shared: bool = False,
    weights: str | Path | None = None,
    checkpoint_every: float = 120.0,
    micro_batch: int | str | None = None,
    deterministic: bool = False,
    grace: float | None = None,
    ranks: int = 1,
    verify: bool = False,
    allow_mixed_numerics: bool = False,
    only: Sequence[str] | None = None,
) -> RunSummary:
    """Run what is missing of a study; the same call resumes one that was interrupted.

    study, out, data, workload: as for `plan`; device: "auto", "cpu", "cuda" or "cuda:0";
    workers: processes that train side by side, None for as many as fit; extend: the study may
    be the one in the folder with more seeds, batch sizes or arms, which are added to it;
    accept_code_change: go on although the code that trains is another than in the folder;
    shared: the study is for all users of its folder's group, who each say so;
    weights: a safetensors file to begin with in place of the study's own pretraining;
    checkpoint_every: seconds after which a trial that is under way is saved at the end of an
    epoch, so that a run that is interrupted goes on from there; 0: never;
    micro_batch: most examples that pass through a network at once in training, with the result
    of the whole batch; "auto": smaller ones after an out-of-memory; None: "auto" on a GPU;
    deterministic: the same bits again on the same machine, at some cost in time;
    ranks: processes that share every batch of a trial, each on a GPU of its own;
    grace: seconds that trials have to be saved after a signal, None: 8 after Ctrl-C, else 25;
    verify: hash every file of the data again, whatever its size and times say;
    allow_mixed_numerics: go on with trials that were begun under other numerics;
    only: ids of the trials to run, and no other, for a scheduler (docs/clusters.md): the counts
    and the exit code are of these, 75 where another process runs one of them.
    Returns the counts by outcome, the exit code and the folder. Raises UsageError (nothing
    was written), DataError, StorageError (resumable).
    """
    check_device(device)
    check_ids(only)
    own = load_workload(workload) if workload else None
    spec = with_weights(resolved(study, own), weights)
    from batchcliff.study.options import RunOptions

    options = RunOptions(
        data=Path(data) if data else None, device=device, workers=workers,
        workload_reference=workload, extend=extend, accept_code_change=accept_code_change,
        shared=shared, weights=Path(weights) if weights else None,
        checkpoint_every=checkpoint_every, micro_batch=micro_batch,
        deterministic=deterministic, grace=grace, ranks=ranks, verify=verify,
        allow_mixed_numerics=allow_mixed_numerics, only=None if only is None else tuple(only),
    )  # fmt: skip
    folder = folder_of(spec, out or begun(study))
    return _run(spec, folder, options, progress or SilentProgress())


def _run(study: StudySpec, folder: Path, options: RunOptions, progress: Progress) -> RunSummary:
    """Workers start first; what this process needs of the package is imported meanwhile."""
    from batchcliff.study import sharing
    from batchcliff.study.ahead import started_ahead

    plain = options.ranks == 1 and not options.deterministic and options.only is None
    exit_code, device, workers = 1, options.device, options.workers
    umask = os.umask(sharing.UMASK) if options.shared else None
    try:
        with started_ahead(study, folder, device=device, workers=workers, plain=plain):
            from batchcliff.stats.search import search
            from batchcliff.stats.tuning import best_lr
            from batchcliff.study import supervisor

            summary = supervisor.run_study(
                study,
                folder=folder,
                progress=progress,
                options=options,
                choose=best_lr,
                seek=search,
            )
        mark("the workers are gone")
        exit_code = summary.exit_code
    finally:
        if umask is not None:
            os.umask(umask)
        progress.ended(exit_code=exit_code)
    return summary


@uncollected()
def export(study: str | Path, *, format: str = "csv") -> str:  # noqa: A002
    """A row per trial as text: "csv", "json" or "md". Raises UsageError."""
    from batchcliff.report import tables
    from batchcliff.study.store import Store

    if format not in FORMATS:
        raise UsageError(
            f"unknown format {printable(format)!r}.{did_you_mean(format, FORMATS)}"
        )
    with Store.open(find_study(study)) as store:
        cells = cells_of(store, store.records())
    found = [r for cell in cells.values() for r in cell if r is not None]
    rows = tables.trial_rows(found)
    if format == "json":
        return json_text(rows) + "\n"
    rows = [{k: escaped(v) if isinstance(v, str) else v for k, v in r.items()} for r in rows]
    if format == "csv":
        return tables.csv_text(rows)
    shown = [["" if v is None else str(v) for v in row.values()] for row in rows]
    return tables.markdown_table(tables.TRIAL_COLUMNS, shown)


@uncollected()
def report(study: str | Path, *, out: str | Path | None = None) -> Report:
    """Write the report of a study or an imported table, by default into its folder's report/.

    Raises UsageError if there is neither, StorageError if the folder cannot be written to.
    """
    if (table := find_imported(study)) is not None:
        shown = report_imported(table, out)
        return Report(page=shown.page, headlines=(*shown.headlines, shown.marks[0]))
    folder = find_study(study)
    from batchcliff.data.sources import default_folder
    from batchcliff.report import vega
    from batchcliff.study.sharing import plain_folder
    from batchcliff.study.store import Store

    vega.start(default_folder())  # while records are read
    with Store.open(folder) as store:
        records = store.records()
        cells = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in reported_plan(store)]
        choices = lr_choices(store, records)
        spec, aside = store.study, [q.name for q in store.quarantined]
        suspects = store.suspects(records)
    mark("the records are read")
    from batchcliff.report import write_report

    found = list(records.values())
    place = Path(out) if out is not None else plain_folder(folder / "report")
    cautions = [suspects_text(suspects)] if suspects else []
    written = write_report(
        spec, found, cells, place, quarantined=aside, choices=choices, cautions=cautions
    )
    mark("the report is written")
    return Report(page=written.page, headlines=written.headline)


def prepare_report() -> None:
    """Import what a report needs and start what draws it, which takes two or three seconds, so
    that the next report need not. What is wrong here is told when a report is written."""
    with contextlib.suppress(Exception):
        import batchcliff.report.write  # noqa: F401
        from batchcliff.data.sources import default_folder
        from batchcliff.report import vega

        vega.start(default_folder())


def target(study: str | Path, accuracy: float | None = None) -> tuple[Budget, ...]:
    """Updates to `accuracy`, a share, at each batch size of each arm, with the knee.

    None: the accuracy of the study's own budget. Only trials that were evaluated during the
    run can say when they reached it. Raises UsageError if there is no study, no arm with a
    measured trial, or no accuracy.
    """
    from batchcliff.stats.budget import budget
    from batchcliff.study.store import Store

    with Store.open(find_study(study)) as store:
        cells = cells_of(store, store.records())
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


def probe(
    study: str | Path | None = None,
    *,
    workload: str | None = None,
    arm: str | None = None,
    seconds: float = 60.0,
    device: str = "auto",
    data: str | Path | None = None,
) -> Probed:
    """`advise --probe`: predictions of a short run, where no study exists (docs/advice.md).

    study: a study file or a recipe's name; with `workload`, `module:function`, it may be left
    out. arm: None for the reference; seconds: of measuring, without the start of two
    processes. Writes nothing. Raises UsageError, DataError.
    """
    from batchcliff.advising.probe import advise_probe

    return advise_probe(
        study, workload=workload, arm=arm, seconds=seconds, device=device, data=data
    )


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
