"""What may move the cliff: one file per technique, and the dict that lists them.

A technique is a frozen dataclass of options (its fields are the keys of the study file) that
fills one of four seams: rate, model, loss, optimizer. Two techniques that fill the same seam
cannot be combined; a technique that finds nothing to change raises `NoEffect`. Importing this
package imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import Options
from batchcliff.techniques.warmup import Warmup

Technique = Warmup

TECHNIQUES: dict[str, type[Technique]] = {"warmup": Warmup}


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
    return cls(**given)


def techniques(pairs: tuple[tuple[str, Options], ...]) -> tuple[Technique, ...]:
    """The techniques of an arm. UsageError if two of them fill the same seam."""
    built = tuple(technique(name, options) for name, options in pairs)
    filled: dict[str, str] = {}
    for (name, _), item in zip(pairs, built, strict=True):
        if item.seam in filled:
            raise UsageError(
                f"techniques {filled[item.seam]!r} and {name!r} both fill the seam "
                f"{item.seam!r}: put them in two arms."
            )
        filled[item.seam] = name
    return built
