"""How many updates a target accuracy takes at each batch size, and where more stop helping.

A fixed number of epochs gives a large batch few updates; a fixed target asks how many it
needs. Three regimes (Shallue et al. 2019, JMLR 20:112): twice the batch, half the updates
(perfect scaling); less than that; nothing more to gain. The curve between them is, with S
updates and E = B S examples,

    (S / Smin - 1)(E / Emin - 1) = 1,    that is    S = Smin (1 + knee / B)

(McCandlish et al. 2018, arXiv 1812.06162), where knee = Emin / Smin, the critical
batch size, takes twice the fewest updates and twice the fewest examples.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from batchcliff.errors import UsageError
from batchcliff.record import Outcome, TrialRecord
from batchcliff.stats.cliff import open_sides
from batchcliff.stats.intervals import Estimate, check_level, mean_interval
from batchcliff.stats.noise import SEED

Array = NDArray[np.float64]

RESAMPLES = 2000
BEYOND = 2.0  # octaves outside of the measured sizes in which a knee is still believed
FAR = 10.0  # octaves outside up to which it is searched: there the curve is straight
STEPS = 32  # of the search, per octave
MISSES = 0.1  # a fit that misses a size by more than this share says so
FIT = "(S/Smin - 1)(E/Emin - 1) = 1, least squares in log S; bootstrap over seeds, t"

# R resamples, K batch sizes, G places of the search, n seeds


@dataclass(frozen=True, slots=True)
class Reached:
    """When one trial first reached the target, in updates; linear between evaluations.

    updates None: it never did. at_once: its first evaluation was there already, so that
    `updates` is only a bound from above.
    """

    seed: int
    updates: float | None
    at_once: bool = False
    device: str = ""  # that it was measured on; "": not known
    device_seconds: float | None = None  # to the target, of the device's time


@dataclass(frozen=True, kw_only=True, slots=True)
class CellBudget:
    """Updates to the target at one batch size. `updates`: geometric mean over seeds.

    No value where a trial never reached the target or was there at its first evaluation:
    the mean of the others would be another quantity. `perfect`: updates if doubling the batch
    halved them, from the smallest batch size with a value on.
    """

    arm: str
    batch_size: int
    reached: tuple[Reached, ...]  # seeds ascending
    updates: Estimate
    perfect: float | None = None

    @property
    def device(self) -> str:
        """The device of all trials; "" where they are of several, or it is not known."""
        names = {trial.device for trial in self.reached}
        return names.pop() if len(names) == 1 else ""

    @property
    def device_seconds(self) -> float | None:
        """Mean time to the target on the one device of all trials; None where there is no
        value of updates, or no such device: seconds of two machines make no mean."""
        seconds = [t.device_seconds for t in self.reached if t.device_seconds is not None]
        if self.updates.value is None or not self.device or len(seconds) < len(self.reached):
            return None
        return math.fsum(seconds) / len(seconds)

    @property
    def examples(self) -> float | None:
        """Examples to the target: batch size times updates."""
        return None if self.updates.value is None else self.batch_size * self.updates.value

    @property
    def efficiency(self) -> float | None:
        """Updates of perfect scaling over updates: 1 where doubling halves."""
        if self.perfect is None or self.updates.value is None:
            return None
        return self.perfect / self.updates.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """One arm's curve of updates to the target.

    knee: Emin / Smin, a batch size. fewest_updates (Smin): however large the batch.
    fewest_examples (Emin): however small. residuals: share by which each fitted size lies
    above (+) or below the fit.
    """

    arm: str
    target: float
    cells: tuple[CellBudget, ...]  # batch sizes ascending
    knee: Estimate
    fewest_updates: Estimate
    fewest_examples: Estimate
    residuals: tuple[tuple[int, float], ...]
    notes: tuple[str, ...]

    def expected_updates(self, batch_size: float) -> float | None:
        """Updates by the fit at any batch size; None where there is no fit."""
        if self.fewest_updates.value is None or self.fewest_examples.value is None:
            return None
        return self.fewest_updates.value + self.fewest_examples.value / batch_size


def reached(record: TrialRecord, target: float) -> Reached:
    """When the trial first had `target` accuracy, from the curve in its record, and how much
    of the device that took: its device seconds (`Provenance`) in proportion to its updates."""
    updates, at_once = _first_there(record, target)
    where, seed = record.provenance, record.spec.seed
    if where is None:
        return Reached(seed, updates, at_once)
    seconds = None
    if updates is not None and record.updates:
        seconds = where.device_seconds * updates / record.updates
    return Reached(seed, updates, at_once, where.device, seconds)


def _first_there(record: TrialRecord, target: float) -> tuple[float | None, bool]:
    """`updates` and `at_once` of `Reached`."""
    before: tuple[int, float] | None = None
    for epoch, accuracy in enumerate(record.curves.test_accuracy):
        if accuracy is None:
            continue
        if accuracy >= target:
            updates = _updates_by(record, epoch)
            if before is None:
                return updates, True
            share = (target - before[1]) / (accuracy - before[1])
            first = _updates_by(record, before[0])
            return first + share * (updates - first), False
        before = epoch, accuracy
    return None, False


def _updates_by(record: TrialRecord, epoch: int) -> float:
    """Updates applied by the end of an epoch (0, 1, ...)."""
    assert record.ledger is not None
    # Rounded first: N / B updates an epoch is a fraction, and 3 * (1/3) must be 1.
    whole = math.ceil(round((epoch + 1) * record.ledger.updates_per_epoch, 6))
    return float(min(whole, record.ledger.updates))


def budget(
    records: Iterable[TrialRecord], arm: str, target: float, level: float = 0.95
) -> Budget:
    """Updates to `target` at each batch size of `arm`, the knee and its interval.

    `target`: a share of accuracy. ok and diverged trials count; others say nothing. Raises
    UsageError for a target outside of (0, 1], a bad level, an arm without measured trials,
    and two trials of one batch size and seed (tuned learning rates: choose one first).
    """
    check_level(level)
    if not 0.0 < target <= 1.0:
        raise UsageError(f"target {target}: write a share of accuracy above 0, such as 0.9")
    by_size: dict[int, dict[int, Reached]] = defaultdict(dict)
    for record in records:
        measured = record.outcome in (Outcome.OK, Outcome.DIVERGED)
        if record.spec.arm != arm or record.ledger is None or not measured:
            continue
        size, seed = record.spec.batch_size, record.spec.seed
        if seed in by_size[size]:
            raise UsageError(f"arm {arm!r}, batch size {size}: two trials of seed {seed}")
        by_size[size][seed] = reached(record, target)
    if not by_size:
        raise UsageError(f"arm {arm!r} has no measured trial")
    cells = [_cell(arm, size, by_size[size], level) for size in sorted(by_size)]
    known = [cell for cell in cells if cell.updates.value is not None]
    if known:
        examples = known[0].examples
        assert examples is not None
        cells = [dataclasses.replace(c, perfect=examples / c.batch_size) for c in cells]
    return _fitted(arm, target, cells, by_size, level)


def _cell(arm: str, size: int, found: dict[int, Reached], level: float) -> CellBudget:
    trials = tuple(found[seed] for seed in sorted(found))
    what = "geometric mean of updates to the target over seeds"
    never = sum(trial.updates is None for trial in trials)
    early = sum(trial.at_once for trial in trials)
    if never or early:
        said = [f"{never} of {len(trials)} trials never reached the target"] * bool(never)
        said += [f"{early} of {len(trials)} had it at the first evaluation"] * bool(early)
        nothing = _nothing(level, what, len(trials), "; ".join(said))
        return CellBudget(arm=arm, batch_size=size, reached=trials, updates=nothing)
    logs = [math.log(trial.updates) for trial in trials if trial.updates is not None]
    mean = mean_interval(logs, level, what)
    value, low, high = (
        None if end is None else math.exp(end) for end in (mean.value, mean.low, mean.high)
    )
    updates = dataclasses.replace(mean, value=value, low=low, high=high)
    return CellBudget(arm=arm, batch_size=size, reached=trials, updates=updates)


def _nothing(level: float, method: str, n: int, note: str) -> Estimate:
    return Estimate(value=None, low=None, high=None, level=level, method=method, n=n, note=note)


def _fitted(
    arm: str,
    target: float,
    cells: Sequence[CellBudget],
    by_size: dict[int, dict[int, Reached]],
    level: float,
) -> Budget:
    used = [cell.batch_size for cell in cells if cell.updates.value is not None]
    notes = [
        f"batch size {cell.batch_size}: {cell.updates.note}; left out of the fit"
        for cell in cells
        if cell.updates.value is None
    ]
    seeds = sorted(set.intersection(*(set(by_size[size]) for size in used))) if used else []
    if len(used) < 3 or not seeds:
        sizes = "batch size" if len(used) == 1 else "batch sizes"
        why = f"{len(used)} {sizes} with a value: a knee needs at least 3"
        if len(used) >= 3:
            why = "no seed is common to the batch sizes"
        empty = _nothing(level, FIT, len(seeds), why)
        knee = smin = emin = empty
        residuals: tuple[tuple[int, float], ...] = ()
    else:
        found = [[by_size[b][s].updates for b in used] for s in seeds]
        logs_nK = np.log(np.array(found, dtype=np.float64))
        knee, smin, emin, residuals = _estimates(logs_nK, np.array(used, float), level)
        missed = [f"{b} by {100 * r:+.0f}%" for b, r in residuals if abs(r) > MISSES]
        if missed:
            notes.append(f"the curve is not of this form: it misses {', '.join(missed)}")
    return Budget(
        arm=arm,
        target=target,
        cells=tuple(cells),
        knee=knee,
        fewest_updates=smin,
        fewest_examples=emin,
        residuals=residuals,
        notes=tuple(notes),
    )


def fit(logs_RK: Array, sizes_K: Array) -> tuple[Array, Array]:
    """Least squares of log S = log Smin + log(1 + knee / B): (log2 knee, log Smin), [R] each.

    The knee is searched up to `FAR` octaves outside of the sizes, and is at an end of the
    search where the data do not bend.
    """
    low, high = np.log2(sizes_K[0]) - FAR, np.log2(sizes_K[-1]) + FAR
    places_G = np.linspace(low, high, round((high - low) * STEPS) + 1)
    bend_GK = np.log1p(2.0 ** places_G[:, None] / sizes_K)
    # For each place the best Smin is the mean residual: what is left is a variance.
    bent_GK = bend_GK - bend_GK.mean(1, keepdims=True)
    flat_RK = logs_RK - logs_RK.mean(1, keepdims=True)
    error_RG = (bent_GK**2).sum(1) - 2 * flat_RK @ bent_GK.T
    best_R = error_RG.argmin(1)
    inner_R = best_R.clip(1, len(places_G) - 2)
    rows = np.arange(len(logs_RK))
    left, middle, right = (error_RG[rows, inner_R + d] for d in (-1, 0, 1))
    curved = left - 2 * middle + right
    move = 0.5 * (left - right) / np.where(curved > 0, curved, 1.0)  # a parabola's vertex
    places_R = places_G[inner_R] + np.clip(move, -1, 1) * (places_G[1] - places_G[0])
    places_R = np.where(best_R == 0, low, np.where(best_R == len(places_G) - 1, high, places_R))
    smin_R = (logs_RK - np.log1p(2.0 ** places_R[:, None] / sizes_K)).mean(1)
    return places_R, smin_R


def _estimates(
    logs_nK: Array, sizes_K: Array, level: float
) -> tuple[Estimate, Estimate, Estimate, tuple[tuple[int, float], ...]]:
    """(knee, Smin, Emin, residuals). Seeds are resampled whole: their sizes go together."""
    n, sizes = len(logs_nK), (float(sizes_K[0]), float(sizes_K[-1]))
    limits = math.log2(sizes[0]) - BEYOND, math.log2(sizes[1]) + BEYOND
    resamples_Rn = np.random.default_rng([SEED, 3, n]).integers(0, n, (RESAMPLES, n))
    logs_RK = np.concatenate([logs_nK.mean(0, keepdims=True), logs_nK[resamples_Rn].mean(1)])
    knees_R, logs_R = fit(logs_RK, sizes_K)  # the first row is the data themselves
    smins_R = logs_R / math.log(2)
    knee = _interval(knees_R, level, n, limits, sizes)
    smin, emin = (_interval(x, level, n) for x in (smins_R, smins_R + knees_R))
    # A knee that may lie further up leaves updates that may fall further; one that may lie
    # further down, examples that may.
    if knee.censored == "above" or knee.unbounded in ("high", "both"):
        smin = _opened(smin, bound=knee.censored == "above")
    if knee.censored == "below" or knee.unbounded in ("low", "both"):
        emin = _opened(emin, bound=knee.censored == "below")
    expected_K = logs_R[0] + np.log1p(2.0 ** knees_R[0] / sizes_K)
    off_K = np.expm1(logs_RK[0] - expected_K)
    residuals = tuple((int(b), float(r)) for b, r in zip(sizes_K, off_K, strict=True))
    return knee, smin, emin, residuals


def _interval(
    draws_R: Array,
    level: float,
    n: int,
    limits: tuple[float, float] = (-math.inf, math.inf),
    sizes: tuple[float, float] = (math.nan, math.nan),
) -> Estimate:
    """2**point with point -+ t * the bootstrap's standard error * sqrt(n / (n - 1)).

    `draws_R`: log2, the point first. Percentiles of a bootstrap over three seeds cannot
    cover 95%, since there are ten different resamples; its standard error with Student's t
    and the factor for small samples can (Hesterberg 2015, The American Statistician 69:371).
    An end beyond `limits` is open; a point there is censored, with one of `sizes` as value.
    """
    point = float(draws_R[0])
    censored = "above" if point >= limits[1] else "below" if point <= limits[0] else ""
    notes = [f"{censored} the measured batch sizes"] if censored else []
    low = high = None
    unbounded = ""
    if n < 2:
        notes.append("one seed: no interval")
    else:
        error = float(np.std(np.clip(draws_R[1:], *limits))) * math.sqrt(n / (n - 1))
        half = float(special.stdtrit(n - 1, 0.5 + level / 2)) * error
        centre = float(np.clip(point, *limits))
        unbounded = open_sides(
            -math.inf if centre - half <= limits[0] else centre - half,
            math.inf if centre + half >= limits[1] else centre + half,
        )
        low = None if unbounded in ("low", "both") else 2.0 ** (centre - half)
        high = None if unbounded in ("high", "both") else 2.0 ** (centre + half)
    return Estimate(
        value={"": 2.0**point, "below": sizes[0], "above": sizes[1]}[censored],
        low=low,
        high=high,
        level=level,
        method=FIT,
        n=n,
        note="; ".join(notes),
        censored=censored,
        unbounded=unbounded,
    )


def _opened(estimate: Estimate, *, bound: bool) -> Estimate:
    """The estimate with its lower end open; `bound`: its value is one from above."""
    if bound:
        estimate = dataclasses.replace(estimate, censored="below")
    if not estimate.has_interval:
        return estimate
    sides = {"": "low", "high": "both"}
    return dataclasses.replace(
        estimate, low=None, unbounded=sides.get(estimate.unbounded, estimate.unbounded)
    )
