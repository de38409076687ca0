"""Augmentation against slow twins written from the definitions, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchcliff.data.augment import NUM_DRAWS, apply, draw, gather
from batchcliff.errors import UsageError

KINDS = sorted(NUM_DRAWS)
SHAPES = [(32, 32, 3), (8, 8, 1), (16, 24, 3), (5, 7, 2)]


def crop_and_flip(
    image: NDArray[np.uint8], down: int, right: int, flip: int
) -> NDArray[np.float64]:
    """Pad with zeros, cut out, mirror: the article's text."""
    height, width, _ = image.shape
    rows, columns = height // 8, width // 8
    padded = np.pad(image, ((rows, rows), (columns, columns), (0, 0)))
    cut = padded[down : down + height, right : right + width]
    return (cut[:, ::-1] if flip else cut) / 255


def keras_shift(image: NDArray[np.uint8], tx: float, ty: float) -> NDArray[np.float64]:
    """Keras_Preprocessing 1.0.9: apply_affine_transform(tx, ty, fill_mode="nearest", order=1).

    The shift matrix is moved to the centre and back, and its parts are handed to scipy.
    """
    height, width, channels = image.shape
    middle = height / 2 - 0.5, width / 2 - 0.5
    there = np.array([[1, 0, middle[0]], [0, 1, middle[1]], [0, 0, 1]])
    back = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
    matrix = there @ np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]]) @ back
    moved = [
        scipy.ndimage.affine_transform(
            image[:, :, c].astype(np.float64),
            matrix[:2, :2],
            matrix[:2, 2],
            order=1,
            mode="nearest",
        )
        for c in range(channels)
    ]
    return np.stack(moved, axis=-1) / 255


def twin(kind: str, image: NDArray[np.uint8], row: NDArray[np.float64]) -> NDArray[np.float64]:
    if kind == "as-written":
        return crop_and_flip(image, *(int(x) for x in row))
    if kind == "as-coded":
        return keras_shift(image, float(row[0]), float(row[1]))
    return image / 255


def some_images(shape: tuple[int, int, int], count: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_twin_gather_and_apply(kind: str, shape: tuple[int, int, int]) -> None:
    images = some_images(shape)
    draws = draw(kind, seed=3, epoch=2, num_examples=len(images), image_shape=shape)
    index = np.random.default_rng(2).permutation(len(images))[:25].astype(np.int32)
    expected = np.stack([twin(kind, images[i], draws[i]) for i in index]).transpose(0, 3, 1, 2)

    resident, rows = torch.from_numpy(images), torch.from_numpy(draws[index])
    looked_up = gather(kind, resident, torch.from_numpy(index), rows)
    applied = apply(kind, resident[torch.from_numpy(index)], rows)

    np.testing.assert_allclose(looked_up.numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(looked_up, applied)
    assert looked_up.dtype == torch.float32
    assert looked_up.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0, 4.0, -4.0, 0.25, -0.25, 1 / 3, -1e-9])
@pytest.mark.parametrize("axis", [0, 1])
def test_twin_of_keras_at_special_shifts(axis: int, shift: float) -> None:
    images = some_images((32, 32, 3), 2)
    row = np.zeros(2, np.float32)
    row[axis] = shift
    ours = apply("as-coded", torch.from_numpy(images), torch.from_numpy(np.stack([row, row])))
    expected = np.stack([keras_shift(i, *map(float, row)) for i in images])
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-6)


def test_a_positive_shift_moves_the_content_up_and_left() -> None:
    image = torch.zeros(1, 32, 32, 1, dtype=torch.uint8)
    image[0, 10, 20] = 255
    moved = apply("as-coded", image, torch.tensor([[2.0, 3.0]]))
    assert (moved[0, 0] == 1).nonzero().tolist() == [[8, 17]]
    # Crop offset 4 is the middle; 6 cuts two rows further down, so the content moves up.
    cropped = apply("as-written", image, torch.tensor([[6, 7, 0]]))
    assert (cropped[0, 0] == 1).nonzero().tolist() == [[8, 17]]
    flipped = apply("as-written", image, torch.tensor([[6, 7, 1]]))
    assert (flipped[0, 0] == 1).nonzero().tolist() == [[8, 31 - 17]]


@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_dtype_round_once_at_the_end(kind: str) -> None:
    images = torch.from_numpy(some_images((8, 8, 1)) % 17)
    draws = torch.from_numpy(draw(kind, 0, 0, len(images), (8, 8, 1)))
    exact = apply(kind, images, draws, torch.float32, scale=1 / 16)
    assert float(exact.max()) <= 1
    half = apply(kind, images, draws, torch.bfloat16, scale=1 / 16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.to(torch.bfloat16))
    # The loop keeps all draws as float32 and the index as int64: the same result.
    index = torch.arange(len(images))
    assert torch.equal(gather(kind, images, index, draws.float(), scale=1 / 16), exact)


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_as_one_graph(kind: str) -> None:
    """fullgraph: a wait for the device or a branch on data would be an error here."""
    images = torch.from_numpy(some_images((32, 32, 3)))
    draws = torch.from_numpy(draw(kind, 0, 0, len(images), (32, 32, 3)))[:8]
    index = torch.arange(8, dtype=torch.int32)
    compiled = torch.compile(gather, fullgraph=True, backend="aot_eager", dynamic=False)
    assert torch.equal(compiled(kind, images, index, draws), gather(kind, images, index, draws))


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 300),
    count=st.integers(0, 60),
    shape=st.sampled_from(SHAPES),
)
@settings(max_examples=60, deadline=None)
def test_law_draws_of_an_example_depend_on_nothing_else(
    kind: str, seed: int, epoch: int, count: int, shape: tuple[int, int, int]
) -> None:
    few, many = draw(kind, seed, epoch, count, shape), draw(kind, seed, epoch, 60, shape)
    assert few.shape == (count, NUM_DRAWS[kind])
    assert few.dtype == many.dtype
    assert np.array_equal(few, many[:count])


@given(st.integers(0, 2**40), st.integers(0, 300), st.sampled_from(SHAPES))
@settings(max_examples=60, deadline=None)
def test_law_draws_lie_in_range(seed: int, epoch: int, shape: tuple[int, int, int]) -> None:
    written = draw("as-written", seed, epoch, 200, shape)
    assert written.min() >= 0
    assert (written.max(0) <= [2 * (shape[0] // 8), 2 * (shape[1] // 8), 1]).all()
    coded = draw("as-coded", seed, epoch, 200, shape)
    assert (np.abs(coded) <= np.array(shape[:2]) / 8).all()


def test_draws_are_uniform_and_independent() -> None:
    written = draw("as-written", 0, 0, 45_000, (32, 32, 3))
    for column, choices in ((0, 9), (1, 9), (2, 2)):
        seen = np.bincount(written[:, column], minlength=choices)
        expected = 45_000 / choices
        # Chi-square with `choices` - 1 degrees of freedom; 30 is far beyond its 99.9%.
        assert (((seen - expected) ** 2) / expected).sum() < 30
    coded = draw("as-coded", 0, 0, 45_000, (32, 32, 3))
    assert np.abs(coded.mean(0)).max() < 0.05
    assert np.abs(coded.std(0) - 8 / np.sqrt(12)).max() < 0.05
    assert np.abs(np.corrcoef(np.hstack([written, coded]).T) - np.eye(5)).max() < 0.02
    other_seed, other_epoch = (
        draw("as-coded", s, e, 45_000, (32, 32, 3)) for s, e in [(1, 0), (0, 1)]
    )
    for other in (other_seed, other_epoch):
        assert abs(np.corrcoef(coded[:, 0], other[:, 0])[0, 1]) < 0.02


def test_golden_draws() -> None:
    """A change here changes every augmented trial: raise spec.SEMANTICS with it."""
    written = draw("as-written", 1, 2, 3, (32, 32, 3))
    coded = draw("as-coded", 1, 2, 2, (32, 32, 3))
    assert written.tolist() == [[2, 0, 0], [1, 3, 0], [6, 1, 1]]
    expected = [
        [3.6969685554504395, -0.46874549984931946],
        [-2.132582902908325, 1.3710390329360962],
    ]
    np.testing.assert_array_equal(coded, np.array(expected, np.float32))


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"augmentation 'as-writen'\. Did you mean 'as-written'"
    ):
        draw("as-writen", 0, 0, 1, (8, 8, 1))
    with pytest.raises(UsageError, match="unknown augmentation 'flip'"):
        gather(
            "flip", torch.zeros(1, 8, 8, 1, dtype=torch.uint8), torch.zeros(1), torch.zeros(1)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_captured_on_the_device_gives_what_the_host_gives(kind: str) -> None:
    images = torch.from_numpy(some_images((32, 32, 3)))
    draws = torch.from_numpy(draw(kind, 0, 0, len(images), (32, 32, 3)))
    index = torch.arange(len(images)).flip(0)
    expected = gather(kind, images, index, draws[index])
    compiled = torch.compile(gather, fullgraph=True, dynamic=False)
    inputs = images.cuda(), index.cuda(), draws[index].cuda()
    for _ in range(3):
        compiled(kind, *inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = compiled(kind, *inputs)
    graph.replay()
    assert captured.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(captured.cpu().numpy(), expected.numpy(), rtol=0, atol=1e-6)
