"""How often an adaptive search finds simulated cliffs, and at which price.

    python benchmarks/bench_search.py --studies 200 --json benchmarks/DATE-search.json

prints the table of docs/adaptive.md, which is made from the file. The workloads are those of
the tests; nothing of it depends on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "stats"))
import search_studies as studies

KINDS: dict[str, dict[str, float]] = {
    "all collapse at one batch size": {"width": 0.0},
    "a tenth to nine tenths within 0.2 octaves": {"width": 0.05},
    "within 0.4 octaves": {"width": 0.1},
    "within 0.7 octaves": {"width": 0.15},
    "within 1.1 octaves": {"width": 0.25},
    "all fall, within 1.1 octaves": {"width": 0.25, "gradual": True},
    "all fall, within 2 octaves": {"width": 0.45, "gradual": True},
}
SEEDS = 3, 5  # of a cell


def scores(kind: dict[str, float], count: int, seeds: int) -> dict[str, float]:
    """Shares of tolerance and collapse cliffs that are found, mean and largest cost."""
    errors: dict[str, list[float]] = {"tolerance": [], "collapse": []}
    costs = []
    for number in range(count):
        place = 9.0 + 2 * np.random.default_rng([11, number]).random()
        made = {
            arm: studies.Workload(midpoint=place + k, **kind)
            for k, arm in enumerate(studies.ARMS)
        }
        rule = studies.rules(seeds=tuple(range(seeds)))
        endings, decision = studies.run(rule, made, number)
        costs.append(len(endings) / (len(studies.LADDER) * seeds * len(made)))
        threshold = made[rule.reference_arm].plateau - studies.DELTA
        for one in decision.sought:
            errors[one.kind].append(studies.error_octaves(one, made[one.arm], threshold))
    found = {kind: float(np.mean(np.array(e) <= 0.5)) for kind, e in errors.items()}
    return {**found, "mean_cost": float(np.mean(costs)), "most": max(costs)}


def line(row: dict[str, float | str]) -> list[str]:
    """A row of the table from one of the file."""
    return [
        str(row["trials"]),
        str(row["seeds"]),
        *(f"{row[kind]:.1%}" for kind in ("tolerance", "collapse")),
        *(f"{row[cost]:.0%}" for cost in ("mean_cost", "most")),
    ]


HEADER = ["trials", "seeds", "tolerance", "collapse", "trials, mean", "most"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    print(f"| {' | '.join(HEADER)} |\n| --- |{' ---: |' * (len(HEADER) - 1)}")
    for (name, kind), seeds in itertools.product(KINDS.items(), SEEDS):
        found = scores(kind, options.studies, seeds)
        rows.append({"trials": name, "seeds": seeds, "studies": options.studies, **found})
        print(f"| {' | '.join(line(rows[-1]))} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
