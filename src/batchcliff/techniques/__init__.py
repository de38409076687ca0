"""What may move the cliff: one file per technique, and the dict that lists them.

A technique is a frozen dataclass of options (its fields are the keys of the study file) that
fills a part of one of four seams: rate, model, loss, optimizer. Two techniques that fill the
same part cannot be combined; an arm whose technique changes nothing is refused (`NoEffect`).
Most techniques resolve into settings of the trial, so that a trial has one id however it was
spelled; those that act during the run stay in `TrialSpec.techniques`. Importing this package
imports no torch.
"""

from __future__ import annotations

import dataclasses
import typing
from types import NoneType, UnionType
from typing import Any

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import Options
from batchcliff.techniques.seams import SEAMS, Technique
from batchcliff.techniques.warmup import Warmup

__all__ = ["SEAMS", "TECHNIQUES", "Technique", "technique", "techniques"]

TECHNIQUES: dict[str, type[Technique]] = {
    "warmup": Warmup,
}

KINDS: dict[type, str] = {
    str: "a text",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
}


def technique(name: str, options: Options | dict[str, Any]) -> Technique:
    """The technique `name` with `options`. UsageError if either is unknown or invalid."""
    if name not in TECHNIQUES:
        raise UsageError(f"unknown technique {name!r}.{did_you_mean(name, TECHNIQUES)}")
    cls, given = TECHNIQUES[name], dict(options)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(given.keys() - fields.keys()):
        raise UsageError(
            f"{name}: unknown option {unknown[0]!r}.{did_you_mean(unknown[0], fields)}"
        )
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in given:
            raise UsageError(f"{name}: {field.name} is missing.")
    hints = typing.get_type_hints(cls)
    for key, value in given.items():
        kinds = _kinds(hints[key])
        if not any(_is(value, kind) for kind in kinds):
            words = [
                KINDS.get(kind, f"a {kind.__name__}") for kind in kinds if kind is not NoneType
            ]
            raise UsageError(f"{name}.{key}: {value!r:.100} is not {' or '.join(words)}.")
    return cls(**given)


def _kinds(hint: Any) -> list[type]:
    """The types that an annotation allows: `float | None` is two, a choice of texts is one."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        parts = (kind for part in typing.get_args(hint) for kind in _kinds(part))
        return list(dict.fromkeys(parts))
    if origin is typing.Literal:  # which ones, the technique knows
        return list(dict.fromkeys(type(choice) for choice in typing.get_args(hint)))
    return [origin or hint]


def _is(value: Any, kind: type) -> bool:
    """As isinstance, but true is no number, and a whole number is one."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def techniques(pairs: tuple[tuple[str, Options], ...]) -> tuple[Technique, ...]:
    """The techniques of an arm. UsageError if two of them fill the same part of a seam."""
    built = tuple(technique(name, options) for name, options in pairs)
    filled: dict[tuple[str, str], str] = {}
    for (name, _), item in zip(pairs, built, strict=True):
        place = (item.seam, item.part)
        if place in filled:
            raise UsageError(
                f"techniques {filled[place]!r} and {name!r} both fill the seam "
                f"{item.seam!r} ({item.part}): put them in two arms."
            )
        filled[place] = name
    return built
