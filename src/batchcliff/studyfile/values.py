"""What the values of a study file's keys may be: checks that say what is wrong in words.

Each check takes a value and gives it back, normalised, or raises ValueError.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import AfterValidator

from batchcliff.errors import UsageError
from batchcliff.schedules.duration import Duration, parse_duration
from batchcliff.schedules.scaling import SCALING
from batchcliff.study.printable import hidden_character
from batchcliff.studyfile.document import show, unknown

MAX_BATCH_SIZES = 1_000
MAX_SEEDS = 10_000
_RANGE = re.compile(r"(\d{1,15})\s*\.\.\s*(\d{1,15})\s*:\s*([x*+])\s*(\d{1,15})", re.ASCII)


def one_of(*names: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(unknown("value", value, names))
        return value

    return AfterValidator(check)


def a_number(
    test: Callable[[float], bool], needed: str
) -> AfterValidator:  # NaN and infinities pass no test
    def check(value: float) -> float:
        if not math.isfinite(value) or not test(value):
            raise ValueError(f"is not {needed}.")
        return value

    return AfterValidator(check)


def a_text(*, lines: bool = False, empty: bool = True, limit: int = 10_000) -> AfterValidator:
    def check(value: str) -> str:
        if found := hidden_character(value, "\n\t" if lines else ""):
            raise ValueError(f"has a character that terminals hide (U+{ord(found):04X}).")
        if not empty and not value.strip():
            raise ValueError("is empty.")
        if len(value) > limit:
            raise ValueError(f"is longer than {limit} characters.")
        return value

    return AfterValidator(check)


def folder_name(value: str) -> str:
    if len(value) > 100 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", value):
        raise ValueError(
            "is the name of the study's folder too: up to 100 letters, digits and . _ + - "
            "that begin with a letter or a digit."
        )
    return value


def length_of(value: str) -> Duration:
    """The duration that a study file names, where each one has a unit. UsageError."""
    if value.strip().isdecimal():
        number = value.strip()
        raise UsageError(f"has no unit. Write '{number}ep' (epochs) or '{number}up' (updates).")
    return parse_duration(value)


def duration_text(value: str) -> str:
    return str(length_of(value))


def whole_budget(value: str) -> str:
    length = length_of(value)
    if length.unit == "%":
        raise ValueError("a run cannot be a share of itself.")
    if length.value == 0:
        raise ValueError("trains nothing.")
    return str(length)


def whole_numbers(values: Iterable[Any], least: int, what: str) -> tuple[int, ...]:
    """Distinct whole numbers >= `least`, ascending. ValueError names the first that is not."""
    found: list[int] = []
    for value in values:
        if type(value) is not int or not least <= value < 1 << 63:
            raise ValueError(f"{show(value)} is not a whole number >= {least}.")
        if value in found:
            raise ValueError(f"{value} stands twice: {what} are distinct.")
        found.append(value)
    if not found:
        raise ValueError(f"is empty: at least one of {what} is needed.")
    return tuple(sorted(found))


def _expand(start: int, stop: int, kind: str, by: int) -> list[int]:
    if start < 1 or by < (1 if kind == "+" else 2) or start > stop:
        raise ValueError("is a range that has no values.")
    values = [start]
    while values[-1] < stop:
        values.append(values[-1] + by if kind == "+" else values[-1] * by)
        if len(values) > MAX_BATCH_SIZES:
            raise ValueError(f"has more than {MAX_BATCH_SIZES} batch sizes.")
    if values[-1] != stop:  # an end that is passed by would be clamped in silence
        near = f"{values[-2]} or {values[-1]}"
        raise ValueError(f"does not reach {stop}: in steps of {kind}{by} it meets {near}.")
    return values


def batch_size_list(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        match = _RANGE.fullmatch(value.strip())
        if match:
            value = _expand(int(match[1]), int(match[2]), match[3], int(match[4]))
        elif re.fullmatch(r"\d{1,15}(\s*,\s*\d{1,15})*", value.strip(), re.ASCII):
            value = [int(part) for part in value.split(",")]
        else:
            raise ValueError("is neither a range nor a list of batch sizes.")
    if not isinstance(value, list):
        raise ValueError("is neither a range nor a list of batch sizes.")
    if len(value) > MAX_BATCH_SIZES:
        raise ValueError(f"has more than {MAX_BATCH_SIZES} batch sizes.")
    return whole_numbers(value, 1, "batch sizes")


def seed_numbers(value: Any) -> tuple[int, ...]:
    if type(value) is int:
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"is not a number of seeds from 1 to {MAX_SEEDS}.")
        return tuple(range(value))
    if not isinstance(value, list):
        raise ValueError("is neither a number of seeds nor a list of them.")
    if len(value) > MAX_SEEDS:
        raise ValueError(f"has more than {MAX_SEEDS} seeds.")
    return whole_numbers(value, 0, "seeds")


def norm_group(value: Any) -> str | int:
    if value == "global" or (type(value) is int and value >= 2):
        return typing.cast("str | int", value)
    if isinstance(value, str) and re.fullmatch(r"B/[1-9]\d{0,8}", value, re.ASCII):
        return value
    raise ValueError(
        'is not "global" (one group an update), "B/8" (eight groups) or a ghost size >= 2.'
    )


def block_widths(value: list[list[int]]) -> list[list[int]]:
    if not value or not all(value) or any(width < 1 for block in value for width in block):
        raise ValueError("is not a list of blocks, each a list of channel counts >= 1.")
    return value


def decay_places(value: list[str]) -> tuple[str, ...]:
    if not value:
        raise ValueError('is empty. For no decay write kind = "constant".')
    return tuple(value)


def pair(value: list[float]) -> list[float]:
    if len(value) != 2:
        raise ValueError("is not a pair.")
    return value


def distinct(value: list[str]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("has an entry twice: they are distinct.")
    return tuple(sorted(value))  # one spelling, one trial id


def rates_to_try(value: list[float]) -> list[float]:
    if len(value) < 2:
        raise ValueError("is no choice: at least two rates are needed.")
    if len(set(value)) < len(value):
        raise ValueError("has a rate twice: they are distinct.")
    return value


def scaling_rule(value: str) -> str:
    if value not in SCALING:
        raise ValueError(unknown("rule", value, SCALING))
    return value


AtLeastOne = Annotated[int, a_number(lambda x: x >= 1, "a whole number >= 1")]
Accuracy = Annotated[float, a_number(lambda x: 0 < x <= 1, "a share above 0, at most 1")]
Positive = Annotated[float, a_number(lambda x: x > 0, "a finite number above 0")]
NotNegative = Annotated[float, a_number(lambda x: x >= 0, "a finite number >= 0")]
Share = Annotated[float, a_number(lambda x: 0 <= x < 1, "a number from 0 to below 1")]
Tolerance = Annotated[float, a_number(lambda x: 0 < x < 1, "a share above 0 and below 1")]
Line = Annotated[str, a_text()]
DurationText = Annotated[str, AfterValidator(duration_text)]
