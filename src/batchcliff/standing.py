"""Studies that have been begun: where they lie, and how far they are."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff.canonical import uncollected
from batchcliff.errors import UsageError, did_you_mean
from batchcliff.importing import find_imported
from batchcliff.naming import STUDIES
from batchcliff.planning import usual_workers
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.study.cost import Cost, expected
from batchcliff.study.printable import printable
from batchcliff.study.progress import trial_text
from batchcliff.study.tuning import reported_plan, tuning_records
from batchcliff.studyfile import load_study

if TYPE_CHECKING:
    from batchcliff.study.plan import Planned
    from batchcliff.study.store import Store


MOST_NAMED = 6  # trials in one sentence

COUNTS = (*(outcome.value for outcome in Outcome), "missing")


@dataclass(frozen=True, kw_only=True, slots=True)
class CellStatus:
    """How the trials of one cell ended; `counts` has every outcome, and "missing".

    planned = ok + diverged + infeasible + oom + timeout + failed + missing, always.
    suspects: of the missing, those that a run has left for the next one.
    """

    arm: str
    batch_size: int
    planned: int
    counts: dict[str, int]
    accuracy: float | None  # mean over the ok trials, running batch-norm statistics
    suspects: int = 0

    def __post_init__(self) -> None:
        assert self.planned == sum(self.counts.values()), self
        assert not self.suspects or self.suspects <= self.counts["missing"], self


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
    suspects: tuple[Planned, ...] = ()  # of all missing trials, see `suspects_text`

    @property
    def planned(self) -> int:
        """Trials of all cells."""
        return sum(cell.planned for cell in self.cells)

    @property
    def counts(self) -> dict[str, int]:
        """The counts of all cells."""
        return {name: sum(cell.counts[name] for cell in self.cells) for name in COUNTS}


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


def cells_of(
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


@uncollected()
def status(study: str | Path) -> Status:
    """How far the study in a folder is. Raises UsageError if there is none."""
    from batchcliff.study.store import Store

    folder = find_study(study)
    with Store.open(folder) as store:
        records = store.records()
        cells, tuning = cells_of(store, records), tuning_records(store, records)
        search = _searched(store, records)
        suspects = tuple(store.suspects(records))
        spec, bad = store.study, tuple(q.name for q in store.quarantined)
    suspect = Counter((one.tuning, one.arm, one.batch_size) for one in suspects)
    cells_left = [*cells.items(), *tuning.items()]
    return Status(
        study=spec,
        folder=folder,
        cells=tuple(
            _cell_status(*cell, found, suspect[False, *cell]) for cell, found in cells.items()
        ),
        quarantined=bad,
        cost=_cost_left(cells_left),
        tuning=tuple(
            _cell_status(*cell, found, suspect[True, *cell]) for cell, found in tuning.items()
        ),
        search=search,
        suspects=suspects,
    )


def _searched(store: Store, records: Mapping[str, TrialRecord]) -> tuple[str, ...]:
    """What an adaptive study knows of each cliff by its records, and what it estimates."""
    study = store.study
    if study.search is None:
        return ()
    from batchcliff.report.early import search_lines
    from batchcliff.report.join import join, planned_specs
    from batchcliff.stats.summary import summarize

    plan = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in reported_plan(store)]
    joined = join(plan, records.values())
    specs = planned_specs(joined, study)
    summary = summarize(joined.records, specs, study.reference_arm, study.tolerance)
    return search_lines(study, joined, summary)


def suspects_text(suspects: Sequence[Planned]) -> str:
    """Which of the missing trials are suspects (study/retries.py), and what becomes of them."""
    named = [trial_text(one) for one in suspects[:MOST_NAMED]]
    if more := len(suspects) - len(named):
        named.append(f"and {more} more")
    are, each = ("is a suspect", "it") if len(suspects) == 1 else ("are suspects", "each")
    return (
        f"{len(suspects)} of the missing trials {are} ({'; '.join(named)}): several attempts "
        f"in a row died and nothing says why. The next run tries {each} alone and before all "
        "others."
    )


def _cell_status(
    arm: str, batch_size: int, found: list[TrialRecord | None], suspects: int
) -> CellStatus:
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
        suspects=suspects,
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
