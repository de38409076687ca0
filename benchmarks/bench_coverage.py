"""How true the intervals of `batchcliff.stats` are: simulated studies with known cliffs.

    python benchmarks/bench_coverage.py --studies 2000 --machine 2core-x86 --date 2026-11-22

writes benchmarks/<date>-<machine>-coverage.json. docs/statistics.md explains the settings
and the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy

from batchcliff.stats.cliff import (
    collapse_cliff,
    draw_cliffs,
    make_reference,
    tolerance_cliff,
)
from batchcliff.stats.compare import draw_pair, shift
from batchcliff.stats.draws import Curve
from batchcliff.stats.intervals import Estimate

CHANCE, PLATEAU, DELTA, LEVEL = 0.1, 0.98, 0.02, 0.95
SIZES = (32, 64, 128, 256, 512, 1024, 2048)
GRID = (math.log2(SIZES[0]), math.log2(SIZES[-1]))
SHOWN = ("coverage", "false_alarms", "power", "_bias_octaves")
COLLAPSED, COLLAPSED_SPREAD = 0.2, 0.06  # accuracy of a collapsed trial that did not diverge


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One kind of study. `midpoint`: log2 batch size of collapse, plus U(0, 1) per study."""

    name: str
    kind: str = "bimodal"  # "skewed": no logistic; "gradual": means fall, nothing collapses
    width: float = 0.25  # octaves, of the logistic
    midpoint: float = 8.0
    slope: float = 0.004  # accuracy lost per octave before the cliff (bimodal)
    lost: float = 0.0  # share of trials without result
    shift: float = 1.0  # octaves by which the arm's collapse lies beyond the reference's
    correlation: float = 0.5  # of the arms' seed noise
    flaky: float = 0.0  # share of trials that collapse at any batch size
    widening: float = 1.0  # the arm's width over the reference's


SETTINGS = (
    Setting(name="gradual", kind="gradual", width=0.45),
    Setting(name="bimodal"),
    Setting(name="bimodal-wide-unpaired", width=0.5, correlation=0.0),
    Setting(name="bimodal-sharp", width=0.08),
    Setting(name="bimodal-skewed", kind="skewed"),
    Setting(name="bimodal-flaky", flaky=0.03),
    Setting(name="bimodal-widening", widening=1.5),
    Setting(name="censored-above-lost", midpoint=9.5, lost=0.15),
    Setting(name="censored-below", midpoint=8.0, shift=-4.0),
)


@dataclass(frozen=True)
class Population:
    """One arm's truth on the grid: all [K]; `midpoint` is log2 of the collapse cliff."""

    fail: np.ndarray
    standing: np.ndarray
    spread: np.ndarray
    midpoint: float

    @property
    def mean(self) -> np.ndarray:
        collapsed = (CHANCE + COLLAPSED) / 2  # half of the failing diverge
        return self.fail * collapsed + (1 - self.fail) * self.standing


def population(setting: Setting, midpoint: float, width: float) -> Population:
    x = np.log2(np.array(SIZES, dtype=float))
    z = np.clip((x - midpoint) / width, -500, 500)
    share = 1 / (1 + np.exp(-z))
    if setting.kind == "gradual":
        standing = CHANCE + (PLATEAU - CHANCE) * (1 - share)
        spread = 0.003 + 0.16 * share * (1 - share)
        return Population(np.zeros_like(x), standing, spread, midpoint)
    if setting.kind == "skewed":  # Gumbel: 1 - 2^-exp(z), a long tail towards small batches
        share = 1 - 0.5 ** np.exp(np.minimum(z, 20.0))
    share = setting.flaky + (1 - setting.flaky) * share
    if setting.flaky:  # the midpoint of what fails in all
        midpoint += width * math.log((0.5 - setting.flaky) / 0.5)
    standing = PLATEAU - setting.slope * (x - x[0])
    spread = 0.003 + 0.007 * np.exp(-((x - midpoint) ** 2))
    return Population(share, standing, spread, midpoint)


def true_tolerance(mean: np.ndarray, threshold: float) -> float:
    """log2 of where the falling population curve crosses; +-inf outside. Plain loop."""
    x = np.log2(np.array(SIZES, dtype=float))
    if mean[0] < threshold:
        return -math.inf
    for k in range(len(x) - 1):
        if mean[k + 1] < threshold:
            return float(x[k] + (mean[k] - threshold) / (mean[k] - mean[k + 1]))
    return math.inf


def draw_study(
    setting: Setting, arms: list[Population], seeds: int, rng: np.random.Generator
) -> list[Curve]:
    """Curves of the arms, with seed noise that correlates across arms within a cell."""
    sizes = len(SIZES)
    r = math.sqrt(setting.correlation)
    common = rng.standard_normal((2, seeds, sizes))
    curves = []
    for index, arm in enumerate(arms):
        noise = r * common + math.sqrt(1 - r * r) * rng.standard_normal((2, seeds, sizes))
        accuracy = arm.standing + arm.spread * noise[0]
        uniform = scipy.special.ndtr(noise[1])
        failed = uniform < arm.fail
        diverged = failed & (rng.random((seeds, sizes)) < 0.5)
        low = COLLAPSED + COLLAPSED_SPREAD * rng.standard_normal((seeds, sizes))
        value = np.where(diverged, CHANCE, np.where(failed, low, accuracy))
        value = np.clip(value, 0.0, 1.0)
        here = rng.random((seeds, sizes)) >= setting.lost
        used = [k for k in range(sizes) if here[:, k].any()]
        curves.append(
            Curve(
                arm=f"arm{index}",
                batch_sizes=tuple(SIZES[k] for k in used),
                values=tuple(
                    {s: float(value[s, k]) for s in range(seeds) if here[s, k]} for k in used
                ),
                diverged=tuple(
                    frozenset(s for s in range(seeds) if here[s, k] and diverged[s, k])
                    for k in used
                ),
            )
        )
    return curves


class Tally:
    """Counts over studies for one estimator."""

    def __init__(self) -> None:
        self.covered: list[bool] = []
        self.errors: list[float] = []
        self.widths: list[float] = []
        self.open = 0

    def add(self, estimate: Estimate, truth_log2: float, ends: tuple[float, float]) -> None:
        self.covered.append(covers(estimate, truth_log2, ends))
        bound = bool(estimate.censored) and ends != GRID  # of a shift: no value to be wrong
        if estimate.value is not None and not bound:
            value = math.log2(estimate.value)
            self.errors.append(value - float(np.clip(truth_log2, *ends)))
        if estimate.low is not None and estimate.high is not None:
            self.widths.append(math.log2(estimate.high / estimate.low))
        else:
            self.open += 1

    def row(self) -> dict[str, float | None]:
        n = len(self.covered)
        return {
            "n": n,
            "coverage": round(sum(self.covered) / n, 4),
            "bias_octaves": round(float(np.mean(self.errors)), 4) if self.errors else None,
            "median_bias_octaves": (
                round(float(np.median(self.errors)), 4) if self.errors else None
            ),
            "rmse_octaves": (
                round(float(np.sqrt(np.mean(np.square(self.errors)))), 4)
                if self.errors
                else None
            ),
            "median_width_octaves": (
                round(float(np.median(self.widths)), 4) if self.widths else None
            ),
            "open_share": round(self.open / n, 4),
        }


def covers(estimate: Estimate, truth_log2: float, ends: tuple[float, float]) -> bool:
    """Whether the interval holds the truth; one beyond the grid is held by an open side."""
    if truth_log2 > ends[1]:
        return estimate.unbounded in ("high", "both")
    if truth_log2 < ends[0]:
        return estimate.unbounded in ("low", "both")
    return estimate.covers(2.0**truth_log2)


def run_setting(
    setting: Setting, seeds: int, studies: int, base_seed: int
) -> dict[str, object]:
    """Coverages of one setting at one number of seeds, over `studies` simulated studies."""
    rng = np.random.default_rng([base_seed, seeds])
    tally: defaultdict[str, Tally] = defaultdict(Tally)
    alarms, found = Counter[str](), Counter[str]()
    for _ in range(studies):
        midpoint = setting.midpoint + rng.random()
        base = population(setting, midpoint, setting.width)
        moved = population(setting, midpoint + setting.shift, setting.width * setting.widening)
        threshold = base.mean[0] - DELTA
        truth = [
            {"tolerance": true_tolerance(arm.mean, threshold), "collapse": arm.midpoint}
            for arm in (base, moved)
        ]
        first, same, other = draw_study(setting, [base, base, moved], seeds, rng)
        reference = make_reference(first, CHANCE, DELTA, LEVEL)
        own = draw_cliffs(first, reference)[0]
        null, pair = draw_pair(same, reference), draw_pair(other, reference)
        for kind, cliff in (("tolerance", tolerance_cliff), ("collapse", collapse_cliff)):
            tally[kind].add(cliff(first, reference, own), truth[0][kind], GRID)
            tally[f"{kind}_arm"].add(cliff(other, reference, pair[0]), truth[1][kind], GRID)
            p_value = shift(same, reference, kind, null).p_value
            alarms[kind] += p_value is not None and p_value <= 1 - LEVEL
            got = shift(other, reference, kind, pair)
            found[kind] += got.p_value is not None and got.p_value <= 1 - LEVEL
            true_shift = truth[1][kind] - truth[0][kind]
            if math.isfinite(true_shift):
                tally[f"{kind}_shift"].add(got.factor, true_shift, (-99.0, 99.0))
    rows: dict[str, object] = {
        f"{name}_{key}": value
        for name, counts in tally.items()
        for key, value in counts.row().items()
    }
    for kind in ("tolerance", "collapse"):
        rows[f"{kind}_false_alarms"] = round(alarms[kind] / studies, 4)
        rows[f"{kind}_power"] = round(found[kind] / studies, 4)
    return rows


COLUMNS = (  # of the table in docs/statistics.md: key in the report, heading
    ("tolerance_coverage", "tolerance"),
    ("tolerance_arm_coverage", "arm's"),
    ("tolerance_shift_coverage", "shift"),
    ("tolerance_false_alarms", "alarms"),
    ("tolerance_power", "power"),
    ("tolerance_bias_octaves", "bias"),
    ("tolerance_median_width_octaves", "width"),
    ("collapse_coverage", "collapse"),
    ("collapse_arm_coverage", "arm's"),
    ("collapse_shift_coverage", "shift"),
    ("collapse_false_alarms", "alarms"),
    ("collapse_power", "power"),
    ("collapse_bias_octaves", "bias"),
    ("collapse_median_width_octaves", "width"),
)


def table(report: dict) -> str:
    """The report's results as a Markdown table; coverages, alarms and power in percent."""
    lines = ["| setting | seeds | " + " | ".join(heading for _, heading in COLUMNS) + " |"]
    lines.append("|---|---|" + "---|" * len(COLUMNS))
    for row in report["results"]:
        cells = []
        for key, _ in COLUMNS:
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
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    wanted = [s for s in SETTINGS if not options.only or s.name in options.only.split(",")]
    started = time.perf_counter()
    rows: list[dict[str, object]] = []
    for setting in wanted:
        for seeds in (3, 5, 10):
            figures = run_setting(setting, seeds, options.studies, options.seed)
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
        "delta": DELTA,
        "chance": CHANCE,
        "plateau": PLATEAU,
        "batch_sizes": SIZES,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "settings": [dataclasses.asdict(setting) for setting in wanted],
        "results": rows,
    }
    path = options.out / f"{options.date}-{options.machine}-coverage.json"
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(path.name, f"{report['seconds']} s")


if __name__ == "__main__":
    main()
