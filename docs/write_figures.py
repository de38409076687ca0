"""Writes every table of measured figures in README*.md, docs/ and benchmarks/ from records.

    python docs/write_figures.py            rewrite them
    python docs/write_figures.py --check    exit 1 if one is not what the records say

A table stands between `<!-- figures: KIND PATH -->` and `<!-- /figures -->`, PATH being a
study's folder or a benchmark's .json file (several, joined by +). What stands there is never
edited by hand. Tables of probes and of searches are made in the files beside this one.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figure_sources import ROOT, caption, read
from tables_of_probes import PROBE_KINDS
from tables_of_searches import SEARCH_KINDS
from tables_of_speed import SPEED_KINDS

from batchcliff import published
from batchcliff.record import Outcome, TrialRecord
from batchcliff.report.content import make_content
from batchcliff.report.join import join
from batchcliff.report.pagetables import mean_text
from batchcliff.report.tables import markdown_table, published_rows, trial_rows

BLOCK = re.compile(
    r"(?P<open><!-- figures: (?P<kind>[a-z-]+) (?P<path>\S+) -->\n)"
    r".*?(?P<close><!-- /figures -->)",
    re.DOTALL,
)
Cells = dict[tuple[str, int], list[TrialRecord]]


def shown(records: list[TrialRecord]) -> str:
    """The mean accuracy of a cell's ok trials in percent, and how the others ended."""
    values = [r.accuracy for r in records if r.outcome is Outcome.OK and r.accuracy is not None]
    others = [str(r.outcome) for r in records if r.outcome is not Outcome.OK]
    mean = f"{100 * sum(values) / len(values):.2f}" if values else ""
    return " ".join([mean, *others]).strip() or "missing"


def article_table(folder: Path) -> str:
    """The article's table beside ours, batch sizes as rows, as its author printed it."""
    store, plan, records = read(ROOT / folder)
    source = published.load(store.study.published)
    rows = {(r.arm, r.batch_size): r for r in published_rows(join(plan, records), source)}
    cells: Cells = {}
    for record in records:
        cells.setdefault((record.spec.arm, record.spec.batch_size), []).append(record)
    header = ["batch size"]
    for arm in source.arms:
        header += [f"{arm.name}: the article", "ours", "difference"]
    table = []
    for size in sorted({size for _, size in rows}):
        line = [f"{size:,}"]
        for arm in source.arms:
            row = rows[arm.name, size]
            difference = "" if row.difference is None else f"{100 * row.difference:+.2f}"
            line += [
                f"{100 * (row.published or 0):.2f}",
                shown(cells.get((arm.name, size), [])),
                difference,
            ]
        table.append(line)
    answer = "\n".join(f"> {s}" for s in make_content(store.study, records, plan).headline)
    return (
        f"Test accuracy in percent. {caption(records, len(cells))}\n\n"
        f"{markdown_table(header, table)}\n{answer}\n"
    )


def semantics_table(folder: Path) -> str:
    """Arms as rows, batch sizes as columns: accuracy, and the difference from the reference."""
    store, plan, records = read(ROOT / folder)
    by_id = {r.trial_id: r for r in records}
    cells: Cells = {}
    for arm, size, _, trial_id in plan:
        if trial_id in by_id:
            cells.setdefault((arm, size), []).append(by_id[trial_id])
    sizes = sorted(store.study.batch_sizes)
    base = store.study.reference_arm
    header = ["changed"]
    for size in sizes:
        header += [f"{size:,}", "difference", f"{size:,} re-estimated"]
    table = []
    for arm in dict.fromkeys(cell[0] for cell in plan):
        line = [arm]
        for size in sizes:
            ours, theirs = cells.get((arm, size), []), cells.get((base, size), [])
            line += [shown(ours), _difference(ours, theirs), _reestimated(ours)]
        table.append(line)
    return (
        f"Test accuracy in percent, difference from {base!r} in points. "
        f"{caption(records, len(cells))}\n\n" + markdown_table(header, table)
    )


def _difference(ours: list[TrialRecord], theirs: list[TrialRecord]) -> str:
    left, right = [r.accuracy for r in ours], [r.accuracy for r in theirs]
    if ours is theirs or None in left or None in right or not left or not right:
        return ""
    mean = sum(a or 0 for a in left) / len(left) - sum(a or 0 for a in right) / len(right)
    return f"{100 * mean:+.2f}"


def _reestimated(records: list[TrialRecord]) -> str:
    values = [r.accuracy_reestimated for r in records if r.accuracy_reestimated is not None]
    return f"{100 * sum(values) / len(values):.2f}" if values else ""


def answer_table(folder: Path) -> str:
    """Mean accuracy with its interval by batch size and arm, and the answer in words."""
    store, plan, records = read(ROOT / folder)
    content = make_content(store.study, records, plan)
    summary = content.summary
    cells = {(arm.arm, c.cell.batch_size): c for arm in summary.arms for c in arm.cells}
    sizes = sorted({size for _, size in cells})
    table = []
    for size in sizes:
        line = [f"{size:,}"]
        for arm in summary.arms:
            cell = cells.get((arm.arm, size))  # a search leaves some out
            line.append(
                f"{mean_text(cell.mean)}, {cell.failing} of {len(cell.cell.seeds)}"
                if cell
                else ""
            )
        table.append(line)
    return (
        "Test accuracy (mean, half of its 95% interval), and how many trials collapsed (ended "
        "more than half of the way down to chance). "
        f"{caption(records, len(cells))}\n\n"
        + markdown_table(["batch size", *(arm.arm for arm in summary.arms)], table)
        + "\n"
        + "\n".join(f"> {sentence}" for sentence in content.headline[:2])
        + "\n"
    )


def sentences(folder: Path) -> str:
    """The answer in words alone, for a search whose cells are too many for a page."""
    store, plan, records = read(ROOT / folder)
    content = make_content(store.study, records, plan)
    measured = {(r.spec.batch_size, r.spec.arm) for r in records}
    said = "".join(f"- {sentence}\n" for sentence in content.headline)
    return f"{said}\n{caption(records, len(measured))}\n"


def seeds_table(folder: Path) -> str:
    """Every trial by itself, in the order of the seeds: where a mean would hide them."""
    store, plan, records = read(ROOT / folder)
    by_id = {r.trial_id: r for r in records}
    cells: dict[tuple[int, str], list[str]] = {}
    for arm, size, _, trial_id in sorted(plan, key=lambda planned: planned[2]):
        trial = [by_id[trial_id]] if trial_id in by_id else []
        cells.setdefault((size, arm), []).append(shown(trial))
    arms = [arm.name for arm in store.study.arms]
    table = [
        [f"{size:,}", *(", ".join(cells.get((size, arm), [])) for arm in arms)]
        for size in sorted(store.study.batch_sizes)
    ]
    measured = {(r.spec.batch_size, r.spec.arm) for r in records}
    seeds = ", ".join(str(seed) for seed in store.study.seeds)
    return (
        f"Test accuracy in percent of each trial, seeds {seeds} in this order. "
        f"{caption(records, len(measured))}\n\n" + markdown_table(["batch size", *arms], table)
    )


def trials_table(folder: Path) -> str:
    """A row for every trial that has run: how it ended, and what its records hold besides."""
    store, plan, records = read(ROOT / folder)
    order = {arm.name: i for i, arm in enumerate(store.study.arms)}
    rows = sorted(
        trial_rows(records), key=lambda r: (r["batch_size"], order[r["arm"]], r["seed"])
    )
    columns = [
        (name, header, write)
        for name, header, write in TRIAL_FIGURES
        if any(row[name] not in (None, 0) for row in rows)
    ]
    table = [
        [row["arm"], f"{row['batch_size']:,}"]
        + ["" if row[name] is None else write(row[name]) for name, _, write in columns]
        for row in rows
    ]
    cells = {(r.spec.arm, r.spec.batch_size) for r in records}
    planned = len(plan)
    missing = f" {planned - len(records)} of {planned} planned trials have not run yet."
    return (
        f"{caption(records, len(cells))}.{missing * (len(records) < planned)}\n\n"
        + markdown_table(["arm", "batch size", *(header for _, header, _ in columns)], table)
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


TRIAL_FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("outcome", "outcome", str),
    ("accuracy", "accuracy, %", _percent),
    ("updates", "updates", "{:,}".format),
    ("examples", "examples", "{:,}".format),
    ("first_bad_update", "first bad update", "{:,}".format),
    ("skipped_updates", "skipped", "{:,}".format),
    ("first_gradient_norm", "first gradient norm", "{:.3g}".format),
    ("max_gradient_norm", "largest", "{:.3g}".format),
    ("weight_distance", "weights moved", "{:.2f}".format),
    ("old_accuracy_before", "old task before, %", _percent),
    ("old_accuracy", "after", _percent),
    ("old_accuracy_reestimated", "re-estimated", _percent),
)
"""Columns of `trials`: of the exported table, what stands over it, how it is written."""


def repeat_table(folders: Path) -> str:
    """The trials that two studies share, by id: how far one seed is from itself."""
    first, second = (
        {r.trial_id: r for r in read(ROOT / part)[2]} for part in str(folders).split("+")
    )
    both = sorted(
        first.keys() & second.keys(),
        key=lambda i: (first[i].spec.arm, first[i].spec.batch_size),
    )
    table = [
        [first[i].spec.arm, f"{first[i].spec.batch_size:,}", shown([first[i]]),
         shown([second[i]]), _difference([second[i]], [first[i]])]
        for i in both
    ]  # fmt: skip
    return (
        f"Test accuracy in percent of {len(both)} trials, each trained twice. "
        f"{caption([second[i] for i in both], len(both))}\n\n"
        + markdown_table(["arm", "batch size", "first", "again", "difference"], table)
    )


KINDS: dict[str, Callable[[Path], str]] = {
    "article": article_table,
    "semantics": semantics_table,
    "repeat": repeat_table,
    "answer": answer_table,
    "seeds": seeds_table,
    "sentences": sentences,
    "trials": trials_table,
    **PROBE_KINDS,
    **SEARCH_KINDS,
    **SPEED_KINDS,
}


def rewritten(text: str) -> str:
    """`text` with every block of figures made anew."""

    def make(match: re.Match[str]) -> str:
        table = KINDS[match["kind"]](Path(match["path"]))
        return f"{match['open']}{table}{match['close']}"

    return BLOCK.sub(make, text)


def main(arguments: list[str]) -> int:
    """Rewrite, or with --check only compare; 1 if something differs."""
    stale = []
    folders = (ROOT / "docs").rglob("*.md"), (ROOT / "benchmarks").glob("*.md")
    for page in sorted(itertools.chain(ROOT.glob("README*.md"), *folders)):
        old = page.read_text()
        new = rewritten(old)
        if new != old:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(new)
    sys.stdout.write(f"{'stale' if '--check' in arguments else 'written'}: {stale or 'none'}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
