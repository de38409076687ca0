"""The figures of a report as values, in two groups: small charts of curves, for which nothing
has to be estimated, and large ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchcliff.published import Published
from batchcliff.report.budget_words import with_budget
from batchcliff.report.curves import (
    gradient_norm_curves,
    learning_rate_curves,
    training_curves,
)
from batchcliff.report.diagnosis import probe_curves
from batchcliff.report.figures import (
    AccuracyByBatch,
    CurvePanels,
    Differences,
    accuracy_figure,
    differences_figure,
    published_figure,
)
from batchcliff.report.growth import growth_curves
from batchcliff.report.join import Joined
from batchcliff.report.target import UpdatesToTarget, target_figure
from batchcliff.report.transfer import TransferByBatch, transfer_figure
from batchcliff.spec import StudySpec
from batchcliff.stats.summary import StudySummary


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallCharts:
    """The figures that are made of small charts: curves over a run."""

    training: tuple[CurvePanels, ...]  # accuracy, loss
    growth: CurvePanels  # no panels unless the batch size changes during a run
    learning_rates: CurvePanels
    gradient_norms: tuple[CurvePanels, ...]  # by update, by epoch
    probes: dict[str, CurvePanels]  # by name; none without probes

    @property
    def named(self) -> dict[str, CurvePanels]:
        """Those that have any curve, in the page's order."""
        accuracy, loss = self.training
        first_norms, norms = self.gradient_norms
        named = {
            "batch-growth": self.growth,
            "training-accuracy": accuracy,
            "training-loss": loss,
            "gradient-norm-first": first_norms,
            "gradient-norm": norms,
            **self.probes,
            "learning-rate": self.learning_rates,
        }
        return {name: figure for name, figure in named.items() if figure.panels}


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeCharts:
    """The figures that are one chart: what was measured and estimated, by batch size."""

    accuracy: AccuracyByBatch
    differences: Differences
    transfer: TransferByBatch | None  # None: nothing was fine-tuned
    target: UpdatesToTarget | None  # None: no arm has two batch sizes that say when
    published: AccuracyByBatch | None


def small_charts(joined: Joined, slot_of: Mapping[str, int], budget: str) -> SmallCharts:
    """Of the records; `slot_of`: the arms' colours, `budget`: in words."""
    probes = probe_curves(joined, slot_of)
    return SmallCharts(
        training=_all_with(training_curves(joined, slot_of), budget),
        growth=with_budget(growth_curves(joined, slot_of), budget),
        learning_rates=with_budget(learning_rate_curves(joined, slot_of), budget),
        gradient_norms=_all_with(gradient_norm_curves(joined, slot_of), budget),
        probes={name: with_budget(figure, budget) for name, figure in probes.items()},
    )


def _all_with(figures: Iterable[CurvePanels], budget: str) -> tuple[CurvePanels, ...]:
    return tuple(with_budget(figure, budget) for figure in figures)


def large_charts(
    study: StudySpec,
    joined: Joined,
    summary: StudySummary,
    slot_of: Mapping[str, int],
    budget: str,
    data_note: str,
    published: Published | None,
) -> LargeCharts:
    """Of the records and the estimates; `data_note`: "" unless the data shift accuracies."""
    recompressed = "JPEG-recompressed images" if data_note else ""
    differences = differences_figure(study, joined, summary, slot_of)
    transfer = transfer_figure(study.name, joined, slot_of, summary.level)
    return LargeCharts(
        accuracy=accuracy_figure(study, joined, summary, slot_of, budget, recompressed),
        differences=with_budget(differences, budget),
        transfer=None if transfer is None else with_budget(transfer, budget),
        target=target_figure(study, joined, summary, slot_of, budget),
        published=published_figure(published, slot_of) if published else None,
    )
