"""Which trials an adaptive search for the cliffs needs next, from the trials so far.

Each arm is searched by itself on a ladder of batch sizes. Its smallest size is always tried:
without a trial that stands well before the cliff, the counts do not exclude that the arm
collapses at any size, and the interval of its cliff is open below. Then the sizes of the study
file (powers of two, as a rule), then those between them: always the middle one between the
largest size that holds and the smallest that falls, until the two are neighbours on the
ladder. Then more seeds where those that a neighbour has not had could put it on the other side
of the cliff; what they say may move the bracket, and the search goes on.

Whether a size holds is read off the monotone envelope of the arm's curve, as in
`stats.cliff`: of the mean accuracy against the tolerance threshold, and of the share of
trials that stand against a half. Pure functions of the trials: no clock, no random number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.stats.cells import Ending, make_cell
from batchcliff.stats.cliff import Reference, collapse_point, make_reference, tolerance_point
from batchcliff.stats.draws import Curve, make_curve
from batchcliff.stats.envelope import monotone_envelope

KINDS = ("tolerance", "collapse")
SURE = 1.5  # standard deviations of what is to come that settle on which side a mean will be
PRIOR_TRIALS = 2.0  # that the spread below counts for, beside the spread that is measured
PRIOR_SPREAD = 0.25  # of delta: standard deviation over seeds before any is known
ABRUPT = 0.5  # of the way from plateau to chance, between neighbours: trials collapse there,
ABRUPT_TRIALS = 2  # some do and some do not, and this many are the fewest that are looked at
ROUNDING = 1.07  # by which rounding may widen a bracket beyond the precision
IMAGINED = 64  # ways in which the search may go on that are looked at for trials ahead


class Wanted(NamedTuple):
    """A trial of the search."""

    arm: str
    batch_size: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is searched, and how. Equal rules and equal trials give equal decisions.

    ladder: every batch size that may be tried, ascending, by arm; the first one is always
    tried, and that of the reference arm shows the plateau. coarse: those that are tried
    first. seeds: of a cell, in order; a
    cell gets the first one, and others where they are needed. delta: of the tolerance cliff.
    at_once: trials that are asked for at a time, at least; beyond those that are needed they
    are the ones that would be needed next.
    """

    ladder: Mapping[str, tuple[int, ...]]
    coarse: frozenset[int]
    seeds: tuple[int, ...]
    reference_arm: str
    delta: float
    chance: float
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Sought:
    """How far the search for one cliff of an arm is.

    holds, falls: the largest size that holds and the smallest that falls; None: none yet, or
    none on the ladder. state: "searching"; "confirming": the two are neighbours, and more
    seeds are wanted; "found"; "above", "below": it lies outside of the ladder; "unmeasured":
    no trial of the arm could be run; "impossible": there is nothing that an arm could fall
    from. at: where the measured curve itself crosses
    between the two, a batch size.
    """

    arm: str
    kind: str
    holds: int | None
    falls: int | None
    state: str
    at: float | None = None

    @property
    def over(self) -> bool:
        """Whether no trial can be added for its sake."""
        return self.state not in ("searching", "confirming")


@dataclass(frozen=True, slots=True)
class Decision:
    """Trials to run next, the needed ones first; none when the search is over."""

    wanted: tuple[Wanted, ...]
    sought: tuple[Sought, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What is known of each cliff and what is looked for, a sentence each."""
        return tuple(_said(one) for one in self.sought)


Endings = Mapping[Wanted, Ending]
"""How the trials of the search ended."""


def _said(one: Sought) -> str:
    between = {
        (False, False): "nothing is known yet",
        (True, False): f"{one.holds} holds",
        (False, True): f"{one.falls} falls",
        (True, True): f"{one.holds} holds, {one.falls} falls",
    }[one.holds is not None, one.falls is not None]
    at = "" if one.at is None else f" and the curve crosses at {one.at:.0f}"
    what = {
        "searching": f"searching: {between}",
        "confirming": f"more seeds: {between}",
        "found": f"found: {between}{at}",
        "above": f"above the grid: {between}",
        "below": f"below the grid: {between}",
        "unmeasured": "nothing is measured yet",
        "impossible": "impossible: the reference arm has nothing to fall from",
    }[one.state]
    return f"{one.kind} cliff of {one.arm}: {what}"


def search(
    study: StudySpec,
    ladders: Mapping[str, tuple[int, ...]],
    chance: float,
    found: Mapping[tuple[str, int, int], TrialRecord],
) -> Decision:
    """What an adaptive study needs next. ladders: batch sizes that can run, by arm; chance: 1
    / number of classes; found: the records by (arm, batch size, seed).

    Raises ValueError for a study without `search`.
    """
    if study.search is None:
        raise ValueError(f"study {study.name!r} is a grid, it searches for nothing")
    rules = Rules(
        ladder=ladders,
        coarse=frozenset(study.batch_sizes),
        seeds=study.seeds,
        reference_arm=study.reference_arm,
        delta=study.tolerance,
        chance=chance,
        at_once=study.search.at_once,
    )
    endings = {
        Wanted(*place): (r.outcome, r.accuracy if r.outcome is Outcome.OK else None)
        for place, r in found.items()
    }
    return decide(rules, endings)


def brackets(study: StudySpec, found: Mapping[tuple[str, int, int], TrialRecord]) -> Decision:
    """Where each cliff lies by the trials that there are, without what could be tried yet.

    A cliff is "searching" where its two sizes are farther apart than the study's precision,
    or where the study's smallest or largest batch size was not tried by the arm.
    """
    classes = [r.ledger.num_classes for r in found.values() if r.ledger is not None]
    sizes = {
        arm.name: tuple(sorted({size for name, size, _ in found if name == arm.name}))
        for arm in study.arms
    }
    decision = search(study, sizes, 1 / max(classes, default=2), found)
    assert study.search is not None
    widest = study.search.precision * ROUNDING
    ends = min(study.batch_sizes), max(study.batch_sizes)

    def checked(one: Sought) -> Sought:
        wide = one.holds and one.falls and one.falls / one.holds > widest
        short = (one.state == "above" and one.holds != ends[1]) or (
            one.state == "below" and one.falls != ends[0]
        )
        return replace(one, state="searching", at=None) if wide or short else one

    return replace(decision, sought=tuple(map(checked, decision.sought)))


def decide(rules: Rules, endings: Endings) -> Decision:
    """What to run next, given every trial so far."""
    needed, sought = _needed(rules, endings)
    wanted = dict.fromkeys(needed)
    if needed and len(wanted) < rules.at_once:
        wanted |= dict.fromkeys(_ahead(rules, endings, needed))
    return Decision(tuple(wanted)[: max(rules.at_once, len(needed))], sought)


def _ahead(rules: Rules, endings: Endings, needed: Sequence[Wanted]) -> list[Wanted]:
    """What will be needed if all of `needed` stand, or all of them fail, and so on."""
    stands: Ending = (Outcome.OK, _best(endings, rules.chance))
    fails: Ending = (Outcome.DIVERGED, None)
    found = dict.fromkeys(needed)
    futures = [(dict(endings), needed)]
    for number in range(IMAGINED):
        if number >= len(futures) or len(found) >= rules.at_once:
            break
        past, waiting = futures[number]
        for ending in (stands, fails):
            future = past | dict.fromkeys(waiting, ending)
            after, _ = _needed(rules, future)
            found |= dict.fromkeys(after)
            if after:
                futures.append((future, after))
    return list(found)


def _best(endings: Endings, chance: float) -> float:
    """The highest accuracy so far; halfway up from chance before there is any."""
    values = [value for _, value in endings.values() if value is not None]
    return max(values, default=(1 + chance) / 2)


def _needed(rules: Rules, endings: Endings) -> tuple[list[Wanted], tuple[Sought, ...]]:
    """The trials without which nothing more can be said, an arm after the other."""
    arms = {arm: _Arm(arm, rules, endings) for arm in rules.ladder}
    first = arms[rules.reference_arm]
    reference = make_reference(first.curve, rules.chance, rules.delta)
    wanted: dict[Wanted, None] = {}
    smallest = first.ladder[0] if first.ladder else None
    known = smallest is not None and smallest in first.curve.batch_sizes
    if not known and (trial := first.open(0)) is not None:
        wanted[trial] = None
    spread = _spread([arm.curve for arm in arms.values()], reference)
    sought = []
    for arm in arms.values():
        for kind in KINDS:
            state = ""
            if not known and arm.curve.batch_sizes:  # its first size needs no plateau
                state = "searching" if wanted else "impossible"
            elif known and reference.problem:
                state = "impossible"
            if state:
                sought.append(Sought(arm.name, kind, None, None, state))
                continue
            trials, found = arm.seek(kind, reference if known else None, spread)
            wanted |= dict.fromkeys(trials)
            sought.append(found)
    return list(wanted), tuple(sought)


def _spread(curves: Sequence[Curve], reference: Reference) -> float:
    """Standard deviation over seeds of trials that stand, pooled over cells and a prior."""
    floor = 0.0 if reference.floor is None else reference.floor
    squares = PRIOR_TRIALS * (PRIOR_SPREAD * reference.delta) ** 2
    freedom = PRIOR_TRIALS
    for curve in curves:
        for k, by_seed in enumerate(curve.values):
            failing = curve.failing(k, floor)
            group = [value for seed, value in by_seed.items() if seed not in failing]
            if len(group) > 1:
                squares += float(np.var(group)) * len(group)
                freedom += len(group) - 1
    return math.sqrt(squares / freedom)


class _Arm:
    """One arm's ladder and what is known of it."""

    def __init__(self, name: str, rules: Rules, endings: Endings) -> None:
        self.name, self.rules = name, rules
        by_size: dict[int, dict[int, Ending | None]] = {}
        for trial, ending in endings.items():
            if trial.arm == name:
                by_size.setdefault(trial.batch_size, {})[trial.seed] = ending
        cells = [make_cell(name, size, found) for size, found in by_size.items()]
        self.tried = by_size
        self.curve = make_curve(name, cells, rules.chance)
        no_room = [c.batch_size for c in cells if c.oom and not c.measured]
        self.ladder = tuple(
            size
            for size in rules.ladder[name]
            if size < min(no_room, default=size + 1)  # what is larger has no room either
            and (size in self.curve.batch_sizes or self.next_seed(size) is not None)
        )

    def next_seed(self, size: int) -> int | None:
        """The first seed that the cell has not had."""
        had = self.tried.get(size, {})
        return next((seed for seed in self.rules.seeds if seed not in had), None)

    def open(self, index: int) -> Wanted | None:
        """One more trial at a place of the ladder, if it may have one."""
        if not self.ladder:
            return None
        seed = self.next_seed(size := self.ladder[index])
        return None if seed is None else Wanted(self.name, size, seed)

    def seek(
        self, kind: str, reference: Reference | None, spread: float
    ) -> tuple[list[Wanted], Sought]:
        """The trials that this cliff needs next. reference None: no plateau is known yet."""
        sizes = self.curve.batch_sizes
        holding = [] if reference is None else self._holding(kind, reference)
        measured = [size for size in sizes if size in self.ladder]
        low = max((s for s, holds in zip(sizes, holding, strict=False) if holds), default=None)
        high = min(
            (s for s, holds in zip(sizes, holding, strict=False) if not holds), default=None
        )
        at_low = -1 if low is None else self.ladder.index(low)
        at_high = len(self.ladder) if high is None else self.ladder.index(high)
        assert all(s in measured for s in (low, high) if s is not None)
        sought = Sought(self.name, kind, low, high, "searching")
        trials = []
        if self.ladder and self.ladder[0] not in measured:
            trials.append(self.open(0))
        if inside := range(at_low + 1, at_high):
            coarse = [i for i in inside if self.ladder[i] in self.rules.coarse]
            places = coarse or list(inside)
            trials.append(self.open(places[len(places) // 2]))
        if trials:
            return [trial for trial in trials if trial is not None], sought
        if reference is None or (low is None and high is None):
            return [], replace(sought, state="unmeasured")
        ends = [size for size in (low, high) if size is not None]
        few = ABRUPT_TRIALS if self._abrupt(ends, reference) else 1
        unclear = [
            trial
            for size in ends
            if self._unclear(kind, size, reference, spread, few)
            and (trial := self.open(self.ladder.index(size))) is not None
        ]
        if unclear:
            return unclear, replace(sought, state="confirming")
        if low is None or high is None:
            return [], replace(sought, state="below" if low is None else "above")
        point = tolerance_point if kind == "tolerance" else collapse_point
        return [], replace(sought, state="found", at=2.0 ** point(self.curve, reference))

    def _holding(self, kind: str, reference: Reference) -> list[bool]:
        """Of each measured size, ascending: True up to the cliff, False from there on."""
        assert reference.floor is not None and reference.threshold is not None
        curve = self.curve
        if not curve.batch_sizes:
            return []
        level, values = reference.threshold, curve.means
        if kind == "collapse":
            level = 0.5
            values = np.array([self._standing(k, reference.floor) for k in range(len(values))])
        envelope = monotone_envelope(values[None, :])[0]
        return [bool(value >= level - 1e-12) for value in envelope]

    def _standing(self, k: int, floor: float) -> float:
        failing = self.curve.failing(k, floor)
        return 1 - len(failing) / len(self.curve.values[k])

    def _abrupt(self, ends: Sequence[int], reference: Reference) -> bool:
        """Whether accuracy falls by most of what there is to lose from one end to the other."""
        assert reference.plateau is not None
        means = [float(self.curve.means[self.curve.batch_sizes.index(size)]) for size in ends]
        return means[0] - means[-1] > ABRUPT * (reference.plateau - reference.chance)

    def _unclear(
        self, kind: str, size: int, reference: Reference, spread: float, few: int
    ) -> bool:
        """Whether the seeds that the size has not had could put it on the other side of the
        cliff: stochastic curtailment (Lan, Simon and Halperin 1982, Communications in
        Statistics C 1:207). The mean of all `most` seeds lies about that of the first n with a
        standard deviation of spread * sqrt(1 / n - 1 / most). Trials of one kind are taken to
        say how all will end; where there are both kinds, what the others can still change
        counts."""
        assert reference.threshold is not None and reference.floor is not None
        assert reference.plateau is not None
        k = self.curve.batch_sizes.index(size)
        values = list(self.curve.values[k].values())
        collapsed = len(self.curve.failing(k, reference.floor))
        most = max(len(self.rules.seeds), len(values))
        if len(values) < few:
            return True
        mixed = 0 < collapsed < len(values)
        if kind == "collapse":
            return mixed and 2 * (len(values) - collapsed) < most and 2 * collapsed <= most
        if mixed:
            best = sum(values) + (most - len(values)) * reference.plateau
            return best / most >= reference.threshold
        error = spread * math.sqrt(1 / len(values) - 1 / most)
        return abs(float(np.mean(values)) - reference.threshold) < SURE * error
