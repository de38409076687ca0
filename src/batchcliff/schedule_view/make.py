"""From what was typed to what is shown: arms of a study, a schedule of its own, conventions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchcliff.errors import Infeasible, UsageError, did_you_mean
from batchcliff.schedule_view.grammar import (
    Growth,
    lengths_of,
    read_decay,
    read_lr,
    read_warmup,
)
from batchcliff.schedule_view.growing import growing
from batchcliff.schedule_view.view import Progress, Schedule, Span, View, progress_of
from batchcliff.schedules.compose import Warmup, factors
from batchcliff.schedules.conventions import CONVENTIONS, rates
from batchcliff.schedules.duration import (
    Clock,
    Duration,
    DurationLike,
    Remainder,
    as_duration,
    parse_duration,
)
from batchcliff.spec import Decay
from batchcliff.study.printable import printable

if TYPE_CHECKING:
    from batchcliff.spec import TrialSpec
    from batchcliff.training.timeline import Timeline

MAX_UPDATES = 10_000_000  # of one schedule: more would fill the memory before it is shown
FREE = ("warmup", "lr", "decay", "num_examples", "updates_per_epoch", "remainder")
DEFAULT_WARMUP = "5up"  # of a convention, which is a reading of some warmup


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The options of `batchcliff schedule`, as typed. `names`: a study and its arms, or
    conventions.
    """

    names: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    conventions: tuple[str, ...] = ()
    diff: bool = False
    batch_size: int | None = None
    budget: str | None = None
    warmup: str | None = None
    lr: str | None = None
    decay: str | None = None
    num_examples: int | None = None
    updates_per_epoch: int | None = None
    remainder: str | None = None
    overrides: tuple[str, ...] = ()
    workload: str | None = None
    data: Path | None = None

    @property
    def free(self) -> list[str]:
        """Options of a schedule without a study that were given."""
        return [f"--{n.replace('_', '-')}" for n in FREE if getattr(self, n) is not None]


def make_view(asked: Asked) -> View:
    """What `asked` is to show.

    Raises UsageError: an unknown name, options that do not go together, a schedule that
    cannot be run as specified (which a study would call infeasible).
    """
    if asked.batch_size is not None and asked.batch_size < 1:
        raise UsageError(f"--batch-size {asked.batch_size}: a whole number >= 1 is needed.")
    try:
        if _names_a_study(asked):
            return _of_study(asked)
        if asked.names or asked.conventions:
            return _of_conventions(asked)
        return _of_options(asked)
    except Infeasible as reason:
        raise UsageError(str(reason)) from reason


def _names_a_study(asked: Asked) -> bool:
    """Whether the first name is a study's. `goyal`, say, is a recipe and a convention."""
    from batchcliff.studyfile import recipe_names

    if not asked.names:
        return False
    first, *others = asked.names
    exists = first in recipe_names() or first.endswith(".toml")
    as_conventions = bool(
        asked.conventions or asked.free or any(name in CONVENTIONS for name in others)
    )
    if first in CONVENTIONS:
        return exists and not as_conventions and not (asked.diff and not others)
    return exists or not as_conventions


# --- the arms of a study


def _of_study(asked: Asked) -> View:
    from batchcliff.study.grid import provenance_of, trials
    from batchcliff.studyfile import load_study
    from batchcliff.training.arithmetic import learning_rates, timeline_of
    from batchcliff.workloads import load_workload

    for given in (*asked.free, *(["--convention"] * bool(asked.conventions))):
        raise UsageError(
            f"{given} is for a schedule without a study. With one, change a key of it, e.g. "
            "--set decay.kind=constant."
        )
    own = load_workload(asked.workload) if asked.workload else None
    study = load_study(
        asked.names[0], overrides=asked.overrides, budget=asked.budget, workload=own
    )
    chosen = _chosen(study, (*asked.names[1:], *asked.arms), asked.diff)
    batch_size = asked.batch_size or max(study.batch_sizes)
    num_train = _num_train(study.data, asked.data, own)
    cell = dataclasses.replace(
        study, batch_sizes=(batch_size,), seeds=study.seeds[:1], arms=chosen
    )
    found, refused = [], []
    for spec in trials(cell, "", own.digest if own else ""):
        try:
            timeline = timeline_of(spec, num_train)
            schedule = Schedule(
                name=spec.arm,
                lr=tuple(learning_rates(spec, num_train)),
                peak=spec.lr,
                warmup_updates=_warmup_updates(spec, timeline),
                progress=progress_of(
                    (s.first, s.batch_size, timeline.updates_per_epoch(s.batch_size))
                    for s in timeline.stretches
                ),
                about=provenance_of(study, spec),
            )
        except Infeasible as reason:
            refused.append((spec.arm, str(reason)))
        else:
            found.append(schedule)
    if not found:
        raise UsageError("\n".join(f"arm {printable(arm)}: {why}" for arm, why in refused))
    return View(
        title=f"study {study.name}, {study.budget}, batch size {batch_size}",
        hint="" if asked.batch_size else "its largest; --batch-size N for another",
        schedules=tuple(found),
        refused=tuple(refused),
        diff=asked.diff,
    )


def _warmup_updates(spec: TrialSpec, timeline: Timeline) -> int:
    """Updates of the warmup: those that begin before it has ended with a constant batch."""
    from batchcliff.training.arithmetic import clock_of, warmup_of

    rise, clock = warmup_of(spec), clock_of(spec, timeline.num_examples)
    count = clock.updates(rise.duration) if rise else 0
    if len(timeline.stretches) == 1:
        return count
    constant = dataclasses.replace(timeline, stretches=timeline.stretches[:1])
    end = constant.position(count)
    return sum(timeline.position(update) < end for update in range(timeline.updates))


def _chosen(study: Any, names: tuple[str, ...], diff: bool) -> tuple[Any, ...]:
    """The arms called `names`, in that order; all of them if none is named."""
    arms = {arm.name: arm for arm in study.arms}
    for name in names:
        if name not in arms:
            hint = printable(did_you_mean(name, arms))
            raise UsageError(f"study {study.name} has no arm {printable(name)!r}.{hint}")
    if names and diff and len(set(names)) == 1:
        names = (study.reference_arm, *names)
    if not names:  # compared with the reference arm, which the report compares with too
        names = tuple(sorted(arms, key=lambda name: name != study.reference_arm))
        names = names if diff else tuple(arms)
    return tuple(arms[name] for name in dict.fromkeys(names))


def _num_train(data: str, location: Path | None, own: Any) -> int:
    """Training examples: known for the built-in data sets, else counted."""
    from batchcliff.data import cifar
    from batchcliff.data.sources import DIGITS_TRAIN
    from batchcliff.study.material import load_data

    known = {"cifar10": cifar.NUM_TRAIN, "digits": DIGITS_TRAIN}
    if location is None and data in known:
        return known[data]
    return len(load_data(data, location, own).train_labels)


# --- without a study


def _of_options(asked: Asked) -> View:
    _refuse_without_study(asked)
    if not asked.free:
        raise UsageError(
            "name a study or a recipe (batchcliff schedule article), a convention "
            "(--convention torch), or a schedule (--warmup linear:5ep --updates-per-epoch 391 "
            "--budget 90ep --decay cosine)."
        )
    if asked.diff:
        raise UsageError("--diff compares arms of a study, or conventions: name them.")
    rise = read_warmup(asked.warmup) if asked.warmup is not None else None
    constant = Decay(kind="constant")
    decay = constant if asked.decay is None else read_decay(asked.decay, asked.budget)
    if asked.budget is None and decay != constant:
        raise UsageError("--decay lasts to the end of the run: --budget is missing.")
    clock, progress, said = _clock(asked, rise, lengths_of(decay))
    peak, about = read_lr(asked.lr, asked.batch_size) if asked.lr is not None else (1.0, "")
    title = f"{_rise_text(rise)}, decay {asked.decay or 'constant'}"
    if isinstance(decay, Growth):
        assert asked.budget is not None
        grown = growing(peak, clock, progress, rise, asked.budget, decay)
        return View(title=title, schedules=(dataclasses.replace(grown, about=about),))
    warmup_updates = clock.updates(rise.duration) if rise else 0
    schedule = Schedule(
        name="lr",
        lr=tuple(peak * factor for factor in factors(clock, rise, decay)),
        peak=peak,
        warmup_updates=warmup_updates,
        progress=progress,
        about=about,
    )
    return View(title=title, hint=said, schedules=(schedule,))


def _of_conventions(asked: Asked) -> View:
    _refuse_without_study(asked)
    if asked.decay is not None:
        raise UsageError("--decay: a convention is one of the warmup alone. Leave it out.")
    names = tuple(dict.fromkeys((*asked.names, *asked.conventions)))
    if asked.diff and len(names) == 1:
        names = ("batchcliff", *names)
    text = asked.warmup if asked.warmup is not None else DEFAULT_WARMUP
    rise = read_warmup(text)
    if rise is not None and (rise.shape != "linear" or rise.stepping != "update"):
        raise UsageError(
            f"--warmup {printable(text)}: conventions are readings of a linear warmup, update "
            "by update. Write e.g. linear:5ep."
        )
    clock, progress, said = _clock(asked, rise, [])
    peak, about = read_lr(asked.lr, asked.batch_size) if asked.lr is not None else (1.0, "")
    count = len(factors(clock, rise))  # which refuses a warmup that is longer than the run
    warmup_updates = clock.updates(rise.duration) if rise else 0
    start = rise.start if rise else None
    schedules = tuple(
        Schedule(
            name=name,
            lr=tuple(rates(name, warmup_updates, count, peak, start)),
            peak=peak,
            warmup_updates=warmup_updates,
            progress=progress,
            about=about,
        )
        for name in names
    )
    return View(
        title=f"linear warmup over {warmup_updates} updates",
        hint=said,
        notes=tuple(f"{n}: {CONVENTIONS[n].formula} ({CONVENTIONS[n].source})" for n in names),
        schedules=schedules,
        diff=asked.diff,
    )


def _refuse_without_study(asked: Asked) -> None:
    given = {"--arm": asked.arms, "--set": asked.overrides, "--data": asked.data,
             "--workload": asked.workload}  # fmt: skip
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} is for a study: name one, e.g. batchcliff schedule digits."
            )


def _rise_text(rise: Warmup | None) -> str:
    if rise is None:
        return "no warmup"
    start = "" if rise.start is None else f" from {rise.start:g}"
    epochs = " by epoch" if rise.stepping == "epoch" else ""
    return f"{rise.shape} warmup over {as_duration(rise.duration)}{start}{epochs}"


def _clock(
    asked: Asked, rise: Warmup | None, lengths: list[Duration]
) -> tuple[Clock, Progress, str]:
    """The clock with the length of the run, what is known of an update, and what to say.

    lengths: the other durations that are used, whose units must be known too.
    """
    bare, progress = _bare_clock(asked)
    used = [*lengths, *([as_duration(rise.duration)] if rise else [])]
    budget: DurationLike
    if asked.budget is not None:
        budget = parse_duration(asked.budget)
        used.append(budget)
    for length in used:
        _check_unit(length, progress, asked.budget)
    said = ""
    if asked.budget is None:
        warmup = bare.updates(rise.duration) if rise else 0
        budget = max(2 * warmup, warmup + 5)
        said = f"the first {budget} updates; --budget for a whole run"
    if as_duration(budget).unit != "%" and bare.updates(budget) > MAX_UPDATES:
        raise UsageError(f"--budget {budget}: more than {MAX_UPDATES:,} updates are not shown.")
    clock = bare.with_budget(budget)
    warmup = clock.updates(rise.duration) if rise else 0
    if rise is not None and warmup > bare.updates(budget):
        raise UsageError(
            f"--warmup {as_duration(rise.duration)}: {warmup} updates are longer than the run "
            f"({clock.total} updates). Write a share of it, such as '5%', or a longer --budget."
        )
    return clock, progress, said


def _bare_clock(asked: Asked) -> tuple[Clock, Progress]:
    size, examples, per_epoch = asked.batch_size, asked.num_examples, asked.updates_per_epoch
    remainder: Remainder = "carry" if asked.remainder == "carry" else "drop"
    if asked.remainder not in (None, "drop", "carry"):
        raise UsageError(f"--remainder {printable(asked.remainder)}: write drop or carry.")
    if examples is not None:
        if size is None:
            raise UsageError("--num-examples: --batch-size is missing.")
        if per_epoch is not None:
            raise UsageError("--num-examples and --updates-per-epoch: one of them, please.")
        clock = Clock(examples, size, remainder)
        return clock, progress_of([(0, size, clock.updates_per_epoch)])
    if asked.remainder is not None:
        raise UsageError("--remainder: --num-examples is missing.")
    if per_epoch is not None and per_epoch < 1:
        raise UsageError(f"--updates-per-epoch {per_epoch}: a whole number >= 1 is needed.")
    clock = Clock((per_epoch or 1) * (size or 1), size or 1)
    epoch = None if per_epoch is None else Fraction(per_epoch)
    return clock, Progress((Span(batch_size=size, updates_per_epoch=epoch),))


def _check_unit(length: Duration, progress: Progress, budget: str | None) -> None:
    if length.unit == "ep" and progress.epochs(0) is None:
        raise UsageError(
            f"'{length}' needs the length of an epoch: --updates-per-epoch 391, or "
            "--num-examples 50000 --batch-size 128."
        )
    if length.unit == "ex" and progress.examples(0) is None:
        raise UsageError(
            f"'{length}' needs the examples of an update: --batch-size is missing."
        )
    if length.unit == "%" and budget is None:
        raise UsageError(f"'{length}' is a share of the run: --budget is missing.")
