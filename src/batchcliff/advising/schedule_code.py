"""A trial's schedule as a few lines of Python: constants, and `rate_factor(update)`.

Source of the formulas: `batchcliff.schedules.curves`, of which this is the text; a test holds
the two together at every update.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from batchcliff.advising.settings import TrainingSettings
from batchcliff.schedules.compose import warmup_table
from batchcliff.schedules.decays import milestones
from batchcliff.spec import Decay

Lines = list[str]


def schedule_lines(settings: TrainingSettings) -> tuple[Lines, Lines]:
    """(constants, the function `rate_factor` that uses them); needs `import math`, UPDATES."""
    warmup, warm = _warmup(settings)
    decay, fall = _DECAYS[settings.trial.decay.kind](settings)
    function = [
        "def rate_factor(update):",
        '    """Factor of LEARNING_RATE at update 0, 1, ...; the last one holds for ever."""',
        "    update = min(update, UPDATES - 1)",
        "    factor = 1.0",
        *(f"    {line}" for line in warm + fall),
        "    return factor",
    ]
    return warmup + decay, function


def _warmup(settings: TrainingSettings) -> tuple[Lines, Lines]:
    warmup, count = settings.warmup, settings.rises
    if warmup is None:
        return [], []
    constants = [f"WARMUP_UPDATES = {count}"]
    if warmup.stepping == "epoch":
        table = warmup_table(settings.clock, warmup)
        steps = [(0, table[0])]
        steps += [(i + 1, b) for i, (a, b) in enumerate(pairwise(table)) if a != b]
        constants.append(f"WARMUP_STAIRS = {steps!r}  # (first update, factor)")
        climb = [
            "if update < WARMUP_UPDATES:",
            "    factor = [f for first, f in WARMUP_STAIRS if first <= update][-1]",
        ]
        return constants, climb
    if warmup.shape == "linear" and warmup.start is None:
        return constants, [
            "if update < WARMUP_UPDATES:",
            "    factor = (update + 1) / WARMUP_UPDATES  # the last one is at the peak",
        ]
    start = 1 / count if warmup.start is None else warmup.start
    constants.append(f"WARMUP_START = {start!r}  # factor at update 0")
    if warmup.shape == "constant":
        return constants, ["if update < WARMUP_UPDATES:", "    factor = WARMUP_START"]
    if count == 1:
        return constants[:1], []  # its only update is at the peak
    rise = {
        "linear": "WARMUP_START + (1 - WARMUP_START) * risen",
        "exponential": "WARMUP_START ** (1 - risen)",
        "cosine": "WARMUP_START + (1 - WARMUP_START) * math.sin(math.pi * risen / 2) ** 2",
    }[warmup.shape]
    return constants, [
        "if update < WARMUP_UPDATES:",
        "    risen = update / (WARMUP_UPDATES - 1)  # update WARMUP_UPDATES - 1 is at the peak",
        f"    factor = {rise}",
    ]


def _constant(settings: TrainingSettings) -> tuple[Lines, Lines]:  # noqa: ARG001
    return [], []


def _falling(formula: str, *options: str) -> Callable[[TrainingSettings], tuple[Lines, Lines]]:
    """A decay over the updates after the warmup; `fallen` is the share of its way."""

    def lines(settings: TrainingSettings) -> tuple[Lines, Lines]:
        if settings.rises >= settings.updates:
            return [], []
        decay = settings.trial.decay
        constants = [f"DECAY_{name.upper()} = {getattr(decay, name)!r}" for name in options]
        way = f"max(update - {settings.rises}, 0) / {settings.updates - settings.rises}"
        return constants, [
            f"fallen = {way}  # share, from the end of the warmup on",
            f"factor *= {formula}",
        ]

    return lines


def _multistep(settings: TrainingSettings) -> tuple[Lines, Lines]:
    decay = settings.trial.decay
    places = milestones(settings.clock, decay.at)
    return (
        [f"DECAY_AT = {places!r}  # updates", f"DECAY_FACTOR = {decay.factor!r}"],
        ["factor *= DECAY_FACTOR ** sum(update >= first for first in DECAY_AT)"],
    )


def _inverse_sqrt(settings: TrainingSettings) -> tuple[Lines, Lines]:
    timescale = settings.trial.decay.timescale
    count = settings.clock.updates(timescale) if timescale else settings.rises
    return [f"DECAY_TIMESCALE = {count}  # updates"], [
        f"if update >= {settings.rises}:",
        "    factor *= math.sqrt(DECAY_TIMESCALE / max(update + 1, DECAY_TIMESCALE))",
    ]


def _one_cycle(settings: TrainingSettings) -> tuple[Lines, Lines]:
    decay = settings.trial.decay
    return [
        f"PEAK = {decay.rise * settings.updates - 1!r}  # index of the update at the peak",
        f"CYCLE_START, CYCLE_END = {decay.start!r}, {decay.end!r}  # factors",
    ], [
        "if update <= PEAK:",
        "    risen = math.sin(math.pi * update / PEAK / 2) ** 2",
        "    factor = CYCLE_START + (1 - CYCLE_START) * risen",
        "else:",
        "    fallen = (update - PEAK) / (UPDATES - 1 - PEAK)",
        "    factor = CYCLE_END + (1 - CYCLE_END) * math.cos(math.pi * fallen / 2) ** 2",
    ]


def _stable(settings: TrainingSettings) -> tuple[Lines, Lines]:
    decay: Decay = settings.trial.decay
    length = settings.clock.updates(decay.duration)
    if not length:
        return [], []
    return [
        f"DECAY_UPDATES = {length}  # the last ones of the run",
        f"DECAY_FLOOR = {decay.floor!r}",
    ], [
        "fallen = max(update - (UPDATES - DECAY_UPDATES), 0) / DECAY_UPDATES",
        "factor *= 1 + (DECAY_FLOOR - 1) * fallen",
    ]


_DECAYS: dict[str, Callable[[TrainingSettings], tuple[Lines, Lines]]] = {
    "constant": _constant,
    "linear": _falling("1 + (DECAY_FLOOR - 1) * fallen", "floor"),
    "exponential": _falling("DECAY_FLOOR**fallen", "floor"),
    "cosine": _falling(
        "DECAY_FLOOR + (1 - DECAY_FLOOR) * math.cos(math.pi * fallen / 2) ** 2", "floor"
    ),
    "polynomial": _falling(
        "DECAY_FLOOR + (1 - DECAY_FLOOR) * (1 - fallen) ** DECAY_POWER", "power", "floor"
    ),
    "multistep": _multistep,
    "inverse-sqrt": _inverse_sqrt,
    "one-cycle": _one_cycle,
    "warmup-stable-decay": _stable,
}
