"""Small data sets as they are after decoding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from batchcliff.data.verify import Decoded


def decoded(seed: int = 0, **changes: Any) -> Decoded:
    rng = np.random.default_rng(seed)
    made = Decoded(
        train_images=rng.integers(0, 256, (12, 4, 5, 3), np.uint8),
        train_labels=np.arange(12, dtype=np.int64) % 3,
        test_images=rng.integers(0, 256, (6, 4, 5, 3), np.uint8),
        test_labels=np.arange(6, dtype=np.int64) % 3,
        class_names=("a", "b", "c"),
    )
    return dataclasses.replace(made, **changes)


def same(a: Decoded, b: Decoded) -> bool:
    arrays = all(np.array_equal(x, y) for x, y in zip(a.arrays(), b.arrays(), strict=True))
    return arrays and (a.class_names, a.encodings) == (b.class_names, b.encodings)
