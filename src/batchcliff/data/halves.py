"""Half of a data set's classes as a data set: an old task and a new one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchcliff.data.sources import Dataset
from batchcliff.data.verify import content_digest

HALVES = ("first-half", "second-half")


def half(whole: Dataset, which: str) -> Dataset:
    """The examples of the first or second half of `whole`'s classes, labels from 0.

    Classes keep their order, the examples of a split theirs; with an odd number of classes
    the middle one belongs to the second half. which: one of HALVES.
    """
    middle = whole.num_classes // 2
    first, last = (0, middle) if which == HALVES[0] else (middle, whole.num_classes)
    names = whole.class_names[first:last]
    train = _chosen(whole.train_labels, first, last)
    test = _chosen(whole.test_labels, first, last)
    arrays = (
        whole.train_images[train],
        whole.train_labels[train] - first,
        whole.test_images[test],
        whole.test_labels[test] - first,
    )
    return replace(
        whole,
        name=f"{whole.name}-{which}",
        train_images=arrays[0],
        train_labels=arrays[1],
        test_images=arrays[2],
        test_labels=arrays[3],
        class_names=names,
        digest=content_digest(arrays, names),
        source=f"{whole.source}; {len(names)} of its {whole.num_classes} classes: "
        f"{', '.join(names)}",
    )


def _chosen(labels: NDArray[np.int64], first: int, last: int) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = (labels >= first) & (labels < last)
    return chosen
