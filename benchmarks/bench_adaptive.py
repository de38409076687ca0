"""What an adaptive search found and cost, beside a grid: a table for docs/log.md.

    python benchmarks/bench_adaptive.py STUDY --grid results/article-h100-jpeg \\
        --rates benchmarks/2026-11-22-h100-training.json

reads records only. For the article's workload on one GPU, first (docs/adaptive.md):

    batchcliff run article-adaptive --data cifar10/ --device cuda

Device seconds are a trial's seconds over the workers that shared its device. The cost of the
whole ladder with all seeds is calculated, and says so: from the mean trial of the search, or,
with --rates, from examples per second by batch size, measured with one trial at a time and
interpolated on log2 B; so are then the seconds of all rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batchcliff.record import TrialRecord
from batchcliff.spec import Search, StudySpec
from batchcliff.stats.search import KINDS, Decision, Sought, search
from batchcliff.study.adaptive import Place, ladder, recorded
from batchcliff.study.store import Store


def read(folder: Path) -> tuple[StudySpec, dict[Place, TrialRecord]]:
    """A study and its records by place."""
    with Store.open(folder) as store:
        return store.study, recorded(store.planned(), store.records())


def ladders(study: StudySpec, found: Mapping[Place, TrialRecord]) -> dict[str, tuple[int, ...]]:
    """Sizes by arm, from the smallest that the arm tried: until 2026-11-24 a search did not
    try the smallest of the study in every arm, and such a search is over as it was."""
    whole = set(ladder(study.batch_sizes, study.search.precision)) if study.search else set()
    sizes = {}
    for arm in study.arms:
        tried = {size for name, size, _ in found if name == arm.name}
        sizes[arm.name] = tuple(s for s in sorted(whole | tried) if s >= min(tried, default=0))
    return sizes


def looked_at(study: StudySpec, found: Mapping[Place, TrialRecord]) -> Decision:
    """Where the cliffs lie by the trials there are, read as the search reads them."""
    wanted = dataclasses.replace(study, search=study.search or Search())
    sizes = ladders(study, found)
    (classes,) = {r.ledger.num_classes for r in found.values() if r.ledger is not None}
    return search(wanted, sizes, 1 / classes, found)


def replayed(study: StudySpec, found: Mapping[Place, TrialRecord]) -> dict[Place, TrialRecord]:
    """The records that the search would have asked for by the rules of today.

    Raises KeyError where it would have asked for a trial that was not run.
    """
    assert study.search is not None
    sizes = ladders(study, found)
    (classes,) = {r.ledger.num_classes for r in found.values() if r.ledger is not None}
    asked: dict[Place, TrialRecord] = {}
    while wanted := search(study, sizes, 1 / classes, asked).wanted:
        places = [(one.arm, one.batch_size, one.seed) for one in wanted]
        asked |= {place: found[place] for place in places}
    return asked


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


class Rates(NamedTuple):
    """Examples per second, one trial at a time on its device, by log2 of the batch size."""

    log2_sizes: tuple[float, ...]
    rates: tuple[float, ...]
    device: str

    @classmethod
    def read(cls, file: Path) -> Rates:
        """Those of benchmarks/bench_training.py."""
        rows = sorted(json.loads(file.read_text()), key=lambda row: row["batch_size"])
        (device,) = {row["device"] for row in rows}
        sizes = tuple(math.log2(row["batch_size"]) for row in rows)
        return cls(sizes, tuple(row["examples_per_second"] for row in rows), device)

    def seconds(self, batch_size: int, examples: float) -> float:
        """Of a trial with so many examples."""
        return examples / float(np.interp(math.log2(batch_size), self.log2_sizes, self.rates))


def device_seconds(found: Mapping[Place, TrialRecord], rates: Rates | None) -> float:
    """What trials cost: as they ran, each its share of the device, or by measured rates."""
    if rates is not None:
        return sum(rates.seconds(size, r.examples) for (_, size, _), r in found.items())
    spent = [r.provenance for r in found.values() if r.provenance is not None]
    return sum(one.seconds / one.workers for one in spent)


def row(
    name: str, study: StudySpec, found: Mapping[Place, TrialRecord], rates: Rates | None
) -> tuple[float, list[str]]:
    """Device seconds, and the cells of a table's line."""
    sought = looked_at(study, found).sought
    seconds = device_seconds(found, rates)
    examples = sum(record.examples for record in found.values())
    cliffs = [
        bracket(
            next(s for s in sought if (s.arm, s.kind) == (arm.name, kind)),
            searched=study.search is not None,
        )
        for arm in study.arms
        for kind in KINDS
    ]
    return seconds, [name, str(len(found)), f"{examples:.3g}", f"{seconds:.0f}", *cliffs]


def devices(found: Mapping[Place, TrialRecord]) -> str:
    """What the trials ran on."""
    return ", ".join(
        sorted({r.provenance.device for r in found.values() if r.provenance is not None})
    )


def whole_ladder(
    study: StudySpec, found: Mapping[Place, TrialRecord], rates: Rates | None
) -> tuple[int, float, list[str]]:
    """Trials, device seconds and line of every size with every seed, calculated."""
    sizes = ladder(study.batch_sizes, study.search.precision if study.search else math.sqrt(2))
    times = len(study.seeds) * len(study.arms)
    trials = times * len(sizes)
    mean = sum(r.examples for r in found.values()) / len(found)
    seconds = trials * device_seconds(found, None) / len(found)
    if rates is not None:
        seconds = times * sum(rates.seconds(size, mean) for size in sizes)
    name = f"ladder of {len(sizes)} sizes, {len(study.seeds)} seeds (calculated)"
    cells = [name, str(trials), f"{trials * mean:.3g}", f"{seconds:.0f}"]
    return trials, seconds, cells + [""] * (len(KINDS) * len(study.arms))


def table(
    folder: Path, grids: Sequence[Path], rates: Rates | None = None
) -> tuple[list[list[str]], str]:
    """Rows, the header first: the search, the whole ladder (calculated, unless one of the
    grids is it), the grids; and on which devices."""
    study, found = read(folder)
    heads = [f"{kind} {arm.name}" for arm in study.arms for kind in KINDS]
    seconds, cells = row("adaptive", study, found, rates)
    lines = [["", "trials", "examples", "device s", *heads], cells]
    said = [f"Adaptive: {devices(found)}."]
    over = all(one.over for one in looked_at(study, found).sought)
    trials, all_seconds, calculated = whole_ladder(study, found, rates)
    shares = [(len(found), seconds)]
    if over and (asked := replayed(study, found)) != found:
        seconds, cells = row("adaptive, replayed by the rules of today", study, asked, rates)
        lines.append(cells)
        shares.append((len(asked), seconds))
    others = []
    for other_folder in grids:
        other, records = read(other_folder)
        arms = {arm.name for arm in study.arms}
        records = {place: r for place, r in records.items() if place[0] in arms}
        other = dataclasses.replace(other, arms=study.arms)
        others.append((len(records), row(f"grid {other_folder.name}", other, records, rates)))
        said.append(f"Grid {other_folder.name}: {devices(records)}.")
    if all(count != trials for count, _ in others):
        lines.append(calculated)
    else:
        (all_seconds,) = (spent for count, (spent, _) in others if count == trials)
    lines += [cells for _, (_, cells) in others]
    if rates is not None:
        said.append(f"Device seconds by the rates of one trial at a time, {rates.device}.")
    took = [f"{count / trials:.0%} of the ladder's trials" for count, _ in shares]
    if rates is not None:
        took = [
            f"{part} and {spent / all_seconds:.0%} of its device seconds"
            for part, (_, spent) in zip(took, shares, strict=True)
        ]
    start = "The search took" if over else "The search is not over; so far it took"
    replay = f"; replayed, {took[1]}" if len(took) > 1 else ""
    return lines, f"{' '.join(said)} {start} {took[0]}{replay}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the adaptive study")
    parser.add_argument("--grid", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--rates", type=Path, metavar="FILE", help="of bench_training.py")
    options = parser.parse_args()
    rates = None if options.rates is None else Rates.read(options.rates)
    lines, said = table(options.study, options.grid, rates)
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    print(f"\n{said}")


if __name__ == "__main__":
    main()
