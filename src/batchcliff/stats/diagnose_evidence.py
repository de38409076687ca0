"""What the records of a fallen cell say for and against each cause of its fall.

An `Evidence` is one number with the value from which on it speaks for the cause and the one up
to which it speaks against it; between the two, and where it was not measured, it says nothing.
docs/diagnose.md lists them all, with their thresholds and sources.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from batchcliff.record import Outcome, TrialRecord
from batchcliff.stats.dead import dead_since
from batchcliff.stats.noise_scale import sharpness_shares

YES, NO, OPEN, MISSING = "yes", "no", "neither", "not measured"
OURS = "a choice of ours"

EARLY = 0.2  # share of the run in which an instability is an early one
LEARNT = 0.1  # of ln K under guessing's loss: less is nothing that could be lost
CATAPULT = "Lewkowycz et al. 2020, 2003.02218"
SHARPNESS = "Cohen et al. 2021, 2103.00065; Gilmer et al. 2021, 2110.04369"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One number. It speaks for the cause from `yes` on, against it up to `no` (the other way
    round where `yes` is the smaller one). `says`: "yes", "no", "neither", "not measured"."""

    name: str
    value: float | None
    yes: float
    no: float
    source: str
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fallen:
    """The records of a fallen cell, and what they are compared with.

    held: of the largest smaller batch size of the same arm that has not fallen, or of the
    reference arm's. warmed: of the arm that differs in a warmup alone, at the same batch size;
    has_warmup: the arm has one itself. fall: how far the mean lies under the plateau, a share.
    """

    arm: str
    batch_size: int
    trials: tuple[TrialRecord, ...]
    held: tuple[TrialRecord, ...]
    warmed: tuple[TrialRecord, ...]
    has_warmup: bool
    mean: float
    plateau: float
    chance: float

    @property
    def fall(self) -> float:
        return self.plateau - self.mean


def judged(name: str, value: float | None, yes: float, no: float, source: str) -> Evidence:
    """The evidence of a number. NaN and infinities were not measured."""
    if value is None or not math.isfinite(value):
        return Evidence(name=name, value=None, yes=yes, no=no, source=source, says=MISSING)
    sign = 1 if yes > no else -1
    says = YES if sign * value >= sign * yes else NO if sign * value <= sign * no else OPEN
    return Evidence(name=name, value=value, yes=yes, no=no, source=source, says=says)


def _median(
    records: Sequence[TrialRecord], measure: Callable[[TrialRecord], float | None]
) -> float | None:
    """Over the trials that have a finite value; None without one."""
    return _middle(value for r in records if (value := measure(r)) is not None)


def _middle(values: Iterable[float]) -> float | None:
    """The median of the finite values; None without one."""
    found = [value for value in values if math.isfinite(value)]
    return median(found) if found else None


def _accuracy(records: Sequence[TrialRecord], chance: float) -> float | None:
    """Mean, a diverged trial at chance."""
    found = [
        chance if r.outcome is Outcome.DIVERGED else r.accuracy
        for r in records
        if r.outcome in (Outcome.OK, Outcome.DIVERGED)
    ]
    known = [value for value in found if value is not None]
    return math.fsum(known) / len(known) if known else None


# batch-norm statistics -----------------------------------------------------------------------


def recovered_by_reestimation(cell: Fallen) -> Evidence:
    """Share of the fall that goes away when batch norm's statistics are re-estimated under the
    final weights; nothing goes away where the trials are judged by such statistics anyway."""

    def gain(record: TrialRecord) -> float | None:
        if record.spec.settings.evaluation == "reestimated":
            return 0.0
        if record.accuracy is None or record.accuracy_reestimated is None:
            return None
        return (record.accuracy_reestimated - record.accuracy) / cell.fall

    name = "share of the fall that re-estimated batch-norm statistics recover"
    source = f"precise batch norm: Wu and Johnson 2021, 2105.07576; thresholds {OURS}"
    return judged(name, _median(cell.trials, gain), 0.5, 0.2, source)


# artefacts of the data -----------------------------------------------------------------------


def dropped(cell: Fallen) -> Evidence:
    """Examples that each epoch leaves out, since they do not fill a batch."""

    def share(record: TrialRecord) -> float | None:
        ledger = record.ledger
        return ledger.dropped_per_epoch / ledger.num_train if ledger else None

    name = "share of the training set that every epoch leaves out"
    return judged(name, _median(cell.trials, share), 0.05, 0.02, OURS)


def fewer_examples(cell: Fallen) -> Evidence:
    """Examples seen, beside those of the cell that holds."""

    def seen(record: TrialRecord) -> float | None:
        return float(record.ledger.examples) if record.ledger else None

    here, there = _median(cell.trials, seen), _median(cell.held, seen)
    value = None if here is None or not there else 1 - here / there
    name = "share of the examples of the batch size that holds which were not seen"
    return judged(name, value, 0.05, 0.02, OURS)


# early instability ---------------------------------------------------------------------------


def diverged(cell: Fallen, *, early: bool) -> Evidence:
    """Trials that diverged in the first fifth of their run, or later."""

    def counts(record: TrialRecord) -> bool:
        bad, ledger = record.first_bad_update, record.ledger
        if record.outcome is not Outcome.DIVERGED or ledger is None or bad is None:
            return False
        return (bad <= EARLY * ledger.updates) == early

    return _share_of_trials(cell, f"diverged {_when(early)}", counts)


def died(cell: Fallen, *, early: bool) -> Evidence:
    """Trials whose network was dead to the end, from the first fifth of their run on or from
    later: no gradient, at the ceiling of the loss or at ln K."""

    def counts(record: TrialRecord) -> bool:
        since = dead_since(record)  # from 1: before it so many epochs less one were alive
        if since is None:
            return False
        return (since - 1 <= EARLY * len(record.curves.train_loss)) == early

    return _share_of_trials(cell, f"ended with a network that died {_when(early)}", counts)


def _when(early: bool) -> str:
    return "in their first fifth" if early else "after their first fifth"


def _share_of_trials(
    cell: Fallen, what: str, counts: Callable[[TrialRecord], bool]
) -> Evidence:
    """For the cause where half of the trials are such, against it where none is."""
    share = sum(map(counts, cell.trials)) / len(cell.trials) if cell.trials else None
    return judged(f"share of trials that {what}", share, 0.5, 0.0, OURS)


def cured_by_warmup(cell: Fallen) -> Evidence:
    """Share of the fall that the arm with a warmup, and no other difference, does not have.

    Not measured where half of those trials broke themselves: that they are no better says
    nothing of what broke these.
    """
    broken = [r for r in cell.warmed if r.outcome is Outcome.DIVERGED or dead_since(r)]
    usable = not cell.has_warmup and 2 * len(broken) < len(cell.warmed)
    warmed = _accuracy(cell.warmed, cell.chance) if usable else None
    value = None if warmed is None else (warmed - cell.mean) / cell.fall
    name = "share of the fall that warmup recovers at the same batch size"
    return judged(name, value, 0.5, 0.1, OURS)


def catapult(cell: Fallen) -> Evidence:
    """The highest of the first losses as a multiple of the very first: a catapult's rise."""

    def rise(record: TrialRecord) -> float | None:
        probes = record.probes
        if probes is None or len(probes.first_losses) < 2 or probes.first_losses[0] <= 0:
            return None
        rest = probes.first_losses[1:]
        if not all(map(math.isfinite, rest)):
            return math.inf
        return max(rest) / probes.first_losses[0]

    values = [value for r in cell.trials if (value := rise(r)) is not None]
    value = min(median(values), 1e6) if values else None
    name = "highest of the first losses, as a multiple of the first"
    return judged(name, value, 2.0, 1.1, f"{CATAPULT}; thresholds {OURS}")


def _guessing(cell: Fallen) -> float | None:
    """ln K, the loss of guessing among K classes; None where the loss is of another kind: the
    batch size that holds ends above it too."""
    classes = {r.ledger.num_classes for r in cell.trials if r.ledger is not None}
    if len(classes) != 1 or min(classes) < 2:
        return None
    guessing = math.log(min(classes))
    held = _median(cell.held, lambda r: r.train_loss)
    return None if held is not None and held > guessing else guessing


def early_epochs(cell: Fallen) -> Evidence:
    """The highest mean training loss of the first fifth of the epochs, beside guessing's."""
    guessing = _guessing(cell)

    def highest(record: TrialRecord) -> float | None:
        losses = record.curves.train_loss
        first = [x for x in losses[: max(1, round(EARLY * len(losses)))] if math.isfinite(x)]
        return max(first) / guessing if first and guessing else None

    name = "highest epoch of training loss in the first fifth, as a multiple of ln K"
    return judged(name, _median(cell.trials, highest), 1.3, 1.0, f"{CATAPULT}; {OURS}")


def stuck(cell: Fallen) -> Evidence:
    """The training loss at the end, beside guessing's: about 1 where nothing was learned."""

    guessing = _guessing(cell)

    def last(record: TrialRecord) -> float | None:
        loss = record.train_loss
        return loss / guessing if loss is not None and guessing else None

    name = "training loss at the end, as a multiple of ln K"
    return judged(name, _median(cell.trials, last), 0.9, 0.5, OURS)


def first_gradients(cell: Fallen) -> Evidence:
    """The strongest of the first gradients, beside the usual one of the whole run."""

    def strength(record: TrialRecord) -> float | None:
        first = [x for x in record.curves.first_gradient_norms if math.isfinite(x)]
        usual = [x for x in record.curves.gradient_norm if math.isfinite(x) and x > 0]
        return max(first) / median(usual) if first and usual else None

    name = "strongest of the first gradients, as a multiple of the run's median"
    return judged(name, _median(cell.trials, strength), 10.0, 2.0, OURS)


def sharpness(cell: Fallen) -> Evidence:
    """The highest sharpness in the first fifth, as a share of what the rate allows then."""

    def highest(record: TrialRecord) -> float | None:
        if record.probes is None or record.ledger is None:
            return None
        until = EARLY * record.ledger.updates
        shares = [s for u, s in sharpness_shares(record.spec, record.probes) if u <= until]
        return max(shares, default=None)

    name = "sharpness in the first fifth, as a share of 2 (1 + m) / lr"
    return judged(name, _median(cell.trials, highest), 1.0, 0.5, SHARPNESS)


# instability later on ------------------------------------------------------------------------


def lost_again(cell: Fallen) -> tuple[Evidence, Evidence]:
    """What training had learnt and does not have any more, as a share: at the end of the run,
    and at its highest after the first fifth, whether it was regained or not."""
    guessing = _guessing(cell)
    curves = [shares for record in cell.trials if (shares := _lost(record, guessing))]
    late = [shares[max(1, round(EARLY * len(shares))) :] for shares in curves]
    ends, highest = [shares[-1] for shares in curves], [max(rest) for rest in late if rest]
    name = "share of what was learnt that is lost again at the end"
    once = "largest share of what was learnt that was lost after the first fifth"
    return (
        judged(name, _middle(ends), 0.5, 0.1, OURS),
        judged(once, _middle(highest), 0.5, 0.25, OURS),
    )


def _lost(record: TrialRecord, guessing: float | None) -> list[float]:
    """By epoch, the share that is lost of what was learnt before: (loss - lowest so far) /
    (ln K - lowest so far), 0 as long as the lowest is not a tenth of ln K under guessing's.
    Empty where the loss is of another kind, or was not finite at some time."""
    losses = record.curves.train_loss
    if guessing is None or not all(map(math.isfinite, losses)):
        return []
    enough = LEARNT * guessing
    return [
        (loss - lowest) / learnt if (learnt := guessing - lowest) >= enough else 0.0
        for loss, lowest in zip(losses, itertools.accumulate(losses, min), strict=True)
    ]


# training, good or unfinished ----------------------------------------------------------------


def final_loss(cell: Fallen) -> Evidence:
    """Training loss at the end beside that of the cell that holds: yes is "much higher"."""

    def last(record: TrialRecord) -> float | None:
        return record.train_loss

    here, there = _median(cell.trials, last), _median(cell.held, last)
    value = None if here is None or there is None else here - there
    base = there or 0.0
    name = "training loss at the end, above that of the batch size that holds (nats)"
    # Of small losses a share is what counts, of large ones a twentieth and a tenth of a nat.
    return judged(name, value, min(base, 0.1) + 0.05, min(0.25 * base, 0.05) + 0.02, OURS)


def peak_epochs(record: TrialRecord) -> int:
    """Epochs up to the last one at the highest rate: before the first decay."""
    rates = record.curves.lr
    top = max(rates, default=0.0)
    return next((i for i in range(len(rates), 0, -1) if rates[i - 1] >= 0.99 * top), 0)


def still_falling(cell: Fallen) -> Evidence:
    """How much the training loss fell in the last quarter of the epochs before the decay."""

    def fall(record: TrialRecord) -> float | None:
        losses = record.curves.train_loss[: peak_epochs(record)]
        quarter = len(losses) // 4
        if quarter < 1 or not all(map(math.isfinite, losses)) or losses[-1] <= 0:
            return None
        return 1 - losses[-1] / losses[-1 - quarter] if losses[-1 - quarter] > 0 else None

    name = "fall of the training loss in the last quarter before the rate decays"
    return judged(name, _median(cell.trials, fall), 0.05, 0.01, OURS)


def equal_updates(cell: Fallen) -> Evidence:
    """Training loss before the decay as a multiple of what the cell that holds had after as
    many updates: about 1 or less where every update did as much, and there were fewer."""
    pairs, known = [], dict[float, float | None]()  # all trials of a cell ask for one place
    for record in cell.trials:
        epochs = peak_epochs(record)
        losses = record.curves.train_loss[:epochs]
        if record.ledger is None or epochs < 1 or not math.isfinite(losses[-1]):
            continue
        # An epoch's mean is the loss in its middle.
        updates = (epochs - 0.5) * record.ledger.updates_per_epoch
        if updates not in known:
            known[updates] = _median(cell.held, functools.partial(_loss_after, updates=updates))
        there = known[updates]
        if there is not None and there > 0:
            pairs.append(losses[-1] / there)
    name = "training loss as a multiple of the held batch size's after as many updates"
    source = f"equal updates: Hoffer et al. 2017, 1705.08741; thresholds {OURS}"
    return judged(name, median(pairs) if pairs else None, 1.1, 1.5, source)


def _loss_after(record: TrialRecord, updates: float) -> float | None:
    """Training loss after so many updates at the highest rate, between epochs linear; None
    before the middle of the first epoch or after the decay has begun."""
    if record.ledger is None:
        return None
    losses = record.curves.train_loss[: peak_epochs(record)]
    place = updates / record.ledger.updates_per_epoch - 0.5
    index = math.floor(place)
    if place < 0 or index + 1 >= len(losses):
        return None
    a, b = losses[index], losses[index + 1]
    value = a + (b - a) * (place - index)
    return value if math.isfinite(value) else None
