"""Published accuracy curves as data, each with its source, to stand beside measured ones.

A figure that could not be checked against a source is not here. Stdlib only.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from batchcliff.errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedPoint:
    """One cell of somebody else's table. `accuracy` and `spread` are shares in [0, 1]."""

    batch_size: int
    accuracy: float
    spread: float | None = None  # None: the source gives none


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedArm:
    """One line of a published plot, batch sizes ascending."""

    name: str
    points: tuple[PublishedPoint, ...]

    def at(self, batch_size: int) -> PublishedPoint | None:
        """The point at `batch_size`, or None where the source has none."""
        return next((p for p in self.points if p.batch_size == batch_size), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published set of curves and where it is from."""

    name: str
    title: str
    title_en: str  # "" when the title is English
    source: str
    url: str  # "" when the source gives none
    workload: str
    metric: str
    num_classes: int
    runs_per_cell: int
    spread: str  # what a point's spread is, in the source's words; "" when it has none
    arms: tuple[PublishedArm, ...]
    notes: tuple[str, ...]

    def arm(self, name: str) -> PublishedArm | None:
        """The arm called `name`, or None."""
        return next((a for a in self.arms if a.name == name), None)


def names() -> tuple[str, ...]:
    """Every published curve that `load` knows, sorted."""
    entries = resources.files(__name__).iterdir()
    return tuple(sorted(e.name[:-5] for e in entries if e.name.endswith(".json")))


@functools.cache
def load(name: str) -> Published:
    """The published curve called `name`. UsageError for a name that does not exist."""
    if name not in names():
        raise UsageError(f"unknown published curve {name!r}.{did_you_mean(name, names())}")
    text = resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    return _published(json.loads(text))


def _published(plain: dict[str, Any]) -> Published:
    unit = plain.pop("unit")
    arms = tuple(
        PublishedArm(
            name=series["arm"],
            points=tuple(_point(point, unit) for point in series["points"]),
        )
        for series in plain.pop("series")
    )
    return Published(arms=arms, notes=tuple(plain.pop("notes")), **plain)


def _point(plain: dict[str, Any], unit: str) -> PublishedPoint:
    """Errors in percent become accuracies; rounded, so that 23.60 gives 0.764 and no tail."""
    value, spread = plain["value"], plain.get("spread")
    if unit == "error-percent":
        value = round(1 - value / 100, 6)
        spread = None if spread is None else round(spread / 100, 6)
    elif unit != "accuracy":
        raise ValueError(f"published curve: unknown unit {unit!r}")
    return PublishedPoint(batch_size=plain["batch_size"], accuracy=value, spread=spread)
