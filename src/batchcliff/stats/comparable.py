"""Whether two arms, or two studies, may be compared: they must differ in the arm alone."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import Any

from batchcliff.canonical import to_plain
from batchcliff.errors import UsageError
from batchcliff.spec import StudySpec, TrialSpec

# Parts of a trial's key that an arm may change; all but the first are told to the reader.
ARM_KEYS = ("techniques", "settings", "lr", "decay", "budget")

OWN = ("name", "description", "published", "search", "arms", "batch_sizes", "seeds",
       "reference_arm", "tolerance")  # fmt: skip
"""Parts of a study that say which trials it has, or how they are read, not what they are."""
WATCHING = ("evaluate_every", "gradient_norms", "probes", "probe_at")
"""Settings that record more or less of a trial, and change nothing of it."""


def check_studies(one: StudySpec, other: StudySpec) -> None:
    """UsageError, with every difference, for studies whose trials differ in more than the arm:
    in workload, data, budget, settings, decay, or the rule of the learning rate."""

    def shared(study: StudySpec) -> dict[str, Any]:
        plain = {key: v for key, v in to_plain(study).items() if key not in OWN}
        kept = {key: v for key, v in plain["settings"].items() if key not in WATCHING}
        return plain | {"settings": kept}

    found = _differences(shared(one), shared(other), "")
    if found:
        told = "; ".join(f"{path} ({_said(a)}, {_said(b)})" for path, a, b in found)
        raise UsageError(
            f"studies {one.name!r} and {other.name!r} differ in more than their arms, and a "
            f"shift between them would not be an arm's: {told}"
        )


def _said(value: Any) -> str:
    return "the default" if value is None else repr(value)


def check_comparable(arm: Iterable[TrialSpec], base: Iterable[TrialSpec]) -> tuple[str, ...]:
    """Settings that differ between two arms' trials of equal batch size and seed.

    An arm may change its techniques and, declared by the arm or made by a technique, settings,
    learning rate, decay and budget: these are returned as sentences for the reader. Anything
    else that differs (workload, data, ...) raises UsageError that names it with both values:
    the shift would not be the arm's.
    """
    others = {(spec.batch_size, spec.seed): spec for spec in base}
    notes: dict[str, str] = {}
    for spec in arm:
        other = others.get((spec.batch_size, spec.seed))
        if other is None or _alike(spec, other):
            continue
        if spec.validation or other.validation:  # no rate was found for it, so it never ran
            continue
        for path, mine, theirs in _differences(spec.key(), other.key(), ""):
            root = path.split(".")[0]
            where = f"{path} ({spec.arm}: {mine!r}, {other.arm}: {theirs!r})"
            if root not in ARM_KEYS:
                raise UsageError(
                    f"arms {spec.arm!r} and {other.arm!r} differ in more than the arm, at "
                    f"batch size {spec.batch_size}, seed {spec.seed}: {where}"
                )
            if root != "techniques":
                notes[path] = f"arms {spec.arm!r} and {other.arm!r} also differ in {where}"
    return tuple(notes[path] for path in sorted(notes))


def _alike(mine: TrialSpec, theirs: TrialSpec) -> bool:
    """Whether nothing but label and techniques differ: quick, for the usual case."""
    return bool(_besides(mine) == _besides(theirs))


_besides = operator.attrgetter(
    *(f.name for f in dataclasses.fields(TrialSpec) if f.name not in ("arm", "techniques"))
)


def _differences(mine: Any, theirs: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Dotted paths at which two plain values differ, with both values."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        names = sorted(mine.keys() | theirs.keys())
        return [
            found
            for name in names
            for found in _differences(
                mine.get(name), theirs.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if mine == theirs else [(path, mine, theirs)]
