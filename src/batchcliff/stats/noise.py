"""The random numbers behind all draws: fixed streams, made once.

Equal data must give equal intervals, so nothing is drawn from a running generator: a stream
is named by numbers (which arm, which batch size, what for) and is the same in every study.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEED = 20190604
CACHED = 512  # streams; 2,000 draws each: 8 MB in all


@lru_cache(maxsize=CACHED)
def uniforms(draws: int, *stream: int) -> Array:
    """Uniforms in (0, 1), one in each of `draws` equal strata, in random order, [D]."""
    rng = np.random.default_rng([SEED, 0, *stream])
    return _frozen((rng.permutation(draws) + rng.random(draws)) / draws)


@lru_cache(maxsize=CACHED)
def normals(draws: int, *stream: int) -> Array:
    """Standard normals, [D]."""
    return _frozen(np.random.default_rng([SEED, 1, *stream]).standard_normal(draws))


@lru_cache(maxsize=CACHED)
def chis(draws: int, freedom: int, *stream: int) -> Array:
    """sqrt(chi-square / freedom), [D]: a normal over this is Student's t."""
    rng = np.random.default_rng([SEED, 2, freedom, *stream])
    return _frozen(np.sqrt(rng.chisquare(freedom, draws) / freedom))


def _frozen(array: Array) -> Array:
    """Cached arrays are shared: nobody may write into one."""
    array.flags.writeable = False
    return array
