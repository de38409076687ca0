"""Writing a report to a folder. The same inputs give the same bytes: no clock in here."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from batchcliff.canonical import canonical_json, to_plain
from batchcliff.errors import StorageError
from batchcliff.record import TrialRecord
from batchcliff.report import draw, draw_curves, draw_target, draw_transfer, html, vega
from batchcliff.report.content import Content, make_content, summary_plain, tables
from batchcliff.report.figures import CurvePanels
from batchcliff.report.join import Planned
from batchcliff.report.markdown import results_markdown
from batchcliff.report.scales import Spec
from batchcliff.report.tables import csv_text, trial_rows
from batchcliff.report.text import clean_tree
from batchcliff.spec import StudySpec
from batchcliff.stats.tuning import LrChoice


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What was written. `figures`: the SVG and PNG files, by name."""

    page: Path
    csv: Path
    markdown: Path
    summary: Path
    figures: tuple[Path, ...]


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
) -> ReportFiles:
    """Write index.html, the figures as SVG and PNG, results.csv, results.md, summary.json.

    `planned`: every trial of the plan, as a `TrialSpec` or (arm, batch size, seed, trial
    id). `choices`: how learning rates were chosen, where they were. `notes` and
    `quarantined` are shown as they come. Each file is replaced in one step, so that a reader
    never meets half of one. Raises UsageError for contradictory inputs (nothing is written
    then) and StorageError if the folder cannot be written.
    """
    vega.start()  # before there is something to draw
    curves: dict[str, Future[tuple[bytes, bytes]]] = {}

    def begin(figures: Mapping[str, CurvePanels]) -> None:
        for name, figure in figures.items():
            curves[name] = vega.draw(draw_curves.panels_chart(figure))

    content = make_content(
        study,
        records,
        planned,
        notes=notes,
        quarantined=quarantined,
        delta=delta,
        level=level,
        choices=choices,
        begin=begin,
    )
    drawn = {name: vega.draw(spec) for name, spec in large_specs(content).items()} | curves
    beside: dict[str, tuple[str, ...]] = {
        name: (f"{name}.svg", f"{name}.png") for name in drawn
    }
    texts = _texts(content)
    beside["all"] = (*itertools.chain(*beside.values()), *texts)
    texts["index.html"] = html.render(content, beside, vega.bundle()).encode()
    files: dict[str, bytes] = {}
    for name, both in drawn.items():
        files[f"{name}.svg"], files[f"{name}.png"] = both.result()
    figures = tuple(folder / name for name in files)
    write_files(folder, files | texts)
    return ReportFiles(
        page=folder / "index.html",
        csv=folder / "results.csv",
        markdown=folder / "results.md",
        summary=folder / "summary.json",
        figures=figures,
    )


def static_specs(content: Content) -> dict[str, Spec]:
    """The figures as pictures: name -> Vega-Lite specification with title and legend."""
    small = html.curve_figures(content).items()
    return large_specs(content) | {n: draw_curves.panels_chart(f) for n, f in small}


def large_specs(content: Content) -> dict[str, Spec]:
    """Those that are one chart."""
    specs = {"accuracy": draw.accuracy_chart(content.accuracy)}
    if content.published_figure is not None:
        specs["published"] = draw.pair_chart(content.published_figure, content.accuracy)
    if any(line.points for line in content.differences.lines):
        specs["differences"] = draw.differences_chart(content.differences)
    if content.transfer is not None:
        specs["transfer"] = draw_transfer.transfer_chart(content.transfer)
    if content.target is not None:
        specs["updates-to-target"] = draw_target.target_chart(content.target)
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
