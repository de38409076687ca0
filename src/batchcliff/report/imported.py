"""The report of an imported table: the same estimates and words, and the mark that it is one.

An imported table has no trial specifications, so there is no ledger, no environment and no
curve to show, and none is invented.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from batchcliff.canonical import canonical_json, to_plain
from batchcliff.published.imported import Imported
from batchcliff.published.table import Table as Trials
from batchcliff.report import draw, html
from batchcliff.report import pagetables as pages
from batchcliff.report.figures import AccuracyByBatch, Line, Point, cliff_bands, thin_dots
from batchcliff.report.pagetables import Table
from batchcliff.report.tables import markdown_cell, markdown_table
from batchcliff.report.text import clean, clean_tree, plural
from batchcliff.report.vega import svg_and_png
from batchcliff.report.words import cliff_rows, headline
from batchcliff.report.write import write_files
from batchcliff.stats.cells import Cell, Ending, make_cell
from batchcliff.stats.summary import StudySummary, gaps, summarize_cells

UNIT_WORDS = {"share": "shares", "percent": "percent"}
ENDED = ("diverged", "infeasible", "oom", "timeout", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedContent:
    """The report of an imported table as values; `marks` say what it is and is not."""

    imported: Imported
    marks: tuple[str, ...]
    headline: tuple[str, ...]
    summary: StudySummary
    figure: AccuracyByBatch
    tables: tuple[Table, ...]


def cells_of_table(trials: Trials) -> tuple[Cell, ...]:
    """Cells by arm in the order of the file, batch sizes ascending."""
    groups: dict[tuple[str, int], dict[int, Ending | None]] = defaultdict(dict)
    for row in trials.rows:
        groups[row.arm, row.batch_size][row.seed] = (row.outcome, row.accuracy)
    order = {arm: i for i, arm in enumerate(trials.arms)}
    keys = sorted(groups, key=lambda key: (order[key[0]], key[1]))
    return tuple(make_cell(arm, size, groups[arm, size]) for arm, size in keys)


def summary_of_table(imported: Imported, trials: Trials, level: float) -> StudySummary:
    """Estimates from a table, at a level. UsageError for what no estimate can be of."""
    cells = cells_of_table(trials)
    return summarize_cells(
        cells,
        imported.reference_arm,
        imported.tolerance,
        level,
        accuracy="as imported",
        chance=1 / imported.num_classes,
        notes=gaps(cells),
    )


def imported_content(
    imported: Imported, trials: Trials, level: float = 0.95
) -> ImportedContent:
    """Cliffs and shifts of an imported table. UsageError for what no estimate can be of."""
    summary = summary_of_table(imported, trials, level)
    rows = cliff_rows(summary)
    shown = [
        pages.cliffs_table(rows, summary),
        pages.shifts_table(summary),
        pages.wide_results_table(summary),
        pages.results_table(summary),
        pages.accounting_table(summary),
    ]
    if trials.paired:
        shown.append(pages.differences_table(summary))
    return ImportedContent(
        imported=imported,
        marks=_marks(imported, trials),
        headline=headline(summary),
        summary=summary,
        figure=_figure(imported, trials, summary),
        tables=tuple(table for table in shown if table.rows),
    )


def _marks(imported: Imported, trials: Trials) -> tuple[str, ...]:
    origin = (
        f"Imported from {clean(imported.source, 120)}, not run here: nothing is known of these "
        "trials but their table. What was trained, with which settings and on what, and "
        "whether the arms differ in more than their names, is its source's to say."
    )
    reading = (
        f"SHA-256 of the table: {imported.digest}. Accuracies are given as "
        f"{UNIT_WORDS[imported.unit]}; guessing is right in 1 of {imported.num_classes:,}."
    )
    marks = [origin, reading]
    if not trials.paired:
        marks.append(
            "No column seed: trials of two arms are taken as independent, not as pairs."
        )
    if trials.left_out:
        names = ", ".join(clean(name, 40) or "(no name)" for name in trials.left_out[:40])
        marks.append(f"Columns that were not read: {names}.")
    return (*marks, *(clean(note, 400) for note in imported.notes))


def _figure(imported: Imported, trials: Trials, summary: StudySummary) -> AccuracyByBatch:
    slot_of = {arm.arm: slot for slot, arm in enumerate(summary.arms)}
    count = sum(len(arm.cells) for arm in summary.arms)
    lines = tuple(
        Line(
            arm=arm.arm,
            slot=slot_of[arm.arm],
            points=tuple(
                Point(
                    batch_size=c.cell.batch_size,
                    n=c.cell.ok,
                    mean=c.mean.value,
                    low=c.mean.low,
                    high=c.mean.high,
                    dots=thin_dots(c.cell.accuracies, count),
                    floor=tuple((n, getattr(c.cell, n)) for n in ENDED if getattr(c.cell, n)),
                )
                for c in arm.cells
            ),
        )
        for arm in summary.arms
    )
    return AccuracyByBatch(
        title=f"{clean(imported.name, 60)}: test accuracy by batch size",
        subtitle=f"imported from {clean(imported.source, 80)}, not run here; "
        f"{plural(len(trials.rows), 'trial')}",
        batch_sizes=tuple(sorted({row.batch_size for row in trials.rows})),
        lines=lines,
        bands=tuple(b for arm in summary.arms for b in cliff_bands(arm, summary, slot_of)),
        chance=summary.chance,
        interval=f"{summary.level:.0%} t interval of the mean over ok trials",
    )


def write_imported(
    imported: Imported, trials: Trials, folder: Path
) -> tuple[Path, ImportedContent]:
    """Write index.html, accuracy.svg and .png, results.md and summary.json; (page, content).

    The same table gives the same bytes. Raises UsageError (nothing is written), StorageError.
    """
    content = imported_content(imported, trials)
    svg, png = svg_and_png(draw.accuracy_chart(content.figure))
    plain = clean_tree(
        to_plain(
            {
                "kind": "imported",
                "import": imported,
                "marks": content.marks,
                "headline": content.headline,
                "summary": content.summary,
                "figures": {"accuracy": content.figure},
            }
        )
    )
    files = {
        "accuracy.svg": svg,
        "accuracy.png": png,
        "results.md": _markdown(content).encode(),
        "summary.json": canonical_json(plain) + b"\n",
        "index.html": _page(content, svg).encode(),
    }
    write_files(folder, files)
    return folder / "index.html", content


def _markdown(content: ImportedContent) -> str:
    parts = [f"# {markdown_cell(content.imported.name)} (imported)\n"]
    parts.append("".join(f"- {markdown_cell(s)}\n" for s in content.headline))
    for table in content.tables:
        parts.append(f"**{markdown_cell(table.caption)}**\n")
        parts.append(markdown_table(table.header, table.rows))
    parts.append("".join(f"- {markdown_cell(s)}\n" for s in _cautions(content)))
    return "\n".join(parts)


def _cautions(content: ImportedContent) -> tuple[str, ...]:
    return (*content.marks, *(clean(note, 400) for note in content.summary.notes))


def _page(content: ImportedContent, svg: bytes) -> str:
    style = html.resource("page.css")
    template = html.environment().get_template("imported.html.jinja")
    return template.render(
        name=clean(content.imported.name, 120),
        policy=html.policy([], style) + "; img-src data:",
        style=style,
        headline=content.headline,
        cautions=_cautions(content),
        figure=content.figure,
        picture="data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
        tables=content.tables,
    )
