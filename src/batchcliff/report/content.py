"""Everything that one report says, computed once from the study, its plan and its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchcliff.published import Published, load
from batchcliff.record import TrialRecord
from batchcliff.report import pagetables as pages
from batchcliff.report.budget_words import budget_text, with_budget
from batchcliff.report.curves import (
    gradient_norm_curves,
    learning_rate_curves,
    training_curves,
)
from batchcliff.report.diagnosis import diagnosis_table, noise_table, probe_curves
from batchcliff.report.early import early_notes, search_notes
from batchcliff.report.figures import (
    AccuracyByBatch,
    CurvePanels,
    Differences,
    accuracy_figure,
    differences_figure,
    published_figure,
    slots,
)
from batchcliff.report.growth import growth_curves
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
from batchcliff.report.target import UpdatesToTarget, target_figure, target_table
from batchcliff.report.transfer import TransferByBatch, transfer_figure, transfer_table
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
    accuracy: AccuracyByBatch
    differences: Differences
    training: tuple[CurvePanels, ...]
    growth: CurvePanels  # no panels unless the batch size changes during a run
    learning_rates: CurvePanels
    gradient_norms: tuple[CurvePanels, ...]  # by update, by epoch
    transfer: TransferByBatch | None  # None: nothing was fine-tuned
    target: UpdatesToTarget | None  # None: no arm has two batch sizes that say when
    published: Published | None
    published_figure: AccuracyByBatch | None
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
    probes: dict[str, CurvePanels]  # by name; none without probes


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
    begin: Callable[[Mapping[str, CurvePanels]], object] = lambda _: None,
) -> Content:
    """Compute a report; records of trials that chose a rate are left out, `choices` have what
    there is to say of them. `begin` is called with `named_curves` as soon as they are there,
    which is long before the rest: drawing them takes as long. UsageError for an empty plan, an
    unknown reference arm or published curve, and records that contradict each other
    (`stats.summarize` says which).
    """
    joined = join(planned, _answers(records, planned))
    specs = planned_specs(joined, study)
    published = load(study.published) if study.published else None
    slot_of, budget = slots(joined, published), budget_text(study, specs)
    training = _all_with(training_curves(joined, slot_of), budget)
    growth = with_budget(growth_curves(joined, slot_of), budget)
    learning_rates = with_budget(learning_rate_curves(joined, slot_of), budget)
    gradient_norms = _all_with(gradient_norm_curves(joined, slot_of), budget)
    probes = {n: with_budget(f, budget) for n, f in probe_curves(joined, slot_of).items()}
    begin(named_curves(training, growth, gradient_norms, probes, learning_rates))
    summary = summarize(
        joined.records,
        specs,
        study.reference_arm,
        study.tolerance if delta is None else delta,
        level,
    )
    ledger, places = ledger_rows(joined), environment_rows(joined.records)
    data_note = jpeg_note(places, study.data)
    aside = tuple(str(q) for q in quarantined)
    transfer = transfer_figure(study.name, joined, slot_of, level)
    return Content(
        study=study,
        joined=joined,
        summary=summary,
        headline=headline(summary),
        cliffs=cliff_rows(summary),
        counts=counts_by_outcome(joined),
        accuracy=accuracy_figure(
            study,
            joined,
            summary,
            slot_of,
            budget,
            "JPEG-recompressed images" if data_note else "",
        ),
        differences=with_budget(differences_figure(study, joined, summary, slot_of), budget),
        training=training,
        growth=growth,
        learning_rates=learning_rates,
        gradient_norms=gradient_norms,
        transfer=None if transfer is None else with_budget(transfer, budget),
        target=target_figure(study, joined, summary, slot_of, budget),
        published=published,
        published_figure=published_figure(published, slot_of) if published else None,
        published_rows=published_rows(joined, published) if published else (),
        ledger=ledger,
        environment=places,
        warnings=(*warnings(ledger, places, joined, aside), *tuning_warnings(choices)),
        data_note=data_note,
        notes=(
            *summary.notes,
            *search_notes(study, joined, summary),
            *early_notes(joined),
            *evaluation_note(joined),
            *notes,
        ),
        quarantined=aside,
        choices=tuple(choices),
        diagnosis=diagnose(joined.records, specs, summary),
        noise=noise_scale_rows(joined.labelled, summary),
        probes=probes,
    )


def named_curves(
    training: tuple[CurvePanels, ...],
    growth: CurvePanels,
    gradient_norms: tuple[CurvePanels, ...],
    probes: Mapping[str, CurvePanels],
    learning_rates: CurvePanels,
) -> dict[str, CurvePanels]:
    """The figures made of small charts that have any curve, in the page's order."""
    accuracy, loss = training
    first_norms, norms = gradient_norms
    named = {
        "batch-growth": growth,
        "training-accuracy": accuracy,
        "training-loss": loss,
        "gradient-norm-first": first_norms,
        "gradient-norm": norms,
        **probes,
        "learning-rate": learning_rates,
    }
    return {name: figure for name, figure in named.items() if figure.panels}


def _all_with(figures: Iterable[CurvePanels], budget: str) -> tuple[CurvePanels, ...]:
    return tuple(with_budget(figure, budget) for figure in figures)


def _answers(records: Iterable[TrialRecord], planned: Sequence[Planned]) -> list[TrialRecord]:
    """Without the records of trials that chose a rate."""
    ids = {p.trial_id if isinstance(p, TrialSpec) else p[3] for p in planned}
    return [r for r in records if not r.spec.validation or r.trial_id in ids]


def tables(content: Content) -> dict[str, Table]:
    """Every table of the report by name."""
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
    if content.transfer is not None:
        found.append(transfer_table(content.joined, content.summary.level))
    if content.target is not None:
        found.append(target_table(content.target))
    if content.choices:
        found.append(tuning_table(content.choices, content.study, content.summary))
    if content.published is not None:
        found.append(pages.published_table(content.published_rows, content.published))
    return {table.name: table for table in found}


def summary_plain(content: Content) -> dict[str, Any]:
    """What `summary.json` holds, before it is made plain: answers and figures, no curves."""
    return {
        "study": content.study,
        "headline": content.headline,
        "summary": content.summary,
        "counts": content.counts,
        "figures": {"accuracy": content.accuracy, "differences": content.differences}
        | ({} if content.transfer is None else {"transfer": content.transfer}),
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
            ("updates_to_target", content.target),
        )
        if value
    }
