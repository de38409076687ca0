"""The stream of examples: laws, and an obvious twin built from whole epochs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchcliff.data.augment import NUM_DRAWS, draw
from batchcliff.data.resident import (
    REMAINDERS,
    Block,
    Resident,
    epoch_block,
    epoch_order,
    index_stream,
    updates_per_epoch,
)
from batchcliff.data.sources import load
from batchcliff.errors import Infeasible, UsageError

SHAPE = (8, 8, 1)
sizes = st.integers(1, 40)
seeds = st.integers(0, 5)


def block(
    seed: int, first: int, stop: int, batch: int, size: int, remainder: str, kind: str = "none"
) -> Block:
    return epoch_block(
        seed,
        first,
        stop,
        batch_size=batch,
        num_examples=size,
        image_shape=SHAPE,
        kind=kind,
        remainder=remainder,
    )


def twin(
    seed: int, updates: int, batch: int, size: int, remainder: str, kind: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Write down every epoch, keep what the remainder rule keeps, cut into rows."""
    stream: list[tuple[int, list[float]]] = []
    epoch = 0
    while len(stream) < updates * batch:
        draws = draw(kind, seed, epoch, size, SHAPE)
        seen = [(int(i), draws[i].tolist()) for i in epoch_order(seed, epoch, size)]
        stream += seen[: size // batch * batch] if remainder == "drop" else seen
        epoch += 1
    stream = stream[: updates * batch]
    index = np.array([i for i, _ in stream]).reshape(updates, batch)
    drawn = np.array([d for _, d in stream], np.float64).reshape(
        updates, batch, NUM_DRAWS[kind]
    )
    return index, drawn


@given(
    seed=seeds,
    size=sizes,
    share=st.floats(0, 1),
    first=st.integers(0, 15),
    count=st.integers(1, 15),
    remainder=st.sampled_from(REMAINDERS),
    kind=st.sampled_from(sorted(NUM_DRAWS)),
)
@settings(max_examples=150, deadline=None)
def test_twin_of_every_block(
    seed: int, size: int, share: float, first: int, count: int, remainder: str, kind: str
) -> None:
    batch = 1 + int(share * (size - 1))
    index, drawn = twin(seed, first + count, batch, size, remainder, kind)
    ours = block(seed, first, first + count, batch, size, remainder, kind)
    assert ours.indices.dtype == np.int32
    assert np.array_equal(ours.indices, index[first:])
    assert np.array_equal(ours.draws, drawn[first:])


@given(seeds, sizes, st.floats(0, 1), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_law_carry_sees_all_examples_equally_often(
    seed: int, size: int, share: float, updates: int
) -> None:
    batch = 1 + int(share * (size - 1))
    seen = np.bincount(
        block(seed, 0, updates, batch, size, "carry").indices.ravel(), minlength=size
    )
    assert seen.max() - seen.min() <= 1


@given(seeds, sizes, st.floats(0, 1), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_law_drop_sees_no_example_twice_in_an_epoch(
    seed: int, size: int, share: float, epoch: int
) -> None:
    batch = 1 + int(share * (size - 1))
    updates = updates_per_epoch(size, batch)
    seen = block(
        seed, epoch * updates, (epoch + 1) * updates, batch, size, "drop"
    ).indices.ravel()
    assert len(set(seen.tolist())) == len(seen) == updates * batch
    assert np.array_equal(seen, epoch_order(seed, epoch, size)[: len(seen)])


@given(seeds, sizes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 10))
@settings(max_examples=60, deadline=None)
def test_law_carry_does_not_depend_on_the_batch_size(
    seed: int, size: int, small: int, factor: int, updates: int
) -> None:
    size += small * factor
    large = block(seed, 0, updates, small * factor, size, "carry", "as-coded")
    fine = block(seed, 0, updates * factor, small, size, "carry", "as-coded")
    assert np.array_equal(large.indices.ravel(), fine.indices.ravel())
    assert np.array_equal(large.draws.reshape(-1, 2), fine.draws.reshape(-1, 2))


@given(seeds, sizes, st.lists(st.integers(0, 50), min_size=2, max_size=5))
@settings(max_examples=60, deadline=None)
def test_law_the_stream_can_be_cut_anywhere(seed: int, size: int, cuts: list[int]) -> None:
    cuts = sorted(cuts)
    parts = [
        index_stream(seed, a, b, num_examples=size, image_shape=SHAPE, kind="as-written")
        for a, b in itertools.pairwise(cuts)
    ]
    index, draws = index_stream(
        seed, cuts[0], cuts[-1], num_examples=size, image_shape=SHAPE, kind="as-written"
    )
    assert np.array_equal(np.concatenate([p[0] for p in parts]), index)
    assert np.array_equal(np.concatenate([p[1] for p in parts]), draws)


def test_the_order_differs_between_epochs_and_seeds_and_is_a_permutation() -> None:
    orders = [epoch_order(seed, epoch, 1000) for seed in range(3) for epoch in range(3)]
    assert len({o.tobytes() for o in orders}) == 9
    assert all(np.array_equal(np.sort(o), np.arange(1000)) for o in orders)


def test_golden_order() -> None:
    """A change here changes every trial: raise spec.SEMANTICS with it."""
    assert epoch_order(0, 0, 8).tolist() == [7, 1, 6, 0, 3, 5, 4, 2]
    assert epoch_order(7, 3, 8).tolist() == [5, 4, 6, 7, 2, 1, 3, 0]


@pytest.mark.parametrize("remainder", REMAINDERS)
def test_a_batch_larger_than_the_data_is_infeasible(remainder: str) -> None:
    with pytest.raises(Infeasible, match=r"a batch of 2,000 .* larger than the 1,024 training"):
        block(0, 0, 1, 2000, 1024, remainder)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown remainder 'dropp'\. Did you mean 'drop'"):
        block(0, 0, 1, 2, 4, "dropp")
    with pytest.raises(UsageError, match="unknown augmentation 'crop'"):
        block(0, 0, 1, 2, 4, "carry", "crop")


@pytest.mark.parametrize("remainder", REMAINDERS)
def test_an_empty_range_is_an_empty_block(remainder: str) -> None:
    empty = block(0, 3, 3, 5, 20, remainder, "as-coded")
    assert empty.indices.shape == (0, 5)
    assert empty.draws.shape == (0, 5, 2)


def test_blocks_are_the_callers_own() -> None:
    """Writing into one must not reach the next, though epochs are kept."""
    first = block(0, 0, 4, 5, 20, "carry", "as-coded")
    before = first.indices.copy(), first.draws.copy()
    first.indices[:], first.draws[:] = 0, 0
    again = block(0, 0, 4, 5, 20, "carry", "as-coded")
    assert np.array_equal(again.indices, before[0])
    assert np.array_equal(again.draws, before[1])
    for array in index_stream(0, 0, 20, num_examples=20, image_shape=SHAPE, kind="as-coded"):
        assert array.flags.writeable


def test_resident_holds_the_data_set() -> None:
    dataset = load("digits")
    resident = Resident.of(dataset)
    assert resident.train_images.dtype == torch.uint8
    assert resident.train_labels.dtype == torch.int64
    assert np.array_equal(resident.train_images.numpy(), dataset.train_images)
    assert np.array_equal(resident.test_labels.numpy(), dataset.test_labels)
    assert resident.scale == 1 / 16
    resident.train_images[0] = 99
    assert dataset.train_images[0].max() <= 16


def test_a_block_becomes_tensors() -> None:
    made = block(0, 0, 4, 5, 20, "drop", "as-coded")
    indices, draws = made.to("cpu")
    assert indices.dtype == torch.int32
    assert np.array_equal(indices.numpy(), made.indices)
    assert np.array_equal(draws.numpy(), made.draws)
