"""Everything on the device as uint8, and the stream of examples that the updates read.

The stream of a seed is a fresh permutation of the examples per epoch, one after another.
It depends on the seed alone. What a batch size does is cut it:

"carry"  update u reads positions u*B .. (u+1)*B - 1 of the whole stream, across the ends of
         epochs; every example is seen equally often, give or take one.
"drop"   each epoch has floor(N/B) updates, which read its first floor(N/B)*B positions; the
         rest of that epoch's order is not seen (Keras' steps_per_epoch = N // B).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchcliff.data.augment import NO_EXTRAS, Extras, draw, num_draws
from batchcliff.data.sources import Dataset
from batchcliff.errors import Infeasible, UsageError, did_you_mean
from batchcliff.randomness import derive, permutation

# N examples, U updates, B batch, P positions of the stream, k draws per example

REMAINDERS = ("drop", "carry")


@dataclass(frozen=True, slots=True)
class Resident:
    """A data set on a device: images uint8 [N, H, W, C], labels int64 [N]; test likewise.

    Multiplying pixels by `scale` brings them to 0..1.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    scale: float

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device | str = "cpu") -> Resident:
        """Copy `dataset` to `device` (also when that is the CPU)."""
        return cls(
            train_images=torch.tensor(dataset.train_images, device=device),
            train_labels=torch.tensor(dataset.train_labels, device=device),
            test_images=torch.tensor(dataset.test_images, device=device),
            test_labels=torch.tensor(dataset.test_labels, device=device),
            scale=dataset.scale,
        )


class Block(NamedTuple):
    """What U updates read. indices: int32 [U, B]; draws: [U, B, k], see `augment.draw`."""

    indices: NDArray[np.int32]
    draws: NDArray[Any]

    def to(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Both as tensors on `device`; on CUDA through pinned memory, without waiting."""
        tensors = torch.from_numpy(self.indices), torch.from_numpy(self.draws)
        if torch.device(device).type == "cuda":
            index_UB, draws_UBk = (
                t.pin_memory().to(device, non_blocking=True) for t in tensors
            )
            return index_UB, draws_UBk
        return tensors


def epoch_order(seed: int, epoch: int, num_examples: int) -> NDArray[np.int32]:
    """The order of all examples in epoch 0, 1, ...: a permutation, int32 [N]."""
    return permutation(derive(seed, "order", epoch), num_examples).astype(np.int32)


def updates_per_epoch(num_examples: int, batch_size: int) -> int:
    """floor(N/B), the updates of an epoch under "drop". Infeasible if the batch exceeds N."""
    if batch_size > num_examples:
        raise Infeasible(
            f"a batch of {batch_size:,} examples is larger than the {num_examples:,} training "
            "examples; no smaller batch is taken in its place"
        )
    return num_examples // batch_size


@functools.lru_cache(maxsize=32)
def _epoch(
    seed: int,
    epoch: int,
    num_examples: int,
    kind: str,
    image_shape: tuple[int, int, int],
    extras: Extras,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Order and, in that order, draws of one epoch. Kept, since two blocks may share it."""
    order = epoch_order(seed, epoch, num_examples)
    draws = draw(kind, seed, epoch, num_examples, image_shape, extras)[order]
    order.flags.writeable = draws.flags.writeable = False
    return order, draws


def index_stream(
    seed: int,
    first: int,
    stop: int,
    *,
    num_examples: int,
    image_shape: tuple[int, int, int],
    kind: str = "none",
    extras: Extras = NO_EXTRAS,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Positions first..stop-1 of the stream: example indices int32 [P] and draws [P, k].

    An example that comes twice, in two epochs, has that epoch's own draws each time. Batch
    sizes that change during a run cut this stream as they like.
    """
    orders, draws = [], []
    position = first
    while position < stop:
        epoch, start = divmod(position, num_examples)
        taken = min(stop - position, num_examples - start)
        order, drawn = _epoch(seed, epoch, num_examples, kind, image_shape, extras)
        orders.append(order[start : start + taken])
        draws.append(drawn[start : start + taken])
        position += taken
    if not orders:
        order, drawn = _epoch(seed, 0, num_examples, kind, image_shape, extras)
        orders, draws = [order[:0]], [drawn[:0]]
    return np.concatenate(orders), np.concatenate(draws)


def epoch_block(
    seed: int,
    first_update: int,
    stop_update: int,
    *,
    batch_size: int,
    num_examples: int,
    image_shape: tuple[int, int, int],
    kind: str,
    remainder: str,
    extras: Extras = NO_EXTRAS,
    start: int = 0,
) -> Block:
    """What updates first_update..stop_update-1 of the run read, U rows of B examples.

    `image_shape` is (H, W, C); `kind` and `extras` as in augment; `remainder` "drop" or
    "carry". Any range may be asked for, but one epoch at a time is what the caller should
    copy to the device. start: position of the stream at which update 0 begins (a batch size
    that takes over during a run has its own); under "drop" the beginning of an epoch.
    Raises Infeasible if the batch exceeds the data, UsageError for unknown names.
    """
    if remainder not in REMAINDERS:
        raise UsageError(
            f"unknown remainder {remainder!r}.{did_you_mean(remainder, REMAINDERS)}"
        )
    per_epoch = updates_per_epoch(num_examples, batch_size)
    stream = functools.partial(
        index_stream,
        seed,
        num_examples=num_examples,
        image_shape=image_shape,
        kind=kind,
        extras=extras,
    )
    updates = max(stop_update - first_update, 0)
    if remainder == "carry" or updates == 0:
        begin = start + first_update * batch_size
        pieces = [stream(begin, begin + updates * batch_size)]
    else:
        pieces, update = [], first_update
        while update < stop_update:
            epoch, row = divmod(update, per_epoch)
            rows = min(stop_update - update, per_epoch - row)
            begin = start + epoch * num_examples + row * batch_size
            pieces.append(stream(begin, begin + rows * batch_size))
            update += rows
    index = np.concatenate([p[0] for p in pieces])
    draws = np.concatenate([p[1] for p in pieces])
    shape = (updates, batch_size)
    return Block(index.reshape(shape), draws.reshape(*shape, num_draws(kind, extras)))
