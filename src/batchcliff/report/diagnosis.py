"""Why training fell, and what its noise predicts: in words, in rows, and as small charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from batchcliff.record import TrialRecord
from batchcliff.report.figures import Curve, CurvePanels, Panel, batch_title
from batchcliff.report.join import Joined
from batchcliff.report.pagetables import Table
from batchcliff.report.text import NOTHING, batch, clean, display_names, number, percent
from batchcliff.report.words import cliff_text, interval_text
from batchcliff.stats.diagnose import CellDiagnosis, Diagnosis, Finding
from batchcliff.stats.diagnose_evidence import MISSING, Evidence
from batchcliff.stats.noise_scale import NoiseScaleRow, noise_scales, sharpness_shares

SEEDS = 3  # of a cell that are drawn

Points = tuple[tuple[int, float], ...]


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """A row for each fallen cell: the cause, and the verdict on every other one."""
    names = display_names(cell.arm for cell in diagnosis.cells)
    causes = [finding.cause for cell in diagnosis.cells[:1] for finding in cell.findings]
    return Table(
        name="diagnosis",
        caption="Why accuracy fell: for each cell under the line of the tolerance cliff "
        f"({percent(diagnosis.threshold, 1)}) the cause, the first “yes” from left to right, "
        "and the verdicts. They follow from what was recorded by fixed thresholds, which "
        "`batchcliff diagnose` prints with their evidence; “data left out” says that cells "
        "are not compared like with like, not how much that explains.",
        header=("arm", "batch size", "accuracy", "cause", *causes),
        rows=tuple(
            (
                names[cell.arm],
                f"{cell.batch_size:,}",
                percent(cell.accuracy, 1),
                cell.cause,
                *(finding.verdict for finding in cell.findings),
            )
            for cell in diagnosis.cells
        ),
        text=(0, *range(3, 4 + len(causes))),
    )


def evidence_lines(cell: CellDiagnosis) -> tuple[str, ...]:
    """Every verdict on a cell, each with its numbers."""
    lines = []
    for finding in cell.findings:
        lines.append(f"  {finding.cause}: {finding.verdict}")
        lines += [f"    {evidence_text(one)}" for one in _told(finding)]
    return tuple(lines)


def _told(finding: Finding) -> list[Evidence]:
    """What was measured; all of it where nothing was, so that one sees what is missing."""
    known = [one for one in finding.evidence if one.says != MISSING]
    return known or list(finding.evidence)


def evidence_text(one: Evidence) -> str:
    """Such as "share of the fall that warmup recovers ...: 0.93 (yes from 0.5, no to 0.1)"."""
    if one.value is None:
        return f"{one.name}: not measured"
    more = one.yes > one.no
    limits = (
        f"yes from {number(one.yes, 3)}, no up to {number(one.no, 3)}"
        if more
        else f"yes up to {number(one.yes, 3)}, no from {number(one.no, 3)}"
    )
    return f"{one.name}: {number(one.value, 3)} ({limits}): {one.says}"


def noise_table(rows: Sequence[NoiseScaleRow]) -> Table:
    """The critical batch that the noise predicts, beside the cliff that was measured."""
    names = display_names(row.arm for row in rows)
    level = f"{rows[0].predicted.level:.0%}" if rows else ""
    return Table(
        name="noise scale",
        caption="Critical batch size predicted by the gradient noise scale (McCandlish et al. "
        "2018), early and over the whole run, from the batch sizes that hold, beside the "
        f"tolerance cliff; ratio: cliff over prediction. Intervals: {level}, over trials.",
        header=("arm", "early", "whole run", "interval", "trials", "tolerance cliff", "ratio"),
        rows=tuple(
            (
                names[row.arm],
                NOTHING if row.early is None else batch(row.early),
                NOTHING if row.predicted.value is None else batch(row.predicted.value),
                interval_text(row.predicted) or NOTHING,
                f"{row.predicted.n}",
                cliff_text(row.cliff),
                NOTHING if row.ratio is None else number(row.ratio, 3),
            )
            for row in rows
        ),
    )


def probe_curves(joined: Joined, slot_of: Mapping[str, int]) -> dict[str, CurvePanels]:
    """By name, what probes measured, a panel a batch size; none without probes."""
    found = {}
    for figure in PROBE_FIGURES:
        if panels := _panels(joined, slot_of, figure.points):
            found[figure.name] = CurvePanels(
                title=figure.title,
                subtitle=f"{figure.what} before the update whose number, from 1, is on the log "
                f"axis; the first {SEEDS} seeds of each cell",
                quantity=figure.quantity,
                panels=panels,
                place="update",
                line=figure.line,
            )
    return found


def _noise(record: TrialRecord) -> Points:
    return noise_scales(record.probes) if record.probes else ()


def _sharpness(record: TrialRecord) -> Points:
    return sharpness_shares(record.spec, record.probes) if record.probes else ()


def _ratio(record: TrialRecord) -> Points:
    probes = record.probes
    if probes is None or "last" not in probes.groups:
        return ()
    ratios = probes.update_ratio[probes.groups.index("last")]
    pairs = zip(probes.updates, ratios, strict=True)
    return tuple((update, ratio) for update, ratio in pairs if ratio is not None)


def _losses(record: TrialRecord) -> Points:
    return tuple(enumerate(record.probes.first_losses)) if record.probes else ()


class ProbeFigure(NamedTuple):
    """A figure of what one probe measured; line: a value that is drawn across it."""

    name: str
    title: str
    what: str
    quantity: str
    points: Callable[[TrialRecord], Points]
    line: float | None = None


PROBE_FIGURES = (
    ProbeFigure(
        "probe-noise", "Gradient noise scale", "examples, smoothed,", "noise scale", _noise
    ),
    ProbeFigure(
        "probe-sharpness",
        "Sharpness as a share of 2 (1 + m) / lr",
        "above 1 an update overshoots along the sharpest;",
        "share of the stability limit",
        _sharpness,
        line=1.0,
    ),
    ProbeFigure(
        "probe-ratio",
        "Length of an update over that of the weights",
        "the last matrix or kernel,",
        "update ratio",
        _ratio,
    ),
    ProbeFigure(
        "probe-losses",
        "First training losses",
        "of up to 100 updates,",
        "training loss",
        _losses,
    ),
)


def _panels(
    joined: Joined, slot_of: Mapping[str, int], pick: Callable[[TrialRecord], Points]
) -> tuple[Panel, ...]:
    cells, panels = joined.cells(), []
    for size in joined.batch_sizes:
        curves = []
        for arm in joined.arms:
            found = [t for t in cells.get((arm, size), ()) if t.record is not None]
            for trial in sorted(found, key=lambda t: t.seed)[:SEEDS]:
                assert trial.record is not None
                points = tuple((u + 1, v) for u, v in pick(trial.record) if 0 < v < 1e30)
                if points:
                    curves.append(
                        Curve(
                            arm=arm,
                            slot=slot_of[arm],
                            batch_size=size,
                            seed=trial.seed,
                            points=points,
                        )
                    )
        if curves:
            title = clean(batch_title(size), 32)
            panels.append(Panel(title=title, curves=tuple(curves), log=True))
    return tuple(panels)
