"""What every technique is: the seam that it fills, and what it makes of a trial."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

from batchcliff.spec import Options, TrialSpec

SEAMS = ("rate", "model", "loss", "optimizer")


class Technique(Protocol):
    """A frozen dataclass whose fields are the options of the study file.

    seam: one of SEAMS; part: what of the seam it fills, such as "warmup" or "update rule".
    Two techniques that fill the same part of the same seam cannot be combined.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    seam: ClassVar[str]
    part: ClassVar[str]

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """`spec` with the technique: other settings, or the technique kept in `techniques`.

        A trial that it does not change comes back as it was. Raises NoEffect, with the
        reason, where it can have no effect on such a trial whatever the batch size.
        """
        ...


def options_of(item: Technique) -> Options:
    """The options that are not their defaults, sorted: two spellings of one are one."""
    values = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    defaults = {f.name: f.default for f in dataclasses.fields(item)}
    return tuple(sorted((k, v) for k, v in values.items() if v != defaults[k]))


def kept(spec: TrialSpec, name: str, item: Technique) -> TrialSpec:
    """`spec` with a technique that acts during the run, which the trial keeps by name."""
    pairs = (*spec.techniques, (name, options_of(item)))
    return dataclasses.replace(spec, techniques=tuple(sorted(pairs)))


def with_settings(spec: TrialSpec, **changes: Any) -> TrialSpec:
    """`spec` with fields of its settings replaced; a dict replaces fields of a table."""
    settings = spec.settings
    for name, value in changes.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(settings, name), **value)
        settings = dataclasses.replace(settings, **{name: value})
    return dataclasses.replace(spec, settings=settings)
