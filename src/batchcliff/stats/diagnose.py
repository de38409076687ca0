"""Why training fell: for each fallen cell of a study a verdict on each of six causes.

A cell has fallen where its mean accuracy, diverged trials at chance, lies under the line of the
tolerance cliff. A verdict is "yes", "no" or "cannot tell", and comes with its evidence; the
cause of a cell is the first "yes" in the order of `CAUSES`, and may be none. A verdict is made
from what was recorded, not from an experiment, except for "what warmup recovers", which is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.stats import diagnose_evidence as evidence
from batchcliff.stats.cells import match
from batchcliff.stats.diagnose_evidence import MISSING, NO, OPEN, YES, Evidence, Fallen
from batchcliff.stats.summary import CellSummary, StudySummary

CANNOT_TELL = "cannot tell"
BATCH_NORM = "batch-norm statistics"
INSTABILITY = "early instability"
LATER = "later instability"
UPDATES = "too few updates"
GENERALIZATION = "generalization gap"
DATA = "data left out"
CAUSES = (BATCH_NORM, INSTABILITY, LATER, UPDATES, GENERALIZATION, DATA)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The verdict on one cause: "yes", "no" or "cannot tell"."""

    cause: str
    verdict: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellDiagnosis:
    """One fallen cell. cause: the first that is found, or "cannot tell"; also: the others."""

    arm: str
    batch_size: int
    accuracy: float
    fall: float  # under the plateau, a share
    cause: str
    also: tuple[str, ...]
    findings: tuple[Finding, ...]

    def finding(self, cause: str) -> Finding:
        """The finding on a cause; KeyError for what is none."""
        return {f.cause: f for f in self.findings}[cause]


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What is said of a study: a row for each fallen cell. note: why there is none."""

    plateau: float | None
    threshold: float | None
    cells: tuple[CellDiagnosis, ...]
    note: str = ""


def diagnose(
    records: Iterable[TrialRecord], planned: Sequence[TrialSpec], summary: StudySummary
) -> Diagnosis:
    """The causes of every fall of a study. UsageError for two records of one trial."""
    if summary.plateau is None or summary.threshold is None:
        note = f"arm “{summary.reference_arm}” measured no plateau to fall from"
        return Diagnosis(plateau=None, threshold=None, cells=(), note=note)
    matched = match(records, planned)
    trials: dict[tuple[str, int], list[TrialRecord]] = {}
    for spec, record in zip(matched.planned, matched.records, strict=True):
        if record is not None and record.outcome in (Outcome.OK, Outcome.DIVERGED):
            trials.setdefault((spec.arm, spec.batch_size), []).append(record)
    cells = {(a.arm, c.cell.batch_size): c for a in summary.arms for c in a.cells}
    fallen = {key for key, cell in cells.items() if _value(cell) < summary.threshold}
    specs: dict[int, dict[str, TrialSpec]] = {}  # one of each arm, by batch size
    for spec in planned:
        specs.setdefault(spec.batch_size, {})[spec.arm] = spec
    found = tuple(
        _diagnosed(_fallen(key, cells, fallen, trials, specs[key[1]], summary))
        for key in cells
        if key in fallen and key in trials
    )
    note = "" if found else "no cell has fallen below the line of the tolerance cliff"
    return Diagnosis(
        plateau=summary.plateau, threshold=summary.threshold, cells=found, note=note
    )


def _value(cell: CellSummary) -> float:
    """The cell's mean; above every line where nothing was measured."""
    value = cell.mean_with_failures.value
    return float("inf") if value is None else value


Key = tuple[str, int]


def _fallen(
    key: Key,
    cells: dict[Key, CellSummary],
    fallen: set[Key],
    trials: dict[Key, list[TrialRecord]],
    specs: dict[str, TrialSpec],
    summary: StudySummary,
) -> Fallen:
    arm, size = key
    held: Key | None = None
    for name in (arm, summary.reference_arm):
        sizes = [b for a, b in trials if a == name and b < size and (a, b) not in fallen]
        if sizes:
            held = (name, max(sizes))
            break
    warmed = [other for other in specs if _differs_in_warmup(specs[arm], specs[other])]
    better = max(warmed, key=lambda a: _known(cells.get((a, size))), default=None)
    assert summary.plateau is not None
    return Fallen(
        arm=arm,
        batch_size=size,
        trials=tuple(trials[key]),
        held=tuple(trials[held]) if held else (),
        warmed=tuple(trials.get((better, size), ())) if better else (),
        has_warmup=_has_warmup(specs[arm]),
        mean=_value(cells[key]),
        plateau=summary.plateau,
        chance=summary.chance or 0.0,
    )


def _known(cell: CellSummary | None) -> float:
    value = None if cell is None else cell.mean_with_failures.value
    return -1.0 if value is None else value


def _has_warmup(spec: TrialSpec) -> bool:
    return any(name == "warmup" for name, _ in spec.techniques)


def _differs_in_warmup(one: TrialSpec, other: TrialSpec) -> bool:
    """Whether `other` is `one` with a warmup, and nothing else is different."""

    def rest(spec: TrialSpec) -> tuple[object, ...]:
        techniques = tuple(t for t in spec.techniques if t[0] != "warmup")
        return techniques, spec.settings, spec.lr, spec.decay, spec.budget

    return _has_warmup(other) and not _has_warmup(one) and rest(one) == rest(other)


def _diagnosed(cell: Fallen) -> CellDiagnosis:
    norm = _batch_norm(cell)
    unstable, later = _instability(cell), _later(cell)
    # Of each the first two are trials that diverged or died.
    ended = (*unstable.evidence[:2], *later.evidence[:2])
    broken = _half_of_trials(ended) or later.verdict == YES
    findings = (
        norm,
        unstable,
        later,
        _updates(cell, broken),
        _generalization(cell, norm, broken),
        _data(cell),
    )
    causes = [f.cause for f in findings if f.verdict == YES]
    return CellDiagnosis(
        arm=cell.arm,
        batch_size=cell.batch_size,
        accuracy=cell.mean,
        fall=cell.fall,
        cause=causes[0] if causes else CANNOT_TELL,
        also=tuple(causes[1:]),
        findings=findings,
    )


def _finding(cause: str, verdict: str, *shown: Evidence) -> Finding:
    return Finding(
        cause=cause,
        verdict=CANNOT_TELL if verdict in (OPEN, MISSING) else verdict,
        evidence=shown,
    )


def _batch_norm(cell: Fallen) -> Finding:
    one = evidence.recovered_by_reestimation(cell)
    return _finding(BATCH_NORM, one.says, one)


def _instability(cell: Fallen) -> Finding:
    """Yes: trials diverged early or died, or warmup recovers half of the fall, or two of the
    five signs are there. No: none of these and no sign, and either warmup was tried and does
    nothing, or two signs at least were found absent."""
    ends = [evidence.diverged(cell, early=True), evidence.died(cell, early=True)]
    cure = evidence.cured_by_warmup(cell)
    signs = [
        evidence.catapult(cell),
        evidence.early_epochs(cell),
        evidence.stuck(cell),
        evidence.first_gradients(cell),
        evidence.sharpness(cell),
    ]
    says = [sign.says for sign in signs]
    if any(e.says == YES for e in (*ends, cure)) or says.count(YES) >= 2:
        verdict = YES
    elif YES in says or any(e.says == OPEN for e in ends):  # one sign, or a few of the trials
        verdict = CANNOT_TELL
    elif cure.says == NO or (cure.says == MISSING and says.count(NO) >= 2):
        verdict = NO
    else:
        verdict = CANNOT_TELL
    return _finding(INSTABILITY, verdict, *ends, cure, *signs)


def _later(cell: Fallen) -> Finding:
    """Yes: trials diverged or died after their first fifth, or the run ends without half of
    what it had learnt. No: none did, a tenth at most is lost at the end, and never more than
    a quarter was. What was lost and regained proves neither."""
    ends = [evidence.diverged(cell, early=False), evidence.died(cell, early=False)]
    lost, once = evidence.lost_again(cell)
    if any(e.says == YES for e in (*ends, lost)):
        verdict = YES
    elif all(e.says == NO for e in (*ends, lost, once)):
        verdict = NO
    else:
        verdict = CANNOT_TELL
    return _finding(LATER, verdict, *ends, lost, once)


def _half_of_trials(shares: Sequence[Evidence]) -> bool:
    """Whether the shares of trials that ended so or so add up to half of them."""
    return sum(share.value or 0.0 for share in shares) >= 0.5


def _updates(cell: Fallen, broken: bool) -> Finding:
    """Yes: the training loss ends much higher, and the loss after equal numbers of updates is
    that of the batch size that holds, or, where the two do not overlap, was still falling;
    unless it stands still at guessing's. No: training ends as well, or the run broke (half of
    the trials died or diverged, or what was learnt was lost), or an update did much less."""
    loss, equal = evidence.final_loss(cell), evidence.equal_updates(cell)
    falling, stuck = evidence.still_falling(cell), evidence.stuck(cell)
    slow = falling.says if equal.says == MISSING else equal.says
    # At the first updates both may be where guessing is: standing there proves no shortage.
    still = stuck.says == YES and falling.says == NO
    if loss.says == NO or broken or equal.says == NO:
        verdict = NO
    elif loss.says == YES and slow == YES and not still:
        verdict = YES
    else:
        verdict = CANNOT_TELL
    return _finding(UPDATES, verdict, loss, equal, falling, stuck)


def _generalization(cell: Fallen, norm: Finding, broken: bool) -> Finding:
    """Yes: the training loss ends as low as where accuracy holds, and the statistics of batch
    norm are not to blame. No: it ends much higher, or near guessing, or the run broke."""
    loss, stuck = evidence.final_loss(cell), evidence.stuck(cell)
    verdict = CANNOT_TELL
    if loss.says == YES or stuck.says == YES or broken or norm.verdict == YES:
        verdict = NO
    elif loss.says == NO and norm.verdict == NO:
        verdict = YES
    return _finding(GENERALIZATION, verdict, loss, stuck, *norm.evidence)


def _data(cell: Fallen) -> Finding:
    """Yes: a twentieth of the data or more was left out. It says that a comparison with the
    batch sizes that hold is not of like with like, not how much of the fall that explains."""
    both = evidence.dropped(cell), evidence.fewer_examples(cell)
    says = [e.says for e in both]
    known = [s for s in says if s != MISSING]
    verdict = YES if YES in says else NO if known and set(known) == {NO} else CANNOT_TELL
    return _finding(DATA, verdict, *both)
