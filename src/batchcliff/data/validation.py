"""Examples of the training set that are held out to choose a learning rate with.

The split depends on the data and the share alone: every trial that chooses is trained and
evaluated on the same examples, whatever its arm, batch size, rate and seed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchcliff.data.sources import Dataset
from batchcliff.randomness import derive, permutation

# N examples


def num_held_out(num_train: int, share: float) -> int:
    """How many of `num_train` examples a share of them is: the nearest whole number."""
    return math.floor(num_train * share + 0.5)


def held_out_mask(labels_N: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Which training examples are held out, bool [N]; `num_held_out` of them.

    Stratified: example j of the n of a class, in a fixed order drawn from their places, has
    the rank (j + 1/2) / n, and the lowest ranks are held out. So a class gives its share, give
    or take one example.
    """
    order = permutation(derive("validation", "split"), len(labels_N))
    rank_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        mine = order[labels_N[order] == label]
        rank_N[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    lowest = np.lexsort((labels_N, rank_N))[: num_held_out(len(labels_N), share)]
    mask = np.zeros(len(labels_N), dtype=np.bool_)
    mask[lowest] = True
    return mask


def held_out(whole: Dataset, share: float) -> Dataset:
    """`whole` with the held-out examples where its test set was, which is in no part of it."""
    mask = held_out_mask(whole.train_labels, share)
    return replace(
        whole,
        train_images=whole.train_images[~mask],
        train_labels=whole.train_labels[~mask],
        test_images=whole.train_images[mask],
        test_labels=whole.train_labels[mask],
        source=f"{whole.source}; {int(mask.sum()):,} training examples held out, which take "
        "the place of the test set",
    )
