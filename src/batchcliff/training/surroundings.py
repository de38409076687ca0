"""What the bits of a run depend on beside its spec and the code: said, and compared.

Source: RELIABILITY.md 5.4 and F28. As text it is canonical JSON of (name, value) pairs; what
stands in a file was written by somebody, so nothing of it is believed to be one.
"""

from __future__ import annotations

import contextlib
from typing import Any

from batchcliff.canonical import canonical_json, parse_json
from batchcliff.record import UNLIMITED
from batchcliff.training.precision import device_name, numerics, versions
from batchcliff.training.prepare import Prepared

Pairs = tuple[tuple[str, str], ...]

SHORT = 80  # characters of a stranger's name or value


def of(prepared: Prepared) -> Pairs:
    """The device, versions and numerics of a run on this machine."""
    device = prepared.loop.device
    return (
        ("device", device_name(device)),
        *versions(),
        *numerics(device, prepared.compiled, prepared.kernels, prepared.team),
    )


def text_of(pairs: Pairs) -> str:
    """As `pairs_of` reads it."""
    return canonical_json(pairs).decode()


def pairs_of(text: Any) -> set[tuple[str, str]]:
    """The pairs of what may be a fingerprint; none of what is not."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return {
            (str(name)[:SHORT], str(value)[:SHORT]) for name, value in parse_json(str(text))
        }
    return set()


def mixture(there: Any, before: Any, here: str) -> Pairs:
    """What a run that goes on `here` adds to its bits: the pairs of `there`, where it has been,
    and of `before`, where it was earlier, that are not those of `here`; sorted.

    () also where it cannot go on, since the device is of another kind.
    """
    now, then = _whole(here), _whole(there)
    if ("cuda" in dict(now)) != ("cuda" in dict(then)):
        return ()
    return tuple(sorted((then | pairs_of(before)) - now))


def difference(there: Any, here: str) -> str:
    """What is not the same, in words; of what only `there` has, which may be much, one name."""
    then, now = dict(_whole(there)), dict(_whole(here))
    other = [name for name in sorted(now) if then.get(name) != now[name]]
    words = [f"{name} {then.get(name)!a}, now {now[name]!a}" for name in other]
    if gone := sorted(then.keys() - now.keys()):
        words.append(f"{gone[0]!a} {then[gone[0]]!a}, now None")
    return "; ".join(words)


def _whole(text: Any) -> set[tuple[str, str]]:
    """The pairs of a fingerprint with those that go without saying."""
    pairs = pairs_of(text)
    said = dict(pairs)
    return pairs | {pair for pair in UNLIMITED.items() if pairs and pair[0] not in said}
