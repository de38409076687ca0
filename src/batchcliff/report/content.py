"""Everything that one report says, computed once from the study, its plan and its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batchcliff.published import Published, load
from batchcliff.record import TrialRecord
from batchcliff.report import pagetables as pages
from batchcliff.report.budget_words import budget_text
from batchcliff.report.charts import LargeCharts, SmallCharts, large_charts, small_charts
from batchcliff.report.diagnosis import diagnosis_table, noise_table
from batchcliff.report.early import early_notes, search_notes
from batchcliff.report.figures import slots
from batchcliff.report.join import Joined, Planned, join, planned_specs
from batchcliff.report.ledger import (
    EnvironmentRow,
    LedgerRow,
    counts_by_outcome,
    environment_rows,
    evaluation_note,
    jpeg_note,
    ledger_rows,
    warnings,
)
from batchcliff.report.pagetables import Table
from batchcliff.report.tables import PublishedRow, published_rows
from batchcliff.report.target import target_table
from batchcliff.report.transfer import transfer_table
from batchcliff.report.tuning import tuning_table, tuning_warnings
from batchcliff.report.words import CliffRow, cliff_rows, headline
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.stats.diagnose import Diagnosis, diagnose
from batchcliff.stats.noise_scale import NoiseScaleRow, noise_scale_rows
from batchcliff.stats.summary import StudySummary, summarize
from batchcliff.stats.tuning import LrChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """One report as values. `write_report` writes it; tests read it."""

    study: StudySpec
    joined: Joined
    summary: StudySummary
    headline: tuple[str, ...]
    cliffs: tuple[CliffRow, ...]
    counts: dict[str, int]  # outcome or "missing" -> planned trials
    small: SmallCharts
    large: LargeCharts
    published: Published | None
    published_rows: tuple[PublishedRow, ...]
    ledger: tuple[LedgerRow, ...]
    environment: tuple[EnvironmentRow, ...]
    warnings: tuple[str, ...]
    data_note: str  # "" unless the data are known to shift accuracies
    notes: tuple[str, ...]
    quarantined: tuple[str, ...]
    choices: tuple[LrChoice, ...] = ()  # of learning rates; none where they follow a rule
    diagnosis: Diagnosis
    noise: tuple[NoiseScaleRow, ...]  # none without probes


def make_content(
    study: StudySpec,
    records: Iterable[TrialRecord],
    planned: Sequence[Planned],
    *,
    notes: Sequence[str] = (),
    quarantined: Sequence[object] = (),
    delta: float | None = None,
    level: float = 0.95,
    choices: Sequence[LrChoice] = (),
    cautions: Sequence[str] = (),
    begin: Callable[[SmallCharts | LargeCharts], object] = lambda _: None,
) -> Content:
    """Compute a report; records of trials that chose a rate are left out, `choices` have what
    there is to say of them. `begin` is called with either group of charts as soon as it is
    there, before the rest is computed: drawing them takes as long. UsageError for an empty
    plan, an unknown reference arm or published curve, and records that contradict each other
    (`stats.summarize` says which).
    """
    joined = join(planned, _answers(records, planned))
    specs = planned_specs(joined, study)
    published = load(study.published) if study.published else None
    slot_of, budget = slots(joined, published), budget_text(study, specs)
    small = small_charts(joined, slot_of, budget)
    begin(small)
    tolerance = study.tolerance if delta is None else delta
    summary = summarize(joined.records, specs, study.reference_arm, tolerance, level)
    places = environment_rows(joined.records)
    data_note = jpeg_note(places, study.data)
    large = large_charts(study, joined, summary, slot_of, budget, data_note, published)
    begin(large)
    ledger, aside = ledger_rows(joined), tuple(str(q) for q in quarantined)
    warned = *warnings(ledger, places, joined, aside), *tuning_warnings(choices), *cautions
    return Content(
        study=study,
        joined=joined,
        summary=summary,
        headline=headline(summary),
        cliffs=cliff_rows(summary),
        counts=counts_by_outcome(joined),
        small=small,
        large=large,
        published=published,
        published_rows=published_rows(joined, published) if published else (),
        ledger=ledger,
        environment=places,
        warnings=warned,
        data_note=data_note,
        notes=(*_notes(study, joined, summary), *notes),
        quarantined=aside,
        choices=tuple(choices),
        diagnosis=diagnose(joined.records, specs, summary),
        noise=noise_scale_rows(joined.labelled, summary),
    )


def _notes(study: StudySpec, joined: Joined, summary: StudySummary) -> tuple[str, ...]:
    searched = search_notes(study, joined, summary)
    return *summary.notes, *searched, *early_notes(joined), *evaluation_note(joined)


def _answers(records: Iterable[TrialRecord], planned: Sequence[Planned]) -> list[TrialRecord]:
    """Without the records of trials that chose a rate."""
    ids = {p.trial_id if isinstance(p, TrialSpec) else p[3] for p in planned}
    return [r for r in records if not r.spec.validation or r.trial_id in ids]


def tables(content: Content) -> dict[str, Table]:
    """Every table of the report by name."""
    large = content.large
    found = [
        pages.cliffs_table(content.cliffs, content.summary),
        pages.shifts_table(content.summary),
        pages.wide_results_table(content.summary),
        pages.results_table(content.summary, content.ledger),
        pages.accounting_table(content.summary),
        pages.differences_table(content.summary),
        pages.ledger_table(content.ledger),
        pages.outcomes_table(content.joined),
    ]
    if content.diagnosis.cells:
        found.append(diagnosis_table(content.diagnosis))
    if content.noise:
        found.append(noise_table(content.noise))
    if large.transfer is not None:
        found.append(transfer_table(content.joined, content.summary.level))
    if large.target is not None:
        found.append(target_table(large.target))
    if content.choices:
        found.append(tuning_table(content.choices, content.study, content.summary))
    if content.published is not None:
        found.append(pages.published_table(content.published_rows, content.published))
    return {table.name: table for table in found}


def summary_plain(content: Content) -> dict[str, Any]:
    """What `summary.json` holds, before it is made plain: answers and figures, no curves."""
    large = content.large
    return {
        "study": content.study,
        "headline": content.headline,
        "summary": content.summary,
        "counts": content.counts,
        "figures": {"accuracy": large.accuracy, "differences": large.differences}
        | ({} if large.transfer is None else {"transfer": large.transfer}),
        "diagnosis": content.diagnosis,
        "published": content.published_rows,
        "ledger": content.ledger,
        "environment": content.environment,
        "warnings": content.warnings,
        "notes": content.notes,
        "quarantined": content.quarantined,
    } | {
        name: value
        for name, value in (
            ("learning_rates", content.choices),
            ("noise", content.noise),
            ("updates_to_target", large.target),
        )
        if value
    }
