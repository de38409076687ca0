"""How true the intervals of `batchcliff.stats` are: simulated studies with known cliffs.

    python benchmarks/bench_coverage.py --studies 2000 --machine 2core-x86 --date 2026-11-22

writes benchmarks/<date>-<machine>-coverage.json, the same whatever the `--processes`.
docs/statistics.md explains the rows and the figures: of `populations`, where each study is of
another kind, and of `fixed_settings`, of one kind a row. A truth beyond the grid is held by
an interval that is open on that side, however wide: such answers are counted by themselves
(`beyond_share` of the studies, `beyond_held` of those), and are in no `coverage`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy
from simulated_studies import (
    CHANCE,
    GRID,
    PLATEAU,
    POPULATIONS,
    SETTINGS,
    SIZES,
    Setting,
    draw_study,
    population,
    random_setting,
    true_tolerance,
)

from batchcliff.stats.cliff import (
    collapse_cliff,
    draw_cliffs,
    make_reference,
    settled,
    tolerance_cliff,
)
from batchcliff.stats.compare import draw_pair, shift
from batchcliff.stats.intervals import Estimate

LEVEL = 0.95
SHOWN = ("coverage", "false_alarms", "power", "_bias_octaves")
CHUNK = 125  # studies that one process simulates at a time, from a random stream of their own


class Tally:
    """Counts over studies for one estimator."""

    def __init__(self) -> None:
        self.covered: list[bool] = []
        self.held: list[bool] = []  # of the truths beyond the grid
        self.errors: list[float] = []
        self.widths: list[float] = []
        self.open = 0

    def add(
        self,
        estimate: Estimate,
        truth_log2: float,
        ends: tuple[float, float],
        beyond: bool = False,
    ) -> None:
        """`beyond`: what is estimated lies, in part, outside of the grid."""
        beyond = beyond or not ends[0] <= truth_log2 <= ends[1]
        (self.held if beyond else self.covered).append(covers(estimate, truth_log2, ends))
        bound = bool(estimate.censored) and ends != GRID  # of a shift: no value to be wrong
        if estimate.value is not None and not bound:
            value = math.log2(estimate.value)
            self.errors.append(value - float(np.clip(truth_log2, *ends)))
        if estimate.low is not None and estimate.high is not None:
            self.widths.append(math.log2(estimate.high / estimate.low))
        else:
            self.open += 1

    def __iadd__(self, other: Tally) -> Tally:
        for name in ("covered", "held", "errors", "widths"):
            getattr(self, name).extend(getattr(other, name))
        self.open += other.open
        return self

    def row(self) -> dict[str, float | None]:
        n = len(self.covered) + len(self.held)
        errors = np.array(self.errors)

        def rounded(value: float, known: int) -> float | None:
            return round(float(value), 4) if known else None

        def mean(values: list[bool]) -> float | None:
            return rounded(sum(values) / max(len(values), 1), len(values))

        size = errors.size
        return {
            "n": n,
            "coverage": mean(self.covered),
            "beyond_share": round(len(self.held) / n, 4),
            "beyond_held": mean(self.held),
            "bias_octaves": rounded(errors.mean() if size else 0.0, size),
            "median_bias_octaves": rounded(np.median(errors) if size else 0.0, size),
            "rmse_octaves": rounded(np.sqrt(np.mean(errors**2)) if size else 0.0, size),
            "median_width_octaves": rounded(
                np.median(self.widths) if self.widths else 0.0, len(self.widths)
            ),
            "open_share": round(self.open / n, 4),
        }


@dataclass
class Simulated:
    """What came of some studies of one kind."""

    studies: int = 0
    tally: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    alarms: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Simulated) -> Simulated:
        self.studies += other.studies
        for name, counts in other.tally.items():
            self.tally[name] += counts
        self.alarms += other.alarms
        self.found += other.found
        return self

    def row(self) -> dict[str, object]:
        rows: dict[str, object] = {
            f"{name}_{key}": value
            for name, counts in self.tally.items()
            for key, value in counts.row().items()
        }
        for kind in ("tolerance", "collapse"):
            rows[f"{kind}_false_alarms"] = round(self.alarms[kind] / self.studies, 4)
            rows[f"{kind}_power"] = round(self.found[kind] / self.studies, 4)
        return rows


def covers(estimate: Estimate, truth_log2: float, ends: tuple[float, float]) -> bool:
    """Whether the interval holds the truth; one beyond the grid is held by an open side."""
    if truth_log2 > ends[1]:
        return estimate.unbounded in ("high", "both")
    if truth_log2 < ends[0]:
        return estimate.unbounded in ("low", "both")
    return estimate.covers(2.0**truth_log2)


@dataclass(frozen=True)
class Task:
    """A chunk of the studies of one row: what a process is given."""

    setting: Setting
    seeds: int
    studies: int
    stream: tuple[int, ...]


def tasks(setting: Setting, seeds: int, studies: int, base_seed: int) -> list[Task]:
    """The row's studies in chunks, each with its own random stream."""
    sizes = [min(CHUNK, studies - first) for first in range(0, studies, CHUNK)]
    return [Task(setting, seeds, n, (base_seed, seeds, i)) for i, n in enumerate(sizes)]


def simulate(task: Task) -> Simulated:
    rng = np.random.default_rng(task.stream)
    done = Simulated(studies=task.studies)
    for _ in range(task.studies):
        setting = task.setting
        if setting.kind == "random":
            setting = random_setting(setting.name, rng)
        add_study(setting, task.seeds, rng, done)
    return done


def add_study(setting: Setting, seeds: int, rng: np.random.Generator, done: Simulated) -> None:
    """One study: a reference arm, an arm with the same truth, and one whose cliff is moved."""
    midpoint = setting.midpoint + setting.octaves * rng.random()
    base = population(setting, midpoint, setting.width)
    shifted = setting.shift
    if setting.any_shift:
        shifted += setting.any_shift * (rng.random() - 0.5)
    moved = population(setting, midpoint + shifted, setting.width * setting.widening)
    threshold = base.mean[0] - setting.delta
    truth = [
        {"tolerance": true_tolerance(arm.mean, threshold), "collapse": arm.midpoint}
        for arm in (base, moved)
    ]
    drawn = draw_study(setting, [base, base, moved], seeds, rng)
    reference = make_reference(drawn[0], CHANCE, setting.delta, LEVEL)
    (first, same, other), reference = settled(drawn, reference)
    own = draw_cliffs(first, reference)[0]
    null, pair = draw_pair(same, reference), draw_pair(other, reference)
    for kind, cliff in (("tolerance", tolerance_cliff), ("collapse", collapse_cliff)):
        done.tally[kind].add(cliff(first, reference, own), truth[0][kind], GRID)
        done.tally[f"{kind}_arm"].add(cliff(other, reference, pair[0]), truth[1][kind], GRID)
        p_value = shift(same, reference, kind, null).p_value
        done.alarms[kind] += p_value is not None and p_value <= 1 - LEVEL
        got = shift(other, reference, kind, pair)
        done.found[kind] += got.p_value is not None and got.p_value <= 1 - LEVEL
        true_shift = truth[1][kind] - truth[0][kind]
        if math.isfinite(true_shift):
            beyond = any(not GRID[0] <= arm[kind] <= GRID[1] for arm in truth)
            done.tally[f"{kind}_shift"].add(got.factor, true_shift, (-99.0, 99.0), beyond)


def merged(parts: Iterable[Simulated]) -> Simulated:
    whole = Simulated()
    for part in parts:
        whole += part
    return whole


def run_setting(
    setting: Setting, seeds: int, studies: int, base_seed: int
) -> dict[str, object]:
    """Coverages of one setting at one number of seeds, over `studies` simulated studies."""
    return merged(map(simulate, tasks(setting, seeds, studies, base_seed))).row()


TABLES = (  # of docs/statistics.md: (key in the report, heading)
    (
        ("tolerance_coverage", "tolerance"),
        ("tolerance_arm_coverage", "arm's"),
        ("tolerance_shift_coverage", "shift"),
        ("tolerance_false_alarms", "alarms"),
        ("tolerance_power", "power"),
        ("tolerance_median_width_octaves", "width"),
        ("collapse_coverage", "collapse"),
        ("collapse_arm_coverage", "arm's"),
        ("collapse_shift_coverage", "shift"),
        ("collapse_false_alarms", "alarms"),
        ("collapse_power", "power"),
        ("collapse_median_width_octaves", "width"),
    ),
    (
        ("tolerance_bias_octaves", "tolerance"),
        ("tolerance_median_bias_octaves", "median"),
        ("tolerance_rmse_octaves", "rmse"),
        ("tolerance_arm_bias_octaves", "arm's"),
        ("tolerance_arm_median_bias_octaves", "median"),
        ("tolerance_shift_bias_octaves", "shift"),
        ("collapse_bias_octaves", "collapse"),
        ("collapse_arm_bias_octaves", "arm's"),
        ("collapse_shift_bias_octaves", "shift"),
        ("tolerance_arm_beyond_share", "arm's tolerance beyond"),
        ("collapse_arm_beyond_share", "arm's collapse beyond"),
        ("collapse_arm_beyond_held", "held"),
    ),
)


def table(rows: list[dict], columns: tuple[tuple[str, str], ...]) -> str:
    """Rows of a report as a Markdown table; octaves as they are, shares in percent."""
    lines = ["| setting | seeds | " + " | ".join(heading for _, heading in columns) + " |"]
    lines.append("|---|---|" + "---|" * len(columns))
    for row in rows:
        cells = []
        for key, _ in columns:
            value = row.get(key)
            if value is None:
                cells.append("")
            elif key.endswith("octaves"):
                cells.append(f"{value:+.2f}" if "bias" in key else f"{value:.2f}")
            else:
                cells.append(f"{100 * value:.1f}")
        lines.append(f"| {row['setting']} | {row['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument(
        "--machine", default="2core-x86", help="a kind of machine, no host name"
    )
    parser.add_argument("--date", default="undated", help="YYYY-MM-DD, part of the file's name")
    parser.add_argument(
        "--table", type=Path, help="print a finished report as Markdown; only that"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="settings, comma-separated; default all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seeds", default="3,5,10", help="of a cell, comma-separated")
    options = parser.parse_args()
    if options.table:
        finished = json.loads(options.table.read_text())
        parts = [finished[key] for key in ("populations", "fixed_settings")]
        print("\n\n".join(table(rows, columns) for rows in parts for columns in TABLES))
        return
    every = POPULATIONS + SETTINGS
    wanted = [s for s in every if not options.only or s.name in options.only.split(",")]
    started = time.perf_counter()
    populations: list[dict[str, object]] = []
    fixed: list[dict[str, object]] = []
    kinds = [(setting, int(seeds)) for setting in wanted for seeds in options.seeds.split(",")]
    chunks = [tasks(*kind, options.studies, options.seed) for kind in kinds]
    with ProcessPoolExecutor(options.processes) as pool:
        results = pool.map(simulate, [task for row in chunks for task in row])
        for (setting, seeds), row in zip(kinds, chunks, strict=True):
            figures = merged(next(results) for _ in row).row()
            rows = populations if setting.kind == "random" else fixed
            rows.append({"setting": setting.name, "seeds": seeds, **figures})
            shown = [f"{k}={v}" for k, v in figures.items() if k.endswith(SHOWN)]
            print(setting.name, seeds, *shown, flush=True)
    report = {
        "benchmark": "coverage of the intervals of batchcliff.stats on simulated studies",
        "date": options.date,
        "machine": options.machine,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "n_studies_per_row": options.studies,
        "level": LEVEL,
        "chance": CHANCE,
        "plateau": PLATEAU,
        "batch_sizes": SIZES,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "settings": [dataclasses.asdict(s) for s in wanted if s.kind != "random"],
        "populations": populations,
        "fixed_settings": fixed,
    }
    path = options.out / f"{options.date}-{options.machine}-coverage.json"
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(path.name, f"{report['seconds']} s")


if __name__ == "__main__":
    main()
