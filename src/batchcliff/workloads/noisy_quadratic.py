"""The noisy quadratic: a workload whose cliff can be computed, to test everything else with.

Loss of an example x: 1/2 sum_i h_i (w_i - a_i x_i)^2, a_i = sqrt(c_i) / h_i. Its mean over the
training set is the quadratic 1/2 sum_i h_i w_i^2 plus a constant, and the gradient of a batch
is h_i w_i plus noise of variance c_i / B (Zhang et al. 2019, arXiv 1907.04164).
docs/noisy_quadratic.md derives the rest; `quadratic_truth` computes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcliff.data.sources import Dataset
from batchcliff.data.verify import content_digest
from batchcliff.errors import UsageError

# N examples, D coordinates, M thresholds

DIMENSIONS = 64
NUM_TRAIN = 2048  # a power of two: Walsh functions are its noise
MULTIPLIER = 1021  # odd, so that the D Walsh functions are different ones
THRESHOLDS = 1024  # test images of class 1; as many are of class 0
SCALE = 1 / 128  # pixels 0, 64 and 128 are exactly 0, 1/2 and 1
CERTAIN = 20.0  # loss of class 1 on an image of class 0: it is answered right, always


@dataclass(frozen=True, slots=True)
class NoisyQuadratic:
    """h_i, c_i and |w_i| at the start, one number a coordinate; all positive."""

    curvatures: tuple[float, ...]
    noise: tuple[float, ...]
    start: tuple[float, ...]

    @property
    def displacements(self) -> tuple[float, ...]:
        """a_i = sqrt(c_i) / h_i: how far the minimum of an example lies from that of all."""
        pairs = zip(self.curvatures, self.noise, strict=True)
        return tuple(math.sqrt(c) / h for h, c in pairs)

    @property
    def start_loss(self) -> float:
        """1/2 sum_i h_i w_i^2 before the first update."""
        pairs = zip(self.curvatures, self.start, strict=True)
        return math.fsum(h * w * w for h, w in pairs) / 2


def spectrum(scale: float = 2.0) -> NoisyQuadratic:
    """h_i = i^(-1/4), c_i = scale h_i, |w_i| = 1 at the start.

    Noise in proportion to the curvature is the usual assumption. A steeper spectrum, such as
    1 / i, would leave most of the loss to a few coordinates, and to chance: here many have a
    share in it.
    """
    h = tuple(i**-0.25 for i in range(1, DIMENSIONS + 1))
    return NoisyQuadratic(h, tuple(scale * x for x in h), (1.0,) * DIMENSIONS)


QUADRATIC = spectrum()


def dataset() -> Dataset:
    """Noise for training, and for testing a scale that the loss is read from.

    Coordinate i of training example n is the Walsh function (-1)^(number of ones in n & k_i),
    with different k_i > 0: over the whole set mean 0, variance 1, and no two correlate,
    exactly. Images [1, D + 2, 1]: these signs as 0 and 128, then the level, which is 0, in
    two digits of base 128.

    A test image of level j = 1 .. M is answered right if the network's loss L is under
    (j - 1/2) / M of the loss at the start, and M images of class 0 always are. So the
    accuracy is 1 - L / (2 start loss), rounded to 1 / (2 M), and 1/2 from the start loss on:
    chance, for two classes.
    """
    keys_D = MULTIPLIER * np.arange(1, DIMENSIONS + 1) % NUM_TRAIN
    signs_ND = np.bitwise_count(np.arange(NUM_TRAIN)[:, None] & keys_D) & 1
    train = _images(128 * signs_ND, np.zeros(NUM_TRAIN, np.int64))
    levels_M = np.arange(1, THRESHOLDS + 1)
    levels = np.concatenate([levels_M, np.full(THRESHOLDS, THRESHOLDS + 1)])
    test = _images(np.full((len(levels), DIMENSIONS), 64), levels)
    train_labels = np.ones(NUM_TRAIN, np.int64)
    test_labels = (levels <= THRESHOLDS).astype(np.int64)
    class_names = ("certain", "measured")
    arrays = train, train_labels, test, test_labels
    return Dataset(
        name="noisy-quadratic-data",
        train_images=train,
        train_labels=train_labels,
        test_images=test,
        test_labels=test_labels,
        class_names=class_names,
        digest=content_digest(arrays, class_names),
        source="made by batchcliff: 2,048 vectors of 64 signs, 1,024 thresholds of the loss",
        scale=SCALE,
    )


def _images(pixels_ND: NDArray[np.int64], levels_N: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 [N, 1, D + 2, 1]"""
    high_N, low_N = np.divmod(levels_N, 128)
    rows = np.column_stack([pixels_ND, high_N, low_N]).astype(np.uint8)
    return rows[:, None, :, None]


def network(
    image_shape: tuple[int, int, int],
    num_classes: int,
    problem: NoisyQuadratic = QUADRATIC,
) -> Any:
    """`batchcliff.models.quadratic.Quadratic` for images of `dataset`.

    UsageError for other images: the network reads noise and thresholds from their pixels.
    """
    if (image_shape, num_classes) != ((1, DIMENSIONS + 2, 1), 2):
        raise UsageError(
            f"the noisy quadratic reads its own data, images (1, {DIMENSIONS + 2}, 1) of 2 "
            f"classes, not {image_shape} of {num_classes}: leave the key `data` out"
        )
    from batchcliff.models.quadratic import Quadratic

    levels = range(1, THRESHOLDS + 1)
    thresholds = [problem.start_loss * (j - 0.5) / THRESHOLDS for j in levels]
    return Quadratic(
        curvatures=list(problem.curvatures),
        displacements=list(problem.displacements),
        start=list(problem.start),
        # An image is answered with class 1 where its loss is under log 2.
        scales=[1.0, *(math.log(2) / t for t in thresholds), 0.0],
        shifts=[0.0, *(0.0 for _ in levels), CERTAIN],
    )
