"""A probe's answer in words: what it predicts, what it read, and what it does not promise."""

from __future__ import annotations

from batchcliff import __version__
from batchcliff.advising.probe import Prediction, Probed
from batchcliff.report.text import plural
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.predictions import Memory, Throughput
from batchcliff.study.printable import printable
from batchcliff.training.probe_readings import Ended

SPEED_HEADER = ("batch size", "examples/s", "of the fastest", "peak memory")


def answer(probed: Probed) -> str:
    """The answer in a sentence, which says that nothing was measured."""
    return (
        f"study {printable(probed.study.name)}, arm {printable(probed.arm)!r}: predicted by a "
        f"probe of {probed.readings.seconds:.0f} s on {_device(probed)}. No cliff has been "
        "measured, so no batch size is recommended."
    )


def _device(probed: Probed) -> str:
    room = probed.readings.room
    return printable(room.device) if room else "a device that could not be measured"


def details(probed: Probed) -> list[tuple[str, str]]:
    """(what, how much) of each prediction."""
    last, found = probed.last, probed.throughput
    rows = [
        ("critical batch", _critical(probed)),
        ("stable lr", "unknown" if last is None else _stable(last)),
        ("the rule's limit", "unknown" if last is None else _reached(probed, last)),
        ("fast enough", "unknown: no batch size was timed"),
        ("memory", "unknown" if probed.memory is None else _memory(probed, probed.memory)),
    ]
    if found is not None:
        rows[3] = ("fast enough", _fast(probed, found))
    sizes = ", ".join(f"{size:,}" for size in probed.next_study.batch_sizes)
    rows.append(("to run next", f"batch sizes {sizes} (--format toml writes the study)"))
    return rows


def _fast(probed: Probed, found: Throughput) -> str:
    text = f"from batch size {found.enough:,}: {found.rate:,.0f} examples/s"
    if not found.growing:
        return f"{text}, 90% or more of the fastest ({found.fastest:,.0f})"
    ended = probed.readings.speed_ended
    if ended is not None and ended.reason == "all":
        most = probed.readings.ledger.num_train
        return f"{text}, the largest power of two in {most:,} examples"
    return f"{text}, the largest that was timed; larger ones may be faster"


def _critical(probed: Probed) -> str:
    last = probed.last
    if last is None:
        return "unknown: no gradient was measured"
    text = f"{_size(last.noise_scale)}: the noise scale before update {last.update:,}"
    first = probed.predictions[0]
    if last is not first and first.noise_scale.value is not None:
        text += f"; {_size(first.noise_scale, interval=False)} at the initial weights"
    return text


def _size(estimate: Estimate, *, interval: bool = True) -> str:
    if estimate.value is None:
        return f"unknown ({estimate.note})"
    if estimate.censored:
        return f"> {estimate.value:,.3g} ({estimate.note})"
    text = f"about {_rounded(estimate.value)}"
    if interval and estimate.low is not None:
        ends = f"{_rounded(estimate.low)} to {_rounded(estimate.high)}"
        text += f" ({estimate.level:.0%} interval: {ends})"
    return text


def _rounded(value: float | None) -> str:
    """Two digits of a batch size or a rate."""
    if value is None:
        return "no end"
    return f"{float(f'{value:.2g}'):,.6g}"


def _stable(last: Prediction) -> str:
    limit = last.stable_lr
    if limit.value is None:
        return f"unknown ({limit.note})"
    text = f"up to about {_rounded(limit.value)}"
    if limit.low is not None:
        ends = f"{_rounded(limit.low)} to {_rounded(limit.high)}"
        text += f" ({limit.level:.0%} interval: {ends})"
    return f"{text}, from the sharpness before update {last.update:,}"


def _reached(probed: Probed, last: Prediction) -> str:
    if last.stable_lr.value is None:
        return "unknown"
    if last.rule_reaches_it is None:
        most = probed.readings.ledger.num_train
        return f"the rule's rate stays under it at every batch size up to {most:,}"
    return f"the rule's rate is above it from batch size {last.rule_reaches_it:,} on"


def _memory(probed: Probed, found: Memory) -> str:
    text = f"batch size {found.largest_run:,} fits as one micro batch"
    of = probed.readings.room.of if probed.readings.room else "device"
    limit = f" of {of} memory ({found.limit / 1e9:.1f} GB)" if found.limit else ""
    if found.failed is not None:
        text += f", {found.failed:,} has no room{limit}"
    elif found.all:
        text += f"; all {found.most:,} examples are predicted to fit into 90%{limit}"
    elif found.predicted is not None:
        text += f"; about {_rounded(found.predicted)} are predicted to fill 90%{limit}"
    else:
        text += f"; how much more does cannot be told{limit and f' from what was seen{limit}'}"
    return text


def speed_rows(probed: Probed) -> list[tuple[str, ...]]:
    """A row for each batch size that was timed."""
    speeds = probed.readings.speeds
    fastest = max((s.rate for s in speeds), default=1.0)
    return [
        (
            f"{s.batch_size:,}",
            f"{s.rate:,.0f}",
            f"{s.rate / fastest:.0%}",
            "" if s.peak is None else f"{s.peak / 1e9:.2f} GB",
        )
        for s in speeds
    ]


def caveats(probed: Probed) -> list[str]:
    """How each part ended, and what none of it promises."""
    readings = probed.readings
    found = [*readings.problems]
    found += [
        f"batch size {size:,} was left out: {why}" for size, why in readings.skipped.items()
    ]
    found += _endings(readings.speed_ended, readings.places_ended)
    return [*found, *_promises(probed)]


def _endings(speed: Ended | None, places: Ended | None) -> list[str]:
    found = []
    if speed is not None and speed.reason == "time":
        found.append(
            f"batch size {speed.batch_size:,} and above were not timed: they would have taken "
            "longer than was left (--seconds)"
        )
    if speed is not None and speed.reason == "memory":
        why = f": {speed.words}" if speed.words else ", as the smaller ones predict"
        found.append(f"batch size {speed.batch_size:,} does not fit into memory{why}")
    if places is not None and places.reason == "diverged":
        found.append(
            f"the short run diverged at update {places.update:,}: what is predicted is said of "
            "the initial weights, and the base learning rate may be too high"
        )
    if places is not None and places.reason in ("all", "time") and places.words:
        count = plural(places.update, "update")
        found.append(
            f"the short run did not learn: {places.words} over {count}. The base learning rate "
            "may be too high, and what is predicted says little"
        )
    if places is not None and places.reason == "memory":
        found.append(f"noise and sharpness ended for lack of memory: {places.words}")
    if places is not None and places.reason == "time":
        found.append(
            f"the short run ended for time after {plural(places.update, 'update')}, fewer than "
            "a tenth of a trial's (--seconds)"
        )
    return found


def _promises(probed: Probed) -> list[str]:
    spec, room = probed.readings.spec, probed.readings.room
    critical = (
        "the critical batch is where larger batches stop saving updates, by the gradient's "
        "noise early in one run. The noise scale grows in training, and accuracy may fall on "
        "either side of it: in this tool's own studies the cliff lay at 0.9 to 26 times it "
        "(docs/noise_scale.md)"
    )
    few = sorted({place.sharpness_examples for place in probed.readings.places})
    stable = (
        "the stable rate is that of updates along the sharpest direction of "
        f"{' or '.join(map(str, few)) or 'few'} examples at once, at these weights. Training "
        "at another rate, or with warmup, changes the sharpness; the noise of small batches "
        "can need a smaller rate"
    )
    seeds = (
        f"one seed ({spec.seed}), batch size {spec.batch_size:,}, lr {spec.lr:g}, on this "
        "machine; the intervals are over blocks of examples, not over seeds"
    )
    speed = (
        "speed and memory are of the updates of one process that trains one network alone, "
        "without evaluation"
    )
    if room is not None and room.of == "GPU":
        speed += ". They are of updates that are not compiled: those of a trial are faster"
    return [critical, stable, seeds, speed]


def text(probed: Probed) -> list[str]:
    """Caveats as lines."""
    return [f"- {line}" for line in caveats(probed)]


def head(probed: Probed) -> tuple[str, ...]:
    """The first lines of the study file: what it was made from."""
    rows = [f"{what}: {much}" for what, much in details(probed)[:-1]]
    return (
        f"Made by batchcliff {__version__} advise --probe, from predictions: no study was run.",
        *rows,
    )
