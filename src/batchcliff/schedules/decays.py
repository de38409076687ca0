"""The kinds of decay: one table for study files, `batchcliff schedule` and the training.

A decay begins where the warmup ends and lasts for the rest of the run, but for "multistep",
whose milestones count from the start of the run, and "one-cycle", which has a warmup of its
own. Formulas are in `curves`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from batchcliff.errors import Infeasible, UsageError, did_you_mean
from batchcliff.schedules import curves
from batchcliff.schedules.curves import Curve
from batchcliff.schedules.duration import Clock
from batchcliff.spec import Decay

Levels = Callable[[Decay, Clock, int], list[float]]
"""(decay, clock, updates of the warmup) -> what each update of the run is multiplied by."""

LENGTHS = ("at", "timescale", "duration")  # options that are durations
_DEFAULTS = Decay(kind="constant")


@dataclass(frozen=True, slots=True)
class DecayKind:
    """A decay: its formula, t/T the share of its way, and the options of `Decay` it takes.

    required: those that have no default of this kind's.
    """

    name: str
    levels: Levels
    formula: str
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    def default(self, option: str) -> float | None:
        """The default of an option that is a number and may be left out."""
        value = getattr(_DEFAULTS, option)
        return value if isinstance(value, float) and option not in self.required else None


def length_of_run(clock: Clock) -> int:
    """Updates of the run. UsageError if the clock has no budget."""
    if clock.total is None:
        raise UsageError("the length of the run is not known: set it with Clock.with_budget.")
    return clock.total


def after_warmup(curve: Curve, clock: Clock, warmup: int) -> list[float]:
    """1 during the warmup, then `curve` over the rest of the run."""
    rest = length_of_run(clock) - warmup
    return [1.0] * warmup + [curve(index, rest) for index in range(rest)]


def milestones(clock: Clock, at: tuple[str, ...]) -> list[int]:
    """Updates from which each decay of `at` holds, sorted.

    Raises:
        UsageError: a malformed duration.
        Infeasible: a decay after the end of the run, which would be left out in silence.
    """
    total = length_of_run(clock)
    updates = {text: clock.updates(text) for text in at}
    for text, update in updates.items():
        if update > total:
            raise Infeasible(
                f"decay at {text!r} is update {update} at batch size {clock.batch_size}, after "
                f"the end of the run ({total} updates). Write a share of it, such as '60%'."
            )
    return sorted(updates[text] for text in at)


def _falling(curve: Callable[[Decay, int, int], float]) -> Levels:
    """Of a curve over (options, index, count) that needs to know nothing else."""
    return lambda decay, clock, warmup: after_warmup(partial(curve, decay), clock, warmup)


def _multistep(decay: Decay, clock: Clock, warmup: int) -> list[float]:  # noqa: ARG001
    starts = milestones(clock, decay.at)
    found: list[float] = []
    for start, end in pairwise([0, *starts, length_of_run(clock)]):
        found += [curves.multistep_decay(start, starts, decay.factor)] * (end - start)
    return found


def _inverse_sqrt(decay: Decay, clock: Clock, warmup: int) -> list[float]:
    timescale = clock.updates(decay.timescale) if decay.timescale else warmup
    if timescale < 1:
        raise UsageError(
            "inverse-sqrt decay without a warmup: its timescale is missing. Write e.g. "
            "timescale = '4000up'."
        )
    return after_warmup(
        lambda index, _: curves.inverse_sqrt_decay(warmup + index, timescale), clock, warmup
    )


def _one_cycle(decay: Decay, clock: Clock, warmup: int) -> list[float]:
    if warmup:
        raise UsageError("one-cycle has a warmup of its own, rise: leave the other one out.")
    rise, start, end, total = decay.rise, decay.start, decay.end, length_of_run(clock)
    if rise * total <= 1:
        raise Infeasible(
            f"one-cycle over {total} updates with rise = {rise!r}: no update before the peak. "
            "Write a larger rise, or a longer budget."
        )
    return after_warmup(
        lambda index, count: curves.one_cycle(index, count, rise, start, end), clock, 0
    )


def _stable(decay: Decay, clock: Clock, warmup: int) -> list[float]:
    length, total = clock.updates(decay.duration), length_of_run(clock)
    if warmup + length > total:
        raise Infeasible(
            f"warmup of {warmup} and decay of {length} updates ('{decay.duration}') are "
            f"longer than the run ({total} updates). Write shares of it, such as '20%'."
        )
    return after_warmup(
        lambda index, count: curves.warmup_stable_decay(index, count, 0, length, decay.floor),
        clock,
        warmup,
    )


_ALL = (
    DecayKind("constant", _falling(lambda _, t, n: curves.constant_decay(t, n)), "1"),
    DecayKind(
        "linear",
        _falling(lambda d, t, n: curves.linear_decay(t, n, d.floor)),
        "1 + (floor - 1) t/T",
        ("floor",),
    ),
    DecayKind(
        "exponential",
        _falling(lambda d, t, n: curves.exponential_decay(t, n, d.floor)),
        "floor^(t/T)",
        ("floor",),
        ("floor",),
    ),
    DecayKind(
        "cosine",
        _falling(lambda d, t, n: curves.cosine_decay(t, n, d.floor)),
        "floor + (1 - floor) (1 + cos(pi t/T))/2",
        ("floor",),
    ),
    DecayKind(
        "polynomial",
        _falling(lambda d, t, n: curves.polynomial_decay(t, n, d.power, d.floor)),
        "floor + (1 - floor) (1 - t/T)^power",
        ("power", "floor"),
    ),
    DecayKind(
        "multistep",
        _multistep,
        "factor^(milestones of `at` that are reached)",
        ("at", "factor"),
        ("at",),
    ),
    DecayKind(
        "inverse-sqrt",
        _inverse_sqrt,
        "sqrt(s/(t + 1)) from update s = timescale on (default: the warmup), t from the start",
        ("timescale",),
    ),
    DecayKind(
        "one-cycle",
        _one_cycle,
        "half cosines: start to 1 over the share `rise` of the run, then to end",
        ("rise", "start", "end"),
    ),
    DecayKind(
        "warmup-stable-decay",
        _stable,
        "1, then linear to floor over the last `duration` of the run",
        ("duration", "floor"),
        ("duration",),
    ),
)
DECAYS: dict[str, DecayKind] = {kind.name: kind for kind in _ALL}


def decay_levels(decay: Decay, clock: Clock, warmup: int) -> list[float]:
    """What a decay multiplies each update's rate by, [clock.total].

    Args:
        decay: of a kind of `DECAYS`.
        clock: with the length of the run (`Clock.with_budget`).
        warmup: updates of the warmup before it.

    Raises:
        UsageError: an unknown kind, an option that the kind has not, or a missing length.
        Infeasible: a decay that is longer than the run, or after its end.
    """
    if decay.kind not in DECAYS:
        raise UsageError(
            f"unknown kind of decay {decay.kind!r}.{did_you_mean(decay.kind, DECAYS)}"
        )
    kind = DECAYS[decay.kind]
    for option in (f.name for f in dataclasses.fields(Decay)):
        value = getattr(decay, option)
        if option not in ("kind", *kind.options) and value != getattr(_DEFAULTS, option):
            raise UsageError(not_an_option(kind.name, option, value))
    if kind.name == "warmup-stable-decay" and not decay.duration:
        raise UsageError("warmup-stable-decay: its duration is missing. Write e.g. '20%'.")
    return kind.levels(decay, clock, warmup)


def not_an_option(kind: str, option: str, value: object) -> str:
    """The message about an option that a kind of decay does not have."""
    fits = [name for name, other in DECAYS.items() if option in other.options]
    return (
        f"decay {option} = {value!r} with kind {kind!r}, which has none: leave it out, or "
        f"write {' or '.join(map(repr, fits))}."
    )
