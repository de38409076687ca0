"""Trial specifications out of records, and names of trials, by the thousand.

The trials of a cell differ in their seeds. Building a specification and hashing it for its
id are a third of the time that reading a record takes, so both are done once a cell, and for
the others the seed alone is put in its place (tests/study/test_reading.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
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
        spec = dataclasses.replace(cell[0], seed=seed)
        spec.__dict__["trial_id"] = _id(cell, seed)  # where its cached_property keeps it
        return spec


class Labels:
    """Names of trials that do not depend on whether the data have been read."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, ...], Cell | None] = {}
        self._met: list[TrialSpec] = []  # of each cell the first, so that its parts live on

    def of(self, spec: TrialSpec) -> str:
        """The id that the trial would have with unknown data. Two trials whose parts but for
        the seed are the same objects are of one cell, as readers and grids make them."""
        parts = tuple(map(id, _parts(spec)))
        if parts not in self._cells:
            self._met.append(spec)
            self._cells[parts] = _cell(dataclasses.replace(spec, data_digest="", seed=0))
        cell = self._cells[parts]
        if cell is None:
            return dataclasses.replace(spec, data_digest="").trial_id
        return _id(cell, spec.seed)


_UNSAID = ("arm", "data_digest", "seed")
_parts = operator.attrgetter(
    *(f.name for f in dataclasses.fields(TrialSpec) if f.name not in _UNSAID)
)


def _id(cell: Cell, seed: int) -> str:
    _, before, after = cell
    return hashlib.sha256(before + b"%d" % seed + after).hexdigest()[:20]


def _cell(spec: TrialSpec) -> Cell | None:
    """None if the seed's place in the text cannot be told for sure."""
    before, found, after = canonical_json(spec.key()).partition(b'"seed":0')
    if not found or b'"seed":0' in after:
        return None
    return spec, before + b'"seed":', after
