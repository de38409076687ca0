"""Augmentation on the device: looked up, moved and cast in one expression.

The draws depend on (seed, epoch, example) alone and are made on the host
(`batchcliff.randomness`), so that every batch size, arm and device sees the same images. The
device part has static shapes, no branch on data and never waits for the host: under
`torch.compile` the look-up, the augmentation and the cast become one kernel, and an update
that contains it can be captured as a graph.

Kinds
-----
"none"        the image as it is. No draws.
"as-written"  what the article's text says: pad by H//8 rows and W//8 columns of zeros on each
              side (4 for 32x32), crop back at a uniform integer offset, flip left-right with
              probability 1/2. Draws: row offset 0..2*(H//8), column offset, flip 0 or 1.
"as-coded"    what the article's code does: Keras' ImageDataGenerator(width_shift_range=4/32,
              height_shift_range=4/32), a continuous uniform shift of up to an eighth of the
              size along each axis, bilinear, edge pixels repeated, no flip. Draws: shift in
              rows, in columns; out[r, c] = in[r + shift_rows, c + shift_columns]
              (Keras_Preprocessing 1.0.9, `random_shift` and `apply_affine_transform`, which
              passes the shift to scipy.ndimage.affine_transform as its offset).

`Extras` come after the kind, in this order: cutout, random erasing (`erasing`), mixup
(`mixup`; its share is drawn with the others and applied to whole batches by the update). Each
has columns of its own behind those of the kind, whose draws stay as they are without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchcliff.data import erasing
from batchcliff.data.mixup import MIXUP_COLUMNS, share_draws
from batchcliff.errors import UsageError, did_you_mean
from batchcliff.randomness import derive, integers, uniform
from batchcliff.spec import Settings

# N examples held, B batch, H height, W width, C channel, k draws per example

NUM_DRAWS: dict[str, int] = {"none": 0, "as-written": 3, "as-coded": 2}
"""Draws per example, k, of every kind of augmentation."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What is done to an image beyond its kind of augmentation; each is off at 0.

    cutout: side of the square, pixels. random_erasing: its probability. mixup: alpha.
    """

    cutout: int = 0
    random_erasing: float = 0.0
    mixup: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Extras:
        """Those of a trial's settings."""
        return cls(settings.cutout, settings.random_erasing, settings.mixup)

    @property
    def columns(self) -> int:
        """Draws per example."""
        return (
            erasing.CUTOUT_COLUMNS * bool(self.cutout)
            + erasing.ERASING_COLUMNS * bool(self.random_erasing)
            + MIXUP_COLUMNS * bool(self.mixup)
        )


NO_EXTRAS = Extras()

_FRACTION = 8  # padding and shift range are an eighth of the image: 4 pixels of 32


def num_draws(kind: str, extras: Extras = NO_EXTRAS) -> int:
    """Draws per example of `kind` and `extras`. UsageError with the nearest known kind."""
    if kind not in NUM_DRAWS:
        raise UsageError(f"unknown augmentation {kind!r}.{did_you_mean(kind, NUM_DRAWS)}")
    return NUM_DRAWS[kind] + extras.columns


def draw(
    kind: str,
    seed: int,
    epoch: int,
    num_examples: int,
    image_shape: tuple[int, int, int],
    extras: Extras = NO_EXTRAS,
) -> NDArray[Any]:
    """What happens to each example in one epoch: [num_examples, k], int16 or float32.

    `image_shape` is (H, W, C). Row i depends on (kind, extras, seed, epoch, i, H, W) only:
    neither on the batch size nor on how many examples there are; and the columns of the kind
    and of each extra only on those. UsageError for an unknown kind.
    """
    columns = [_kind_draws(kind, seed, epoch, num_examples, image_shape)]
    if extras.cutout:
        columns.append(erasing.cutout_draws(seed, epoch, num_examples, image_shape))
    if extras.random_erasing:
        columns.append(
            erasing.random_erasing_draws(
                extras.random_erasing, seed, epoch, num_examples, image_shape
            )
        )
    if extras.mixup:
        columns.append(share_draws(extras.mixup, seed, epoch, num_examples))
    return np.concatenate(columns, axis=1, dtype=columns[0].dtype)


def _kind_draws(
    kind: str, seed: int, epoch: int, num_examples: int, image_shape: tuple[int, int, int]
) -> NDArray[Any]:
    k = num_draws(kind)
    streams = [derive(seed, "augmentation", kind, epoch, column) for column in range(k)]
    height, width, _ = image_shape
    if kind == "as-written":
        choices = (2 * (height // _FRACTION) + 1, 2 * (width // _FRACTION) + 1, 2)
        drawn = [integers(s, num_examples, n) for s, n in zip(streams, choices, strict=True)]
        return np.stack(drawn, axis=1).astype(np.int16)
    if kind == "as-coded":
        reach = (height / _FRACTION, width / _FRACTION)
        shifts = [
            (2 * uniform(s, num_examples) - 1) * r for s, r in zip(streams, reach, strict=True)
        ]
        return np.stack(shifts, axis=1).astype(np.float32)
    return np.zeros((num_examples, 0), np.int16)


def apply(
    kind: str,
    images_BHWC: Tensor,
    draws_Bk: Tensor,
    dtype: torch.dtype = torch.float32,
    scale: float = 1 / 255,
    extras: Extras = NO_EXTRAS,
) -> Tensor:
    """Augmented images [B, C, H, W] in channels-last memory, times `scale`, as `dtype`.

    images_BHWC: uint8. draws_Bk: rows of `draw`, of any number type, on the same device.
    Every example of the batch is used once: this is `gather` with the identity as index.
    """
    every_B = torch.arange(images_BHWC.shape[0], device=images_BHWC.device)
    return gather(kind, images_BHWC, every_B, draws_Bk, dtype, scale, extras)


def gather(
    kind: str,
    images_NHWC: Tensor,
    index_B: Tensor,
    draws_Bk: Tensor,
    dtype: torch.dtype = torch.float32,
    scale: float = 1 / 255,
    extras: Extras = NO_EXTRAS,
) -> Tensor:
    """`apply` to the examples `index_B` of the resident uint8 images, without copying them.

    index_B: any integer type, in [0, N). draws_Bk: row b belongs to example index_B[b].
    The arithmetic is float32 and rounds to `dtype` once, at the end; [B, C, H, W] in
    channels-last memory. Mixup is not applied: it needs the whole batch. UsageError for an
    unknown kind.
    """
    num_draws(kind)
    own_Bk, rest_Bk = draws_Bk[:, : NUM_DRAWS[kind]], draws_Bk[:, NUM_DRAWS[kind] :]
    if kind == "none":
        pixels_BHWC = images_NHWC[index_B.long()].float()
    elif kind == "as-written":
        pixels_BHWC = _cropped(images_NHWC, index_B, own_Bk)
    else:
        pixels_BHWC = _shifted(images_NHWC, index_B, own_Bk)
    if extras.cutout:
        own_Bk, rest_Bk = rest_Bk.tensor_split((erasing.CUTOUT_COLUMNS,), 1)
        pixels_BHWC = erasing.cutout(pixels_BHWC, own_Bk, extras.cutout)
    if extras.random_erasing:
        own_Bk, rest_Bk = rest_Bk.tensor_split((erasing.ERASING_COLUMNS,), 1)
        pixels_BHWC = erasing.random_erasing(pixels_BHWC, own_Bk, 1 / scale)
    return (pixels_BHWC * scale).to(dtype).permute(0, 3, 1, 2)


def _pixels(images_NHWC: Tensor, index_B: Tensor, rows_BH: Tensor, cols_BW: Tensor) -> Tensor:
    """float32 [B, H, W, C] with out[b, y, x] = images[index[b], rows[b, y], cols[b, x]]."""
    _, height, width, channels = images_NHWC.shape
    lines_BH = index_B.long()[:, None] * height + rows_BH
    places_BHW = lines_BH[:, :, None] * width + cols_BW[:, None, :]
    return images_NHWC.reshape(-1, channels)[places_BHW].float()


def _cropped(images_NHWC: Tensor, index_B: Tensor, draws_Bk: Tensor) -> Tensor:
    _, height, width, _ = images_NHWC.shape
    down_B, right_B, flip_B = draws_Bk.long().unbind(1)
    y_H = torch.arange(height, device=images_NHWC.device)
    x_W = torch.arange(width, device=images_NHWC.device)
    # The crop is flipped, not the image: mirror x first, then move.
    mirrored_BW = torch.where(flip_B[:, None] > 0, width - 1 - x_W, x_W)
    rows_BH = y_H + (down_B - height // _FRACTION)[:, None]
    cols_BW = mirrored_BW + (right_B - width // _FRACTION)[:, None]
    inside_BHW = ((rows_BH >= 0) & (rows_BH < height))[:, :, None] & (
        (cols_BW >= 0) & (cols_BW < width)
    )[:, None, :]
    rows_BH, cols_BW = rows_BH.clamp(0, height - 1), cols_BW.clamp(0, width - 1)
    pixels_BHWC = _pixels(images_NHWC, index_B, rows_BH, cols_BW)
    return pixels_BHWC * inside_BHW[..., None]


def _shifted(images_NHWC: Tensor, index_B: Tensor, draws_Bk: Tensor) -> Tensor:
    _, height, width, _ = images_NHWC.shape
    shift_Bk = draws_Bk.float()
    # Whole pixels and rest apart: one rest per image, so no rounding of large coordinates.
    whole_Bk = shift_Bk.floor()
    rest_Bk = shift_Bk - whole_Bk
    down_B, right_B = whole_Bk.long().unbind(1)
    y_BH = torch.arange(height, device=images_NHWC.device) + down_B[:, None]
    x_BW = torch.arange(width, device=images_NHWC.device) + right_B[:, None]
    top_BH, bottom_BH = y_BH.clamp(0, height - 1), (y_BH + 1).clamp(0, height - 1)
    left_BW, right_BW = x_BW.clamp(0, width - 1), (x_BW + 1).clamp(0, width - 1)
    below_B, beside_B = rest_Bk[:, :, None, None, None].unbind(1)
    upper = (1 - beside_B) * _pixels(images_NHWC, index_B, top_BH, left_BW)
    upper = upper + beside_B * _pixels(images_NHWC, index_B, top_BH, right_BW)
    lower = (1 - beside_B) * _pixels(images_NHWC, index_B, bottom_BH, left_BW)
    lower = lower + beside_B * _pixels(images_NHWC, index_B, bottom_BH, right_BW)
    return (1 - below_B) * upper + below_B * lower
