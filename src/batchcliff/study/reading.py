"""Trial specifications out of records, by the thousand.

The trials of a cell differ in their seeds. Building a specification and hashing it for its
id are a third of the time that reading a record takes, so both are done once a cell, and for
the others the seed alone is put in its place (tests/study/test_reading.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from batchcliff.canonical import canonical_json, from_plain
from batchcliff.spec import TrialSpec

Cell = tuple[TrialSpec, bytes, bytes]
"""A specification with seed 0, and the text of its key before and after the seed."""


class SpecReader:
    """Rebuilds specifications from what `to_plain` made of them, with their ids known."""

    def __init__(self) -> None:
        self._cells: dict[str, Cell | None] = {}

    def read(self, plain: Any) -> TrialSpec:
        """As `from_plain(TrialSpec, plain)`, with its exceptions."""
        seed = plain["seed"]
        if type(seed) is not int:  # from_plain says what is wrong with it
            return from_plain(TrialSpec, plain)
        # Records are written with their keys in order. In another order it is another name,
        # and the cell is built again.
        name = repr({**plain, "seed": 0})
        if name not in self._cells:
            self._cells[name] = _cell(from_plain(TrialSpec, {**plain, "seed": 0}))
        cell = self._cells[name]
        if cell is None:
            return from_plain(TrialSpec, plain)
        first, before, after = cell
        spec = dataclasses.replace(first, seed=seed)
        key = hashlib.sha256(before + b"%d" % seed + after)
        spec.__dict__["trial_id"] = key.hexdigest()[:20]  # where its cached_property keeps it
        return spec


def _cell(spec: TrialSpec) -> Cell | None:
    """None if the seed's place in the text cannot be told for sure."""
    before, found, after = canonical_json(spec.key()).partition(b'"seed":0')
    if not found or b'"seed":0' in after:
        return None
    return spec, before + b'"seed":', after
