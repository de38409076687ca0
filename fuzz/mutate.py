"""A small mutating fuzzer, for machines where libFuzzer cannot be installed.

It keeps an input when the reader does something new with it: the set of source lines that
ran is the measure (`sys.settrace` on a share of the inputs, since tracing is slow).
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SAMPLED = 8  # every so many executions are traced
MOST_KEPT = 400
WATCHED = ("batchcliff", "tomllib")


@dataclass
class Result:
    """How far a run of the fuzzer came; `finding` is an input that broke the reader."""

    executions: int = 0
    seconds: float = 0.0
    kept: int = 0
    finding: bytes | None = None
    error: BaseException | None = None
    lines: set[tuple[str, int]] = field(default_factory=set)


def fuzz(
    read: Callable[[bytes], object],
    seeds: list[bytes],
    tokens: tuple[bytes, ...] = (),
    *,
    seconds: float = 0.0,
    executions: int = 0,
    seed: int = 0,
    most_bytes: int = 1 << 16,
) -> Result:
    """Feed `read` until `seconds` or `executions` are used up, or it breaks.

    The seeds themselves come first, however long they take; they must be read without an error
    too.
    """
    rng, result, pool = random.Random(seed), Result(), list(seeds)
    begun = time.monotonic()
    while result.finding is None:
        count = result.executions
        data = seeds[count] if count < len(seeds) else mutated(rng, pool, tokens)[:most_bytes]
        traced = count < len(seeds) or count % SAMPLED == 0
        try:
            if _run(read, data, result.lines if traced else None) and len(pool) < MOST_KEPT:
                pool.append(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            result.finding, result.error = data, error
        result.executions += 1
        if executions and result.executions >= executions:
            break
        looks = count >= len(seeds) and count % 16 == 0
        if seconds and looks and time.monotonic() - begun >= seconds:
            break
    result.seconds, result.kept = time.monotonic() - begun, len(pool)
    return result


def _run(
    read: Callable[[bytes], object], data: bytes, lines: set[tuple[str, int]] | None
) -> bool:
    """Whether a line ran that never did before (False if nobody looked)."""
    if lines is None:
        read(data)
        return False
    before = len(lines)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not any(name in frame.f_code.co_filename for name in WATCHED):
            return None
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        read(data)
    finally:
        sys.settrace(former)
    return len(lines) > before


def mutated(rng: random.Random, pool: list[bytes], tokens: tuple[bytes, ...]) -> bytes:
    """A few changes, one after another, to one of the pool."""
    data = bytearray(rng.choice(pool))
    for _ in range(1 << rng.randrange(4)):
        _change(rng, data, pool, tokens)
    return bytes(data)


def _change(
    rng: random.Random, data: bytearray, pool: list[bytes], tokens: tuple[bytes, ...]
) -> None:
    at = rng.randrange(len(data) + 1)
    stop = min(len(data), at + rng.choice((1, 2, 4, 8, 16, 64, 256)))
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 2:
        del data[at:stop]
    elif kind == 3:
        data[at:at] = data[at:stop] * rng.choice((1, 2, 16))
    elif kind == 4:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 5 and tokens:
        data[at : at if rng.random() < 0.5 else stop] = rng.choice(tokens)
    elif kind == 6:
        other = rng.choice(pool)
        here = rng.randrange(len(other) + 1)
        data[at:stop] = other[here : here + stop - at + rng.randrange(32)]
    elif kind == 7:  # a number in the text becomes another
        digits = [i for i in range(at, min(len(data), at + 200)) if 48 <= data[i] <= 57]
        if digits:
            data[digits[0] : digits[0] + 1] = str(
                rng.choice((-1, 0, 1, 9, 255, 256, 65536, 2**31, 2**63, 2**64))
            ).encode()
    else:
        del data[at:]
