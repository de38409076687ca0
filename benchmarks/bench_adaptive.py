"""What an adaptive search found and cost, beside a grid: a table for docs/log.md.

    python benchmarks/bench_adaptive.py STUDY --grid results/article-h100-jpeg

reads records only. For the article's workload on one GPU, first (docs/adaptive.md):

    batchcliff run article-adaptive --data cifar10/ --device cuda

Device seconds are a trial's seconds over the workers that shared its device. The cost of the
whole ladder with all seeds is calculated from the mean trial of the search, and says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from batchcliff.record import TrialRecord
from batchcliff.spec import Search, StudySpec
from batchcliff.stats.search import KINDS, Decision, Sought, search
from batchcliff.study.adaptive import Place, ladder, recorded
from batchcliff.study.store import Store


def read(folder: Path) -> tuple[StudySpec, dict[Place, TrialRecord]]:
    """A study and its records by place."""
    with Store.open(folder) as store:
        return store.study, recorded(store.planned(), store.records())


def looked_at(study: StudySpec, found: Mapping[Place, TrialRecord]) -> Decision:
    """Where the cliffs lie by the trials there are, read as the search reads them."""
    wanted = dataclasses.replace(study, search=study.search or Search())
    whole = set(ladder(study.batch_sizes, study.search.precision)) if study.search else set()
    sizes = {
        arm.name: tuple(sorted(whole | {size for name, size, _ in found if name == arm.name}))
        for arm in study.arms
    }
    (classes,) = {r.ledger.num_classes for r in found.values() if r.ledger is not None}
    return search(wanted, sizes, 1 / classes, found)


def bracket(one: Sought, searched: bool = True) -> str:
    """`610 (512 to 728)`, `> 8192`, `< 128`; a search that is not over says so."""
    if one.state == "above":
        return f"> {one.holds}"
    if one.state == "below":
        return f"< {one.falls}"
    between = f"{one.holds} to {one.falls}"
    if one.at is not None:
        between = f"{one.at:.0f} ({between})"
    return f"{between}, {one.state}" if searched and not one.over else between


def device_seconds(record: TrialRecord) -> float:
    """The trial's share of the device, in seconds."""
    where = record.provenance
    return 0.0 if where is None else where.seconds / where.workers


def row(
    name: str, study: StudySpec, found: Mapping[Place, TrialRecord]
) -> tuple[str, float, float, list[str]]:
    """The cells of a table's line; trials and device seconds."""
    sought = looked_at(study, found).sought
    seconds = sum(map(device_seconds, found.values()))
    examples = sum(record.examples for record in found.values())
    devices = {r.provenance.device for r in found.values() if r.provenance is not None}
    cliffs = [
        bracket(
            next(s for s in sought if (s.arm, s.kind) == (arm.name, kind)),
            searched=study.search is not None,
        )
        for arm in study.arms
        for kind in KINDS
    ]
    cells = [name, str(len(found)), f"{examples:.3g}", f"{seconds:.0f}", *cliffs]
    return ", ".join(sorted(devices)), len(found), seconds, cells


def table(folder: Path, grids: Sequence[Path]) -> tuple[list[list[str]], str]:
    """Rows, the header first: the search, the whole ladder (calculated, unless one of the
    grids is it), the grids; and on which devices."""
    study, found = read(folder)
    heads = [f"{kind} {arm.name}" for arm in study.arms for kind in KINDS]
    lines = [["", "trials", "examples", "device s", *heads]]
    devices, trials, seconds, cells = row("adaptive", study, found)
    lines.append(cells)
    said = [f"Adaptive: {devices}."]
    sizes = ladder(study.batch_sizes, study.search.precision if study.search else math.sqrt(2))
    whole = len(sizes) * len(study.seeds) * len(study.arms)
    others = []
    for other_folder in grids:
        other, records = read(other_folder)
        arms = {arm.name for arm in study.arms}
        records = {place: r for place, r in records.items() if place[0] in arms}
        other = dataclasses.replace(other, arms=study.arms)
        name = f"grid {other_folder.name}"
        devices, count, _, cells = row(name, other, records)
        others.append((count, cells))
        said.append(f"Grid {other_folder.name}: {devices}.")
    if all(count != whole for count, _ in others):
        lines.append(
            [
                f"ladder of {len(sizes)} sizes, {len(study.seeds)} seeds (calculated)",
                str(whole),
                f"{whole * sum(r.examples for r in found.values()) / trials:.3g}",
                f"{whole * seconds / trials:.0f}",
                *[""] * len(heads),
            ]
        )
    lines += [cells for _, cells in others]
    over = all(one.over for one in looked_at(study, found).sought)
    took = "The search took" if over else "The search is not over; so far it took"
    return lines, f"{' '.join(said)} {took} {trials / whole:.0%} of the ladder's trials."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the adaptive study")
    parser.add_argument("--grid", type=Path, action="append", default=[], metavar="FOLDER")
    options = parser.parse_args()
    lines, said = table(options.study, options.grid)
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    print(f"\n{said}")


if __name__ == "__main__":
    main()
