"""How often an adaptive search finds simulated cliffs, and at which price.

    python benchmarks/bench_search.py --studies 300

prints the table of docs/adaptive.md. The workloads are those of the tests.
"""

from __future__ import annotations

import argparse
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


def scores(kind: dict[str, float], count: int) -> list[str]:
    """Shares of tolerance and collapse cliffs that are found, mean and largest cost."""
    errors: dict[str, list[float]] = {"tolerance": [], "collapse": []}
    costs = []
    for number in range(count):
        place = 9.0 + 2 * np.random.default_rng([11, number]).random()
        made = {
            arm: studies.Workload(midpoint=place + k, **kind)
            for k, arm in enumerate(studies.ARMS)
        }
        rule = studies.rules()
        endings, decision = studies.run(rule, made, number)
        costs.append(len(endings) / (len(studies.LADDER) * len(studies.SEEDS) * len(made)))
        threshold = made[rule.reference_arm].plateau - studies.DELTA
        for one in decision.sought:
            errors[one.kind].append(studies.error_octaves(one, made[one.arm], threshold))
    shares = [float(np.mean(np.array(found) <= 0.5)) for found in errors.values()]
    return [*(f"{share:.1%}" for share in shares), f"{np.mean(costs):.0%}", f"{max(costs):.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    count = parser.parse_args().studies
    print("| trials | tolerance | collapse | trials, mean | most |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, kind in KINDS.items():
        print(f"| {name} | {' | '.join(scores(kind, count))} |", flush=True)


if __name__ == "__main__":
    main()
