"""Simulated workloads whose cliffs are known, and adaptive studies of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from batchcliff.record import Outcome
from batchcliff.stats.cells import Ending
from batchcliff.stats.search import Decision, Rules, Sought, Wanted, decide
from batchcliff.study.adaptive import ladder

CHANCE, DELTA = 0.1, 0.02
COARSE = tuple(2**k for k in range(7, 14))  # the article's 128 to 8192
LADDER = ladder(COARSE, 2**0.5)
SEEDS = (0, 1, 2)
ARMS = ("none", "warmup")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Standing trials lie on a plateau that falls by `slope` an octave; a share of them
    collapses, logistic in log2 B with `midpoint` and `width` (0: a step), or, if `gradual`,
    all fall along that logistic. noise: standard deviation over seeds."""

    midpoint: float
    width: float
    noise: float = 0.003
    plateau: float = 0.9
    slope: float = 0.002
    gradual: bool = False

    def share(self, x: float) -> float:
        """Of trials that collapse, or of the fall, at log2 B = x."""
        if self.width == 0:
            return float(x > self.midpoint)
        return 1 / (1 + math.exp(-max(min((x - self.midpoint) / self.width, 500), -500)))

    def standing(self, x: float) -> float:
        top = self.plateau - self.slope * (x - math.log2(COARSE[0]))
        return CHANCE + (top - CHANCE) * (1 - self.share(x) * self.gradual)

    def mean(self, x: float) -> float:
        """Of the population."""
        failing = 0.0 if self.gradual else self.share(x)
        return failing * CHANCE + (1 - failing) * self.standing(x)

    def cliffs(self, threshold: float) -> tuple[float, float]:
        """(tolerance, collapse) in log2 B: where the falling population mean meets a level."""
        half = self._meets((CHANCE + self.plateau) / 2)
        return self._meets(threshold), half if self.gradual else self.midpoint

    def _meets(self, level: float) -> float:
        low, high = 0.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.mean(middle) < level else (middle, high)
        return low

    def trial(self, size: int, rng: np.random.Generator) -> Ending:
        x = math.log2(size)
        if not self.gradual and rng.random() < self.share(x):
            return Outcome.DIVERGED, None
        edge = 0.03 * math.exp(-(((x - self.midpoint) / 0.5) ** 2)) if self.noise else 0.0
        value = self.standing(x) + (self.noise + edge) * rng.standard_normal()
        return Outcome.OK, float(np.clip(value, 0, 1))


def rules(arms: tuple[str, ...] = ARMS, **changes: object) -> Rules:
    given = {
        "ladder": dict.fromkeys(arms, LADDER),
        "coarse": frozenset(COARSE),
        "seeds": SEEDS,
        "reference_arm": arms[0],
        "delta": DELTA,
        "chance": CHANCE,
    }
    return Rules(**(given | changes))  # type: ignore[arg-type]


Decide = Callable[[Rules, Mapping[Wanted, Ending]], Decision]


def run(
    rule: Rules, workloads: Mapping[str, Workload], number: int, by: Decide = decide
) -> tuple[dict[Wanted, Ending], Decision]:
    """An adaptive study until it wants nothing more. A trial's result depends on nothing but
    the study's `number` and the trial."""
    endings: dict[Wanted, Ending] = {}
    while True:
        decision = by(rule, endings)
        if not decision.wanted:
            return endings, decision
        for trial in decision.wanted:
            assert trial not in endings
            arm = list(rule.ladder).index(trial.arm)
            rng = np.random.default_rng([number, arm, trial.batch_size, trial.seed])
            endings[trial] = workloads[trial.arm].trial(trial.batch_size, rng)


def error_octaves(one: Sought, workload: Workload, threshold: float) -> float:
    """|log2 of the cliff that was found over the true one|, both cut to the ladder."""
    low, high = math.log2(LADDER[0]), math.log2(LADDER[-1])
    found = {"above": high, "below": low}.get(one.state)
    if one.at is not None:
        found = math.log2(one.at)
    truth = workload.cliffs(threshold)[one.kind == "collapse"]
    return math.inf if found is None else abs(found - min(max(truth, low), high))
