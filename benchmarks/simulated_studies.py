"""Simulated studies whose cliffs are known: what bench_coverage.py asks the intervals about.

A setting says of what kind a study is: how its trials collapse, what an arm changes, what is
lost. A population draws a setting for each study.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import scipy

from batchcliff.stats.draws import Curve

CHANCE, PLATEAU, DELTA = 0.1, 0.98, 0.02
SIZES = (32, 64, 128, 256, 512, 1024, 2048)
GRID = (math.log2(SIZES[0]), math.log2(SIZES[-1]))
COLLAPSED, COLLAPSED_SPREAD = 0.2, 0.06  # accuracy of a collapsed trial that did not diverge
LINGERING = 0.65  # of one that ends above the floor


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One kind of study. `midpoint`: log2 batch size of collapse, plus U(0, octaves)."""

    name: str
    kind: str = "bimodal"  # "skewed": no logistic; "gradual": means fall, nothing collapses;
    # "random": a population, each study is of another setting
    octaves: float = 1.0
    width: float = 0.25  # octaves, of the logistic
    midpoint: float = 8.0
    slope: float = 0.004  # accuracy lost per octave before the cliff (bimodal)
    lost: float = 0.0  # share of trials without result
    shift: float = 1.0  # octaves by which the arm's collapse lies beyond the reference's
    any_shift: float = 0.0  # times U(-1/2, 1/2), added to it: then it is no whole step
    correlation: float = 0.5  # of the arms' seed noise
    flaky: float = 0.0  # share of trials that collapse at any batch size
    lingering: float = 0.0  # share of the collapsing trials that end at LINGERING
    widening: float = 1.0  # the arm's width over the reference's
    delta: float = DELTA


SETTINGS = (
    Setting(name="gradual", kind="gradual", width=0.45),
    Setting(name="bimodal"),
    Setting(name="bimodal-wide-unpaired", width=0.5, correlation=0.0),
    Setting(name="bimodal-sharp", width=0.08),
    Setting(name="bimodal-skewed", kind="skewed"),
    Setting(name="bimodal-flaky", flaky=0.03),
    Setting(name="bimodal-widening", widening=1.5),
    Setting(name="bimodal-narrowing", width=0.375, widening=1 / 1.5),
    Setting(name="bimodal-5-points-unpaired", width=0.35, correlation=0.0, delta=0.05),
    Setting(name="censored-above-lost", midpoint=9.0, octaves=2.0, lost=0.15),
    Setting(name="censored-below", midpoint=8.0, shift=-4.0),
    Setting(name="bimodal-any-shift", any_shift=1.0),
    Setting(name="bimodal-sharp-any-shift", width=0.08, any_shift=1.0),
    Setting(name="bimodal-lingering", lingering=0.3),
    Setting(name="bimodal-sharp-lingering", width=0.08, lingering=0.3),
)


POPULATIONS = (  # each study is of another setting: see `random_setting`
    Setting(name="any", kind="random"),
    Setting(name="any-failures", kind="random"),
    Setting(name="any-censored", kind="random"),
    Setting(name="random", kind="random"),
)


def random_setting(name: str, rng: np.random.Generator) -> Setting:
    """One study's setting, of the population of that name.

    "any": everything in which the fixed settings differ but lost, stray and lingering trials,
    which "any-failures" has in every study (no stray or lingering ones where nothing
    collapses). "any-censored": as "any", seven studies in ten with cliffs in the last octaves
    of the grid or beyond, the others with a moved arm at its small end or below it.
    "random": those that most of the estimator's constants were fitted to.
    """
    kind = str(rng.choice(["bimodal", "skewed", "gradual"], p=[0.65, 0.2, 0.15]))
    gradual = kind == "gradual"
    if name == "random":
        return _fitted_setting(kind, rng)
    width = rng.uniform(0.3, 0.6) if gradual else math.exp(rng.uniform(*np.log([0.03, 0.6])))
    drawn = Setting(
        name=name,
        kind=kind,
        width=width,
        midpoint=rng.uniform(6.5, 9.5),
        octaves=0.0,
        slope=rng.uniform(0.0, 0.008),
        shift=rng.uniform(-1.5, 1.5),
        correlation=float(rng.choice([0.0, 0.3, 0.7])),
        widening=float(rng.choice([1.0, 1.0, 1.0, 1.4, 1 / 1.4])),
        delta=float(rng.choice([0.02, 0.02, 0.05])),
    )
    if name == "any-failures":
        lost, stray = float(rng.choice([0.05, 0.1, 0.2])), float(rng.choice([0.02, 0.04]))
        lingers, collapses = rng.random() < 0.5, not gradual
        return dataclasses.replace(
            drawn,
            lost=lost,
            flaky=stray if collapses and not lingers else 0.0,
            lingering=0.3 if collapses and lingers else 0.0,
        )
    if name == "any-censored":
        if rng.random() < 0.7:
            return dataclasses.replace(drawn, midpoint=rng.uniform(9.5, 11.5))
        below = rng.uniform(-4.0, -1.5)
        return dataclasses.replace(drawn, midpoint=rng.uniform(6.5, 7.5), shift=below)
    return drawn


def _fitted_setting(kind: str, rng: np.random.Generator) -> Setting:
    gradual = kind == "gradual"
    width = rng.uniform(0.3, 0.6) if gradual else math.exp(rng.uniform(*np.log([0.06, 0.6])))
    return Setting(
        name="random",
        kind=kind,
        width=width,
        midpoint=rng.uniform(6.0, 10.5),
        slope=rng.uniform(0.0, 0.008),
        lost=float(rng.choice([0.0, 0.0, 0.1])),
        shift=rng.uniform(-1.5, 1.5),
        correlation=float(rng.choice([0.0, 0.5])),
        flaky=0.0 if gradual else float(rng.choice([0.0, 0.0, 0.02, 0.04])),
        widening=float(rng.choice([1.0, 1.0, 1.0, 1.5, 1 / 1.5])),
    )


@dataclass(frozen=True)
class Population:
    """One arm's truth on the grid: all [K]; `midpoint` is log2 of the collapse cliff."""

    fail: np.ndarray
    standing: np.ndarray
    spread: np.ndarray
    midpoint: float
    lingering: float = 0.0

    @property
    def mean(self) -> np.ndarray:
        collapsed = (CHANCE + COLLAPSED) / 2  # half of the failing diverge
        collapsed += self.lingering * (LINGERING - collapsed)
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
    return Population(share, standing, spread, midpoint, setting.lingering)


def true_tolerance(mean: np.ndarray, threshold: float) -> float:
    """log2 of where the falling population curve crosses; +-inf outside. Plain loop."""
    x = np.log2(np.array(SIZES, dtype=float))
    if mean[0] < threshold:
        return -math.inf
    for k in range(len(x) - 1):
        if mean[k + 1] < threshold:
            share = (mean[k] - threshold) / (mean[k] - mean[k + 1])
            return float(x[k] + share * (x[k + 1] - x[k]))
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
        if setting.lingering:
            stays = failed & (rng.random((seeds, sizes)) < setting.lingering)
            above = LINGERING + COLLAPSED_SPREAD * rng.standard_normal((seeds, sizes))
            low, diverged = np.where(stays, above, low), diverged & ~stays
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
