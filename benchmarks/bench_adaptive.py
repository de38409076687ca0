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
from collections.abc import Mapping
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
    sizes = {
        arm.name: tuple(sorted({size for name, size, _ in found if name == arm.name}))
        for arm in study.arms
    }
    (classes,) = {r.ledger.num_classes for r in found.values() if r.ledger is not None}
    return search(wanted, sizes, 1 / classes, found)


def bracket(one: Sought) -> str:
    """`610 (512 to 728)`, `> 8192`, `< 128`."""
    if one.state == "above":
        return f"> {one.holds}"
    if one.state == "below":
        return f"< {one.falls}"
    at = "" if one.at is None else f"{one.at:.0f} "
    return f"{at}({one.holds} to {one.falls})"


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
        bracket(next(s for s in sought if (s.arm, s.kind) == (arm.name, kind)))
        for arm in study.arms
        for kind in KINDS
    ]
    cells = [name, str(len(found)), f"{examples:.3g}", f"{seconds:.0f}", *cliffs]
    return ", ".join(sorted(devices)), len(found), seconds, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the adaptive study")
    parser.add_argument("--grid", type=Path, action="append", default=[], metavar="FOLDER")
    options = parser.parse_args()
    study, found = read(options.study)
    heads = [f"{kind} {arm.name}" for arm in study.arms for kind in KINDS]
    lines = [["", "trials", "examples", "device s", *heads]]
    devices, trials, seconds, cells = row("adaptive", study, found)
    lines.append(cells)
    said = [f"Adaptive: {devices}."]
    sizes = ladder(study.batch_sizes, study.search.precision if study.search else math.sqrt(2))
    whole = len(sizes) * len(study.seeds) * len(study.arms)
    lines.append(
        [
            f"ladder of {len(sizes)} sizes, {len(study.seeds)} seeds (calculated)",
            str(whole),
            f"{whole * sum(r.examples for r in found.values()) / trials:.3g}",
            f"{whole * seconds / trials:.0f}",
            *[""] * len(heads),
        ]
    )
    for folder in options.grid:
        other, records = read(folder)
        arms = {arm.name for arm in study.arms}
        records = {place: r for place, r in records.items() if place[0] in arms}
        other = dataclasses.replace(other, arms=study.arms)
        devices, _, _, cells = row(f"grid {folder.name}", other, records)
        lines.append(cells)
        said.append(f"Grid {folder.name}: {devices}.")
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    print(f"\n{' '.join(said)} The search took {trials / whole:.0%} of the ladder's trials.")


if __name__ == "__main__":
    main()
