"""Under which numerics a study's records were made, and whether new ones join them.

Source: RELIABILITY.md, F28. Another CPU, instruction set, number of threads or version of
torch changes bits: new trials run all the same, with a warning, and a report flags the cells
that mix them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batchcliff.record import UNLIMITED, Provenance

NO_BITS = "batchcliff"  # of what a worker says, what `Provenance.fingerprint` leaves out


class Fingerprints:
    """Those of the records that a run finds; `news` of others, once each."""

    def __init__(self, provenances: Iterable[Provenance | None]) -> None:
        places = {p.fingerprint for p in dict.fromkeys(provenances) if p is not None}
        self._known = [UNLIMITED | dict(pairs) for pairs in sorted(places)]
        self._told: list[dict[str, str]] = []

    def news(self, surroundings: Iterable[Sequence[str]]) -> list[str]:
        """A warning, if trials run under other numerics than any record of before; or none.

        surroundings: what `training.surroundings.of` says of where they run.
        """
        now = UNLIMITED | {name: value for name, value in surroundings if name != NO_BITS}
        if not self._known or now in self._known or now in self._told:
            return []
        self._told.append(now)
        nearest = min(self._known, key=lambda one: len(_different(one, now)))
        words = "; ".join(
            f"{name} {nearest.get(name, 'not said')!r} there, {now.get(name, 'not said')!r} now"
            for name in _different(nearest, now)
        )
        told = "new trials run under other numerics than the records that are there"
        return [f"{told} ({words}): the report flags cells that mix them"]


def _different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
