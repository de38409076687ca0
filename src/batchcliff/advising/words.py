"""An advice in words: what to use, why not more, and what is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchcliff import __version__
from batchcliff.record import Ledger
from batchcliff.report.text import NOTHING, batch, percent, plural, points
from batchcliff.report.words import cliff_text, interval_text
from batchcliff.spec import TrialSpec
from batchcliff.stats.advice import Advice, ArmAdvice, Limit, Recommendation
from batchcliff.stats.intervals import Estimate
from batchcliff.study.printable import printable
from batchcliff.techniques import TECHNIQUES

HEADER = ("arm", "safe up to", "use", "accuracy", "cliff", "interval")


def answer(advice: Advice, found: Recommendation | None) -> str:
    """The answer in a sentence."""
    if found is None:
        return f"study {printable(advice.study)}: no batch size can be recommended."
    return (
        f"study {printable(advice.study)}: use batch size {found.batch_size:,}, arm "
        f"{printable(found.arm)!r}."
    )


def details(advice: Advice, found: Recommendation) -> list[tuple[str, str]]:
    """(what, how much) of a recommendation."""
    rows = [("batch size", f"{found.batch_size:,} examples per update; it was run")]
    trial = found.trial
    if trial is None:
        rows.append(("settings", "none: the table has no learning rates"))
    else:
        rows.append(("learning rate", found.rule or f"{trial.lr:g}"))
        rows.append(("warmup", _warmup(trial, found.ledger)))
        others = techniques(found)
        rows.append(("techniques", ", ".join(others) or "no other"))
        rows.append(("budget", _budget(trial, found.ledger)))
    rows.append(("accuracy", _accuracy(found.accuracy, found)))
    if found.difference is not None:
        rows.append(("against", _difference(found.difference, advice)))
    rows += _speed(found)
    return rows


def _warmup(trial: TrialSpec, ledger: Ledger | None) -> str:
    options = next((dict(o) for name, o in trial.techniques if name == "warmup"), None)
    if options is None:
        return "none"
    shape, start = options.get("shape", "linear"), options.get("start")
    text = f"{options['duration']}, {shape}" + (f" from {start:g}" if start is not None else "")
    if options.get("stepping") == "epoch":
        text += ", a step an epoch"
    return f"{text} ({plural(ledger.warmup_updates, 'update')})" if ledger else text


def techniques(found: Recommendation) -> list[str]:
    """What else the trial has: techniques that act during the run, and settings of note."""
    if found.trial is None:
        return []
    settings = found.trial.settings
    rule = settings.optimizer
    named = [n for n, _ in found.trial.techniques if n != "warmup" and n in TECHNIQUES]
    shown = {
        rule.name: rule.name != "sgd",
        "Nesterov's momentum": rule.nesterov,
        "momentum correction": rule.momentum_correction,
        f"weight decay {rule.weight_decay:g}": rule.weight_decay > 0,
        f"gradients clipped at {rule.clip_norm:g}": rule.clip_norm > 0,
        f"label smoothing {settings.label_smoothing:g}": settings.label_smoothing > 0,
        f"mixup {settings.mixup:g}": settings.mixup > 0,
        f"cutout {settings.cutout}": settings.cutout > 0,
        f"random erasing {settings.random_erasing:g}": settings.random_erasing > 0,
        f"batch norm over groups of {settings.batch_norm.group}": (
            settings.batch_norm.group != "global"
        ),
        "zero gamma": settings.model.zero_gamma,
        "re-estimated batch-norm statistics": settings.evaluation == "reestimated",
    }
    return [*named, *(name for name, there in shown.items() if there)]


def _budget(trial: TrialSpec, ledger: Ledger | None) -> str:
    if ledger is None:
        return trial.budget
    return (
        f"{trial.budget} of {ledger.num_train:,} examples: {plural(ledger.updates, 'update')}"
    )


def _accuracy(estimate: Estimate, found: Recommendation) -> str:
    text = percent(estimate.value)
    text += f" ({_interval(estimate, percent)}; {plural(found.trials, 'trial')})"
    if found.failing:
        text += f"; {found.failing} of {found.trials} trials collapsed or diverged here"
    return text


def _difference(estimate: Estimate, advice: Advice) -> str:
    size = advice.reference_batch_size
    of = f"{printable(advice.reference_arm)!r} at {size:,}" if size else "the reference"
    if estimate.value is None:
        return f"{of}: unknown ({estimate.note})"
    return f"{of}: {points(estimate.value)} points ({_interval(estimate, points)})"


def _interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.note or "no interval"
    return f"{estimate.level:.0%} interval: {shown(estimate.low)} to {shown(estimate.high)}"


def _speed(found: Recommendation) -> list[tuple[str, str]]:
    speed = found.speed
    if speed is None:
        same = found.difference is None
        return [("speed", "this is the reference" if same else "unknown: no trial says")]
    fewer = speed.reference_updates / speed.updates
    rows = [
        (
            "updates",
            f"{fewer:.2f} times fewer ({speed.updates:,}, not {speed.reference_updates:,})",
        )
    ]
    ratio = speed.seconds
    if ratio.value is None:
        return [*rows, ("seconds", f"not comparable: {printable(ratio.note)}")]
    interval = _interval(ratio, "{:.2f}".format)
    text = f"{ratio.value:.2f} times as fast on {printable(speed.device)} ({interval})"
    return [*rows, ("seconds", text)]


def rows(advice: Advice) -> list[tuple[str, ...]]:
    """A row for each arm, under `HEADER`."""
    found: list[tuple[str, ...]] = []
    for arm in advice.arms:
        own = arm.recommendation
        found.append(
            (
                arm.arm,
                NOTHING if arm.safe_up_to is None else batch(arm.safe_up_to),
                NOTHING if own is None else f"{own.batch_size:,}",
                NOTHING if own is None else percent(own.accuracy.value),
                cliff_text(arm.cliff),
                interval_text(arm.cliff) or NOTHING,
            )
        )
    return found


def basis(arm: ArmAdvice) -> list[str]:
    """What an arm's bound is, and what lies between the batch sizes that were run."""
    name, told = printable(arm.arm), []
    if arm.problem:
        return [f"{name}: nothing can be recommended: {printable(arm.problem)}."]
    if arm.basis == "bracket" and arm.safe_up_to is not None:
        told.append(
            f"{name}: one seed, so {batch(arm.safe_up_to)} is the last batch size before the "
            "fall, with no interval around it."
        )
    if arm.basis == "one seed, not reached":
        told.append(f"{name}: one seed, and no fall up to the largest batch size run.")
    if arm.cliff.censored == "above" and arm.largest_run is not None:
        told.append(
            f"{name}: the cliff was not reached: it lies beyond {arm.largest_run:,}, the "
            "largest batch size run."
        )
    if arm.interpolated is not None:
        size, low, high = arm.interpolated
        told.append(
            f"{name}: by interpolation safe up to {size:,} (not run; between {low:,} and "
            f"{high:,})."
        )
    return told


def limits(arm: ArmAdvice, advice: Advice) -> list[str]:
    """Why not a larger batch size, a sentence a cell."""
    return [f"{printable(arm.arm)} at {_limit(limit, advice)}" for limit in arm.limits]


def _limit(limit: Limit, advice: Advice) -> str:
    cell = limit.cell.cell
    mean = percent(limit.cell.mean_with_failures.value)
    line = percent(advice.threshold)
    if limit.how == "fails":
        under = limit.cell.failing - cell.diverged
        parts = [f"{cell.diverged} diverged"] if cell.diverged else []
        parts += [f"{under} ended far under the plateau"] if under > 0 else []
        text = f"{limit.cell.failing} of {cell.measured} trials collapse ({', '.join(parts)})"
        return f"{cell.batch_size:,}: {text}; mean {mean} with failures at chance."
    if limit.how == "falls":
        return f"{cell.batch_size:,}: accuracy falls to {mean}, under {line}."
    return (
        f"{cell.batch_size:,}: it was run and its mean, {mean}, is not under {line}; but "
        f"{plural(cell.measured, 'trial does', 'trials do')} not show that it is safe. More "
        "seeds may."
    )


def text(advice: Advice, found: Recommendation | None = None) -> list[str]:
    """All but the tables: the notes of every arm, why not more, what was not tested."""
    arms = [a for a in advice.arms if found is None or a.arm == found.arm]
    lines: list[str] = []
    for arm in advice.arms:
        lines += basis(arm)
    if advice.best_level != advice.level and advice.best is not None:
        own = next(a for a in advice.arms if a.arm == advice.best.arm)
        mine = own.recommendation
        if mine is not None and mine.batch_size != advice.best.batch_size:
            lines.append(
                f"Chosen among {len(advice.arms)} arms, by intervals of "
                f"{advice.best_level:.1%} that hold for all at once: "
                f"{advice.best.batch_size:,}, where the arm by itself would have "
                f"{mine.batch_size:,}."
            )
    why = [line for arm in arms for line in limits(arm, advice)]
    if found is not None or why:
        lines += ["", "Why not more:", *_listed(why or ["nothing larger was measured."])]
    sizes = [f"{printable(arm.arm)}: {line}" for arm in arms for line in arm.untested]
    lines += ["", "Not tested:", *_listed([*sizes, *advice.untested])]
    notes = list(advice.notes)
    if advice.missing:
        lines += ["", _preliminary(advice)]
    if notes:
        lines += ["", "Notes:", *_listed(notes)]
    return lines


def _preliminary(advice: Advice) -> str:
    return (
        f"Preliminary: {advice.missing:,} of {advice.planned:,} planned trials have no result "
        "yet."
    )


def _listed(lines: Sequence[str]) -> list[str]:
    return [f"  {printable(line)}" for line in lines]


def head(advice: Advice, found: Recommendation) -> tuple[str, ...]:
    """What an exported file says of itself."""
    own = next(a for a in advice.arms if a.arm == found.arm)
    what = f"arm {printable(found.arm)!r} of the study {printable(advice.study)!r}"
    lost = f"{100 * advice.delta:g} points"
    said = [
        f"Batch size {found.batch_size:,}, {what}, by batchcliff {__version__} advise.",
        f"Accuracy there: {_accuracy(found.accuracy, found)}. Tolerance: {lost}.",
    ]
    said += [printable(line) for line in (*basis(own), *limits(own, advice))]
    if advice.missing:
        said.append(_preliminary(advice))
    return tuple(said)
