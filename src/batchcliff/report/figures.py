"""What each figure says, as frozen values; `draw` says how they look.

The HTML page, the static files, `summary.json` and the tests read the same values. All are
plain enough for `canonical_json`. Accuracies and differences are shares in [0, 1]; None is
"not measured", and no NaN is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batchcliff.published import Published
from batchcliff.record import Outcome
from batchcliff.report.join import Joined, Trial
from batchcliff.report.text import MINUS, batch, clean, plural
from batchcliff.report.words import cliff_text, open_ends
from batchcliff.spec import StudySpec
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.summary import ArmSummary, StudySummary

MAX_DOTS = 2000  # in one figure: more seeds than that are thinned, evenly by rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One cell of a plot of accuracy. Accuracy is over the ok trials only."""

    batch_size: int
    n: int  # ok trials
    mean: float | None
    low: float | None  # of the mean's interval; None: there is none
    high: float | None
    dots: tuple[float, ...] = ()  # single trials, ascending
    floor: tuple[tuple[str, int], ...] = ()  # (outcome, trials) of those that are not ok


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One arm, batch sizes ascending. `slot` picks its colour, the same in every figure."""

    arm: str
    slot: int
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CliffBand:
    """A cliff of one arm on the batch axis, with its interval.

    value None: no estimate. Ends that are None are open when `open_low`/`open_high` say so.
    """

    arm: str
    slot: int
    kind: str  # "tolerance" or "collapse"
    value: float | None
    low: float | None
    high: float | None
    open_low: bool
    open_high: bool
    text: str  # e.g. "none: 2 points lost at 890"


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyByBatch:
    """Accuracy against batch size, an arm a line."""

    title: str
    subtitle: str
    batch_sizes: tuple[int, ...]
    lines: tuple[Line, ...]
    bands: tuple[CliffBand, ...] = ()
    chance: float | None = None  # accuracy of guessing
    interval: str = ""  # what low and high are, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferencePoint:
    """An arm minus the reference at one batch size; None where there is nothing to compare."""

    batch_size: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferenceLine:
    """The differences of one arm from the reference arm."""

    arm: str
    slot: int
    points: tuple[DifferencePoint, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """How much better (above 0) each arm is than the reference, batch size by batch size."""

    title: str
    subtitle: str
    reference: str
    batch_sizes: tuple[int, ...]
    lines: tuple[DifferenceLine, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One trial's curve: (epoch from 1 or update from 0, value), None values left out."""

    arm: str
    slot: int
    batch_size: int
    seed: int
    points: tuple[tuple[int, float], ...]
    label: str = ""  # at its end, where the panel's curves are named; "": the batch size


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Curves that share one small chart. `named`: each says its batch size at its end."""

    title: str
    curves: tuple[Curve, ...]
    place: str = ""  # where it is not the figure's
    named: bool = False
    log: bool = False  # the axis of epochs or updates


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePanels:
    """Small charts of one quantity by epoch or by update."""

    title: str
    subtitle: str
    quantity: str  # "test accuracy", "training loss", "learning rate", "gradient norm"
    panels: tuple[Panel, ...]
    place: str = "epoch"  # counted from 1; or "update", from 0
    line: float | None = None  # of the quantity, drawn across every panel


def slots(joined: Joined, published: Published | None = None) -> dict[str, int]:
    """Arm -> its colour's number: the study's arms in order, then published ones."""
    others = [arm.name for arm in published.arms] if published else []
    return {arm: i for i, arm in enumerate(dict.fromkeys([*joined.arms, *others]))}


def chance_level(joined: Joined) -> float | None:
    """Accuracy of guessing among the classes, if all records agree on their number."""
    found = {r.ledger.num_classes for r in joined.records if r.ledger}
    return 1 / found.pop() if len(found) == 1 and min(found) > 0 else None


def floor_marks(trials: Iterable[Trial]) -> tuple[tuple[str, int], ...]:
    """How many trials ended other than ok, by outcome, in the order of `Outcome`."""
    ended = [t.record.outcome for t in trials if t.record is not None]
    bad = [o for o in Outcome if o is not Outcome.OK]
    return tuple((o.value, ended.count(o)) for o in bad if o in ended)


def thin_dots(values: Sequence[float], cells: int) -> tuple[float, ...]:
    """`values` ascending; where all cells together have too many, evenly thinned by rank."""
    ordered = sorted(values)
    most = max(MAX_DOTS // max(cells, 1), 3)
    if len(ordered) <= most:
        return tuple(ordered)
    last = len(ordered) - 1
    return tuple(ordered[round(i * last / (most - 1))] for i in range(most))


def accuracy_figure(
    study: StudySpec,
    joined: Joined,
    summary: StudySummary,
    slot_of: Mapping[str, int],
    budget: str,
    data_note: str = "",
) -> AccuracyByBatch:
    """The study's main figure: every arm's cells and, where estimated, its cliffs.

    budget: that of the trials, in words.
    """
    cells = joined.cells()
    lines = []
    for arm in summary.arms:
        points = [
            Point(
                batch_size=c.cell.batch_size,
                n=c.cell.ok,
                mean=c.mean.value,
                low=c.mean.low,
                high=c.mean.high,
                dots=thin_dots(c.cell.accuracies, len(cells)),
                floor=floor_marks(cells[arm.arm, c.cell.batch_size]),
            )
            for c in arm.cells
        ]
        lines.append(Line(arm=arm.arm, slot=slot_of[arm.arm], points=tuple(points)))
    bands = [band for arm in summary.arms for band in cliff_bands(arm, summary, slot_of)]
    return AccuracyByBatch(
        title=f"{clean(study.name, 60)}: test accuracy by batch size",
        subtitle=_subtitle(study, joined, budget, data_note),
        batch_sizes=joined.batch_sizes,
        lines=tuple(lines),
        bands=tuple(bands),
        chance=summary.chance,
        interval=f"{summary.level:.0%} t interval of the mean over ok trials",
    )


def cliff_bands(
    arm: ArmSummary, summary: StudySummary, slot_of: Mapping[str, int]
) -> list[CliffBand]:
    """The tolerance cliff's band, and the collapse cliff's; none where there is no value."""
    lost = f"{100 * summary.delta:g} points"
    words = {"tolerance": f"{MINUS}{lost}", "collapse": "half collapse"}
    estimates: dict[str, Estimate] = {"tolerance": arm.tolerance, "collapse": arm.collapse}
    found = []
    for kind, estimate in estimates.items():
        if estimate.value is None or estimate.censored:
            continue  # said in words: the plot cannot show what lies outside of it
        open_low, open_high = open_ends(estimate)
        found.append(
            CliffBand(
                arm=arm.arm,
                slot=slot_of[arm.arm],
                kind=kind,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                open_low=open_low,
                open_high=open_high,
                text=f"{clean(arm.arm, 24)}: {words[kind]} at {cliff_text(estimate)}",
            )
        )
    return found


def _subtitle(study: StudySpec, joined: Joined, budget: str, data_note: str) -> str:
    trials = sum(t.record is not None for t in joined.trials)
    seeds = Counter((t.arm, t.batch_size) for t in joined.trials).values()
    at_most = "at most " if len(set(seeds)) > 1 else ""  # an adaptive search gives as it needs
    parts = [
        f"{clean(study.workload, 40)} on {clean(study.data, 40)}",
        budget,
        f"{at_most}{plural(max(seeds, default=0), 'seed')} a cell",
        f"{trials} of {plural(len(joined.trials), 'trial')}",
    ]
    return "; ".join(parts + ([data_note] if data_note else []))


def differences_figure(
    study: StudySpec, joined: Joined, summary: StudySummary, slot_of: Mapping[str, int]
) -> Differences:
    """Every other arm minus the reference arm, paired by seed."""
    lines = tuple(
        DifferenceLine(
            arm=arm.arm,
            slot=slot_of[arm.arm],
            points=tuple(
                DifferencePoint(
                    batch_size=d.batch_size,
                    n=d.difference.n,
                    value=d.difference.value,
                    low=d.difference.low,
                    high=d.difference.high,
                    note=d.difference.note,
                )
                for d in arm.differences
            ),
        )
        for arm in summary.arms
        if arm.arm != summary.reference_arm
    )
    reference = clean(summary.reference_arm, 32)
    return Differences(
        title=f"{clean(study.name, 60)}: difference from {reference}",
        subtitle=f"percentage points of test accuracy, paired by seed; {summary.level:.0%} "
        "t interval; a diverged trial counts at chance",
        reference=summary.reference_arm,
        batch_sizes=joined.batch_sizes,
        lines=lines,
    )


def published_figure(published: Published, slot_of: Mapping[str, int]) -> AccuracyByBatch:
    """The published curves in the same form as ours."""
    lines = tuple(
        Line(
            arm=arm.name,
            slot=slot_of[arm.name],
            points=tuple(
                Point(
                    batch_size=p.batch_size,
                    n=published.runs_per_cell,
                    mean=p.accuracy,
                    low=None if p.spread is None else p.accuracy - p.spread,
                    high=None if p.spread is None else p.accuracy + p.spread,
                )
                for p in arm.points
            ),
        )
        for arm in published.arms
    )
    sizes = sorted({p.batch_size for line in lines for p in line.points})
    runs = published.runs_per_cell
    return AccuracyByBatch(
        title=f"Published: {published.source}",
        subtitle=f"{published.metric}; {runs} run{'s' * (runs > 1)} a cell",
        batch_sizes=tuple(sizes),
        lines=lines,
        interval=published.spread,
    )


def batch_title(size: float) -> str:
    """Title of a batch size's panel."""
    return f"batch size {batch(size)}"
