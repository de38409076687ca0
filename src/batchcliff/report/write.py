"""Writing a report to a folder. The same inputs give the same bytes: no clock in here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import vl_convert

from batchcliff.canonical import canonical_json, to_plain
from batchcliff.errors import StorageError
from batchcliff.record import TrialRecord
from batchcliff.report import draw, draw_curves, html
from batchcliff.report.content import Content, make_content, summary_plain, tables
from batchcliff.report.join import Planned
from batchcliff.report.markdown import results_markdown
from batchcliff.report.scales import Spec
from batchcliff.report.tables import csv_text, trial_rows
from batchcliff.report.text import clean_tree
from batchcliff.spec import StudySpec

PNG_SCALE = 1.5  # pixels of the picture for each of the drawing


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
    delta: float = 0.02,
    level: float = 0.95,
) -> ReportFiles:
    """Write index.html, the figures as SVG and PNG, results.csv, results.md, summary.json.

    `planned`: every trial of the plan, as a `TrialSpec` or (arm, batch size, seed, trial
    id). `notes` and `quarantined` are shown as they come. Each file is replaced in one
    step, so that a reader never meets half of one. Raises UsageError for contradictory
    inputs (nothing is written then) and StorageError if the folder cannot be written.
    """
    content = make_content(
        study, records, planned, notes=notes, quarantined=quarantined, delta=delta, level=level
    )
    files: dict[str, bytes] = {}
    beside: dict[str, tuple[str, ...]] = {}
    for name, spec in static_specs(content).items():
        svg = vl_convert.vegalite_to_svg(spec)
        files[f"{name}.svg"] = svg.encode()
        files[f"{name}.png"] = vl_convert.svg_to_png(svg, scale=PNG_SCALE)
        beside[name] = (f"{name}.svg", f"{name}.png")
    figures = tuple(folder / name for name in files)
    files["results.csv"] = csv_text(trial_rows(content.joined.labelled)).encode()
    files["results.md"] = results_markdown(content, tables(content)).encode()
    plain = clean_tree(to_plain(summary_plain(content)))
    files["summary.json"] = canonical_json(plain) + b"\n"
    beside["all"] = tuple(files)
    files["index.html"] = html.render(content, beside).encode()
    _write_all(folder, files)
    return ReportFiles(
        page=folder / "index.html",
        csv=folder / "results.csv",
        markdown=folder / "results.md",
        summary=folder / "summary.json",
        figures=figures,
    )


def static_specs(content: Content) -> dict[str, Spec]:
    """The figures as pictures: name -> Vega-Lite specification with title and legend."""
    specs = {"accuracy": draw.accuracy_chart(content.accuracy)}
    if content.published_figure is not None:
        specs["published"] = draw.pair_chart(content.published_figure, content.accuracy)
    if any(line.points for line in content.differences.lines):
        specs["differences"] = draw.differences_chart(content.differences)
    for name, figure in html.curve_figures(content).items():
        specs[name] = draw_curves.panels_chart(figure)
    return specs


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """The page last: where it stands, everything that it links to does."""
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
        raise StorageError(error.errno, f"the report cannot be written: {error}") from error
