"""Tables of adaptive searches: what they found and cost, simulated and really run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from figure_sources import ROOT

from batchcliff.report.tables import markdown_table

sys.path.insert(0, str(ROOT / "benchmarks"))
import bench_adaptive
import bench_search


def simulated_table(file: Path) -> str:
    """Shares of cliffs that simulated searches found, and what they took."""
    rows = json.loads((ROOT / file).read_text())
    return f"{rows[0]['studies']} studies of each kind.\n\n" + markdown_table(
        bench_search.HEADER, [bench_search.line(row) for row in rows]
    )


def searched_table(path: Path) -> str:
    """A search, the whole ladder, and the grids after the first + of the path; a JSON file
    among them holds the rates by which device seconds are calculated."""
    study, *others = (ROOT / part for part in str(path).split("+"))
    grids = [other for other in others if other.suffix != ".json"]
    files = [other for other in others if other.suffix == ".json"]
    rates = bench_adaptive.Rates.read(files[0]) if files else None
    (header, *rows), said = bench_adaptive.table(study, grids, rates)
    return f"{said}\n\n{markdown_table(header, rows)}"


SEARCH_KINDS: dict[str, Callable[[Path], str]] = {
    "simulated-search": simulated_table,
    "search": searched_table,
}
