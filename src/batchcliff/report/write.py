"""Writing a report to a folder. The same inputs give the same bytes: no clock in here."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from batchcliff.canonical import canonical_json, to_plain
from batchcliff.errors import StorageError
from batchcliff.record import TrialRecord
from batchcliff.report import draw, draw_curves, draw_target, draw_transfer, html, vega
from batchcliff.report.charts import LargeCharts, SmallCharts
from batchcliff.report.content import Content, make_content, summary_plain, tables
from batchcliff.report.join import Planned
from batchcliff.report.markdown import results_markdown
from batchcliff.report.scales import Spec
from batchcliff.report.tables import csv_text, trial_rows
from batchcliff.report.text import clean_tree
from batchcliff.spec import StudySpec
from batchcliff.stats.tuning import LrChoice


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What was written. `figures`: the SVG and PNG files, by name; `headline`: of the page."""

    page: Path
    csv: Path
    markdown: Path
    summary: Path
    figures: tuple[Path, ...]
    headline: tuple[str, ...]


def write_report(
    study: StudySpec,
    records: Iterable[TrialRecord],
    planned: Sequence[Planned],
    folder: Path,
    *,
    notes: Sequence[str] = (),
    quarantined: Sequence[object] = (),
    delta: float | None = None,
    level: float = 0.95,
    choices: Sequence[LrChoice] = (),
    cautions: Sequence[str] = (),
) -> ReportFiles:
    """Write index.html, the figures as SVG and PNG, results.csv, results.md, summary.json.

    `planned`: every trial of the plan, as a `TrialSpec` or (arm, batch size, seed, trial
    id). `choices`: how learning rates were chosen, where they were. `notes`, `quarantined`
    and `cautions`, which stand among the warnings, are shown as they come. Each file is
    replaced in one step, so that a reader never meets half of one. Raises UsageError for
    contradictory inputs (nothing is written then) and StorageError if the folder cannot be
    written.
    """
    vega.start()  # before there is something to draw
    begun: dict[type, dict[str, Future[tuple[bytes, bytes]]]] = {}

    def begin(charts: SmallCharts | LargeCharts) -> None:
        specs = static_specs(charts)
        drawing = {name: vega.draw(specs[name]) for name in _largest_first(specs)}
        begun[type(charts)] = {name: drawing[name] for name in specs}

    content = make_content(
        study,
        records,
        planned,
        notes=notes,
        quarantined=quarantined,
        delta=delta,
        level=level,
        choices=choices,
        cautions=cautions,
        begin=begin,
    )
    drawn = begun[LargeCharts] | begun[SmallCharts]  # as they stand on the page
    beside: dict[str, tuple[str, ...]] = {n: (f"{n}.svg", f"{n}.png") for n in drawn}
    texts = _texts(content)
    beside["all"] = (*itertools.chain(*beside.values()), *texts)
    texts["index.html"] = html.render(content, beside, vega.bundle()).encode()
    files: dict[str, bytes] = {}
    for name, both in drawn.items():
        files[f"{name}.svg"], files[f"{name}.png"] = both.result()
    write_files(folder, files | texts)
    return ReportFiles(
        page=folder / "index.html",
        csv=folder / "results.csv",
        markdown=folder / "results.md",
        summary=folder / "summary.json",
        figures=tuple(folder / name for name in files),
        headline=content.headline,
    )


def _largest_first(specs: Mapping[str, Spec]) -> list[str]:
    """Names in an order in which two that draw are done at about the same time."""
    return sorted(specs, key=lambda name: len(json.dumps(specs[name])), reverse=True)


def static_specs(charts: SmallCharts | LargeCharts) -> dict[str, Spec]:
    """The figures as pictures: name -> Vega-Lite specification with title and legend."""
    if isinstance(charts, SmallCharts):
        return {name: draw_curves.panels_chart(f) for name, f in charts.named.items()}
    specs = {"accuracy": draw.accuracy_chart(charts.accuracy)}
    if charts.published is not None:
        specs["published"] = draw.pair_chart(charts.published, charts.accuracy)
    if any(line.points for line in charts.differences.lines):
        specs["differences"] = draw.differences_chart(charts.differences)
    if charts.transfer is not None:
        specs["transfer"] = draw_transfer.transfer_chart(charts.transfer)
    if charts.target is not None:
        specs["updates-to-target"] = draw_target.target_chart(charts.target)
    return specs


def _texts(content: Content) -> dict[str, bytes]:
    plain = clean_tree(to_plain(summary_plain(content)))
    return {
        "results.csv": csv_text(trial_rows(content.joined.labelled)).encode(),
        "results.md": results_markdown(content, tables(content)).encode(),
        "summary.json": canonical_json(plain) + b"\n",
    }


def write_files(folder: Path, files: dict[str, bytes], what: str = "the report") -> None:
    """Each file in one step, in the order given, the page last: where it stands, everything
    that it links to does. Raises StorageError, which names `what`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            try:
                temporary.write_bytes(data)
                temporary.replace(folder / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(error.errno, f"{what} cannot be written: {error}") from error
