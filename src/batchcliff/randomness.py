"""All randomness of a trial, derived from its seed and a purpose; none of it is stored.

A value depends on (seed, purpose, epoch, index) and on nothing else: not on the arm, the
batch size, the device, the number of workers, or the version of NumPy or torch. So arms
and batch sizes are paired by seed, and a run resumed anywhere sees what it would have seen.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) used as a counter-based hash: value i of stream s is
mix64(s + (i + 1) * 0x9E3779B97F4A7C15).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive(*ids: int | str) -> int:
    """A 64-bit stream from names and numbers, e.g. `derive(seed, "order", epoch)`."""
    text = "\x1f".join(f"{type(i).__name__}:{i}" for i in ids)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def bits(stream: int, count: int, start: int = 0) -> NDArray[np.uint64]:
    """Values `start` to `start + count - 1` of a stream, uint64 [count]."""
    with np.errstate(over="ignore"):
        index = np.arange(start + 1, start + count + 1, dtype=np.uint64)
        z = np.uint64(stream) + index * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed


def uniform(stream: int, count: int, start: int = 0) -> NDArray[np.float64]:
    """Uniform in [0, 1) with 53 bits, float64 [count]."""
    high = bits(stream, count, start) >> np.uint64(11)
    return high.astype(np.float64) * 2.0**-53


def integers(stream: int, count: int, below: int, start: int = 0) -> NDArray[np.int64]:
    """Uniform integers in [0, below), int64 [count]; bias under below / 2**53."""
    return np.floor(uniform(stream, count, start) * below).astype(np.int64)


def permutation(stream: int, count: int) -> NDArray[np.int64]:
    """A permutation of range(count), int64 [count]: the order of the hashed indices."""
    return np.argsort(bits(stream, count), kind="stable")
