"""Lengths with a unit, and the clock that turns them into updates: exactly, once.

A duration is `"5ep"` (epochs), `"200up"` (optimizer updates), `"64000ex"` (examples) or
`"5%"` (share of the run). Values are fractions from the text to the update index, so that
`"0.29ep"` of 100 examples at batch size 1 is 29 updates; `int(0.29 * 100)` would say 28.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias, get_args

from batchcliff.errors import Infeasible, UsageError

Unit = Literal["ep", "up", "ex", "%"]
Remainder = Literal["drop", "carry"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_WORDS = {"ep": "epochs", "up": "updates", "ex": "examples", "%": "percent of the run"}
_HOW = "Write '5ep' (epochs), '200up' (updates), '64000ex' (examples) or '5%' (of the run)."
_PATTERN = re.compile(
    r"(?P<sign>[+-]?)(?P<number>\d+(?:\.\d*)?|\.\d+)(?:/(?P<over>\d+))?\s*(?P<unit>\D*)",
    re.ASCII,
)
# What other libraries and people call our units (Composer's ba/sp/dur, Lightning's step, ...).
_ALIASES: dict[str, Unit] = {
    **dict.fromkeys(("e", "eps", "epoch", "epochs"), "ep"),
    **dict.fromkeys(("u", "update", "updates", "ba", "batch", "batches", "it", "iter"), "up"),
    **dict.fromkeys(("iters", "iteration", "iterations", "s", "step", "steps"), "up"),
    **dict.fromkeys(("sp", "sample", "samples", "example", "examples", "img", "images"), "ex"),
    **dict.fromkeys(("pct", "percent", "dur"), "%"),
}


@dataclass(frozen=True, slots=True)
class Duration:
    """A length: `value` in `unit` ("ep", "up", "ex" or "%"). Raises UsageError if negative."""

    value: Fraction
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"unknown unit {self.unit!r} of a duration. {_HOW}")
        value: object = self.value
        if isinstance(value, float):
            # A binary float is not the decimal that was meant: 0.29 lies below 29/100.
            raise UsageError(f"Duration({value!r}, ...): a Fraction is needed. {_HOW}")
        object.__setattr__(self, "value", Fraction(self.value))
        if self.value < 0:
            raise UsageError(f"duration {self}: a length cannot be negative.")

    def __str__(self) -> str:
        """The shortest text that `parse_duration` reads back as this value."""
        return f"{_decimal(self.value)}{self.unit}"


DurationLike: TypeAlias = Duration | str | int


def parse_duration(text: str | int) -> Duration:
    """The duration that `text` names; a plain integer counts updates.

    Decimals (`"0.29ep"`) and fractions (`"1/3ep"`) are exact. Updates and examples come
    whole, and a share of the run is at most 100%.

    Raises:
        UsageError: it is none, with what to write instead.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise UsageError(f"duration {text!r} is neither a text nor a whole number. {_HOW}")
    if isinstance(text, int):
        if text < 0:
            raise UsageError(f"duration {text!r}: a length cannot be negative. {_HOW}")
        return Duration(Fraction(text), "up")
    # Longer texts than any length needs could make int() refuse, or take long.
    match = _PATTERN.fullmatch(text.strip()) if len(text) <= 100 else None
    if match is None:
        raise UsageError(f"duration {text[:100]!r} is not understood. {_HOW}")
    number, over, name = match["number"], match["over"], match["unit"]
    if match["sign"] == "-":
        raise UsageError(f"duration {text!r}: a length cannot be negative. {_HOW}")
    if over is not None and (int(over) == 0 or "." in number):
        raise UsageError(f"duration {text!r} is not a fraction of whole numbers. {_HOW}")
    value = Fraction(number) / int(over or 1)
    unit = _unit(text, value, name)
    if unit in ("up", "ex") and value.denominator != 1:
        raise UsageError(f"duration {text!r}: {_WORDS[unit]} come whole. {_HOW}")
    if unit == "%" and value > 100:
        raise UsageError(f"duration {text!r} is longer than the run (100%). {_HOW}")
    return Duration(value, unit)


def as_duration(duration: DurationLike) -> Duration:
    """`duration` itself, or parsed from its text. Raises UsageError as `parse_duration`."""
    return duration if isinstance(duration, Duration) else parse_duration(duration)


def _unit(text: str, value: Fraction, name: str) -> Unit:
    if name in UNITS:
        return name
    if name == "" and value.denominator == 1:
        return "up"
    if name == "":
        share = f" or '{_decimal(value * 100)}%' (of the run)" if value <= 1 else ""
        raise UsageError(
            f"duration {text!r} has no unit. Write '{_decimal(value)}ep' (epochs){share}."
        )
    unit = _ALIASES.get(name.strip(". ").lower())
    if unit is None:
        unit = next((known for known in UNITS if known == name.strip().lower()), None)
    if unit is None:
        raise UsageError(f"duration {text!r}: unknown unit {name!r}. {_HOW}")
    meant = value * 100 if name.strip().lower() == "dur" else value
    raise UsageError(
        f"duration {text!r}: unknown unit {name!r}. Write '{_decimal(meant)}{unit}' "
        f"({_WORDS[unit]})."
    )


def _decimal(value: Fraction) -> str:
    """`value` as a terminating decimal where there is one, else as `p/q`."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    if places == 0:
        return str(value.numerator)
    sign, digits = "-" * (value < 0), abs(value.numerator) * 10**places // value.denominator
    whole, part = divmod(digits, 10**places)
    return f"{sign}{whole}.{part:0{places}d}"


@dataclass(frozen=True, slots=True)
class Clock:
    """Converts between updates, epochs and examples for one data set and batch size.

    Args:
        num_examples: examples of one epoch.
        batch_size: examples per optimizer update, over all devices and accumulation.
        remainder: "drop": floor(N/B) updates an epoch, as Keras' `steps_per_epoch = N // B`;
            "carry": batches run across the end of an epoch, exactly N/B updates each.
        total: updates of the whole run, which `"5%"` refers to; see `with_budget`.

    Raises:
        UsageError: a size that is no positive whole number, or an unknown `remainder`.
        Infeasible: "drop" with a batch larger than the data set: no update in an epoch.
    """

    num_examples: int
    batch_size: int
    remainder: Remainder = "drop"
    total: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_examples", "batch_size", "total"):
            value = getattr(self, name)
            if name == "total" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} = {value!r}: a positive whole number is needed.")
        if self.remainder not in get_args(Remainder):
            raise UsageError(f"remainder = {self.remainder!r}: write 'drop' or 'carry'.")
        if self.remainder == "drop" and self.batch_size > self.num_examples:
            raise Infeasible(
                f"batch size {self.batch_size} is larger than the {self.num_examples} examples "
                "of an epoch, and remainder = 'drop' leaves no update in it. Use remainder = "
                "'carry', or a smaller batch size."
            )

    @property
    def updates_per_epoch(self) -> Fraction:
        """Updates in an epoch: floor(N/B) for "drop", exactly N/B for "carry"."""
        if self.remainder == "drop":
            return Fraction(self.num_examples // self.batch_size)
        return Fraction(self.num_examples, self.batch_size)

    def updates(self, duration: DurationLike) -> int:
        """Fewest updates that show at least `duration`.

        Raises:
            UsageError: a malformed duration, or "%" while `total` is not set.
        """
        return math.ceil(self.exactly(duration))

    def exactly(self, duration: DurationLike) -> Fraction:
        """`duration` in updates, which need not be a whole number of them.

        An epoch of "drop" is its floor(N/B) updates: what is dropped is not shown.

        Raises:
            UsageError: a malformed duration, or "%" while `total` is not set.
        """
        length = as_duration(duration)
        if length.unit == "ep":
            return length.value * self.updates_per_epoch
        if length.unit == "up":
            return length.value
        if length.unit == "ex":
            return length.value / self.batch_size
        if self.total is None:
            raise UsageError(
                f"duration '{length}' is a share of the run, whose length is not known here. "
                "Set it with Clock.with_budget, or write epochs ('5ep') or updates ('200up')."
            )
        return length.value * self.total / 100

    def with_budget(self, duration: DurationLike) -> Clock:
        """This clock with `total` set to the length of the run.

        Raises:
            UsageError: a budget of no update, or one in "%", which would refer to itself.
        """
        length = as_duration(duration)
        if length.unit == "%":
            raise UsageError(f"budget '{length}': a run cannot be a share of itself. {_HOW}")
        total = self.updates(length)
        if total == 0:
            raise UsageError(f"budget '{length}' has no update: nothing would be trained.")
        return dataclasses.replace(self, total=total)

    def epoch_of(self, update: int) -> int:
        """The epoch (0, 1, ...) in which the first example of `update` lies."""
        if self.remainder == "drop":
            return update // (self.num_examples // self.batch_size)
        return update * self.batch_size // self.num_examples

    def epoch_end(self, epoch: int) -> int:
        """The first update that belongs to an epoch after `epoch`."""
        return math.ceil((epoch + 1) * self.updates_per_epoch)
