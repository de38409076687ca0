"""Cutout, random erasing and mixup: twins one image at a time, and the law of the draws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchcliff.data import erasing, mixup
from batchcliff.data.augment import NUM_DRAWS, Extras, draw, gather, num_draws
from batchcliff.data.resident import epoch_block
from batchcliff.spec import Settings

KINDS = sorted(NUM_DRAWS)
SHAPES = [(32, 32, 3), (8, 8, 1), (16, 24, 3), (5, 7, 2)]
ALL = Extras(cutout=5, random_erasing=0.7, mixup=0.4)
EACH = {"cutout": Extras(cutout=5), "erasing": Extras(random_erasing=0.7),
        "mixup": Extras(mixup=0.4), "all": ALL}  # fmt: skip


def some_images(shape: tuple[int, int, int], count: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(1, 256, (count, *shape), np.uint8)  # never 0


def augmented(
    kind: str, shape: tuple[int, int, int], extras: Extras
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Every image once, 0..1 in [N, H, W, C], and the rows of its draws."""
    images = some_images(shape)
    rows = draw(kind, 3, 2, len(images), shape, extras)
    every = torch.arange(len(images))
    found = gather(kind, torch.from_numpy(images), every, torch.from_numpy(rows),
                   scale=1 / 255, extras=extras)  # fmt: skip
    return found.permute(0, 2, 3, 1).numpy(), rows.astype(np.float64)


def mix32(x: int) -> int:
    """lowbias32 as published, on Python's whole numbers."""
    mask = 0xFFFFFFFF
    x = (x & mask) ^ ((x & mask) >> 16)
    x = x * 0x7FEB352D & mask
    x ^= x >> 15
    x = x * 0x846CA68B & mask
    return x ^ (x >> 16)


def erased_twin(
    image: NDArray[np.float32], row: NDArray[np.float64], side: int
) -> NDArray[np.float32]:
    """A square of zeros around (row[0], row[1]), then the rectangle of noise."""
    image = image.copy()
    _, width, channels = image.shape
    top, left = int(row[0]) - side // 2, int(row[1]) - side // 2
    image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    top, left, high, wide, noise_high, noise_low = (int(x) for x in row[2:8])
    start = mix32(noise_high * 2**15 + noise_low)
    for y in range(top, top + high):
        for x in range(left, left + wide):
            for c in range(channels):
                image[y, x, c] = (mix32(start + (y * width + x) * channels + c) & 255) / 255
    return image


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_twin(kind: str, shape: tuple[int, int, int]) -> None:
    plain, _ = augmented(kind, shape, Extras())
    ours, rows = augmented(kind, shape, ALL)
    own = rows[:, NUM_DRAWS[kind] :]
    expected = np.stack([erased_twin(i, r, 5) for i, r in zip(plain, own, strict=True)])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    assert (ours != plain).any()
    # The negative control: a square that begins one pixel lower is another.
    moved = own + np.eye(1, own.shape[1])
    wrong = np.stack([erased_twin(i, r, 5) for i, r in zip(plain, moved, strict=True)])
    assert np.abs(ours - wrong).max() > 0.1


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_draws_are_what_they_are_without(kind: str, name: str) -> None:
    extras = EACH[name]
    plain, all_ = draw(kind, 1, 2, 30, (8, 8, 1)), draw(kind, 1, 2, 30, (8, 8, 1), ALL)
    some = draw(kind, 1, 2, 30, (8, 8, 1), extras)
    assert some.shape == (30, num_draws(kind, extras)) == (30, NUM_DRAWS[kind] + extras.columns)
    assert some.dtype == plain.dtype
    assert np.array_equal(some[:, : plain.shape[1]], plain)
    of = {"cutout": slice(0, 2), "erasing": slice(2, 8), "mixup": slice(8, 9)}
    if name in of:  # nor does one extra change another's
        assert np.array_equal(some[:, plain.shape[1] :], all_[:, plain.shape[1] :][:, of[name]])


def test_an_image_keeps_what_is_not_cut_out_of_it() -> None:
    image = torch.full((3, 4, 4, 1), 9.0)
    draws = torch.tensor([[0, 0], [2, 3], [1, 1]])
    assert erasing.cutout(image, draws, 2)[:, :, :, 0].tolist() == [
        [[0, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]],  # the rest lies outside
        [[9, 9, 9, 9], [9, 9, 0, 0], [9, 9, 0, 0], [9, 9, 9, 9]],
        [[0, 0, 9, 9], [0, 0, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]],
    ]
    assert not erasing.cutout(image, draws[2:].expand(3, 2), 4)[:, :3, :3].any()


@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 300),
    count=st.integers(0, 60),
    shape=st.sampled_from(SHAPES),
)
@settings(max_examples=40, deadline=None)
def test_law_a_row_depends_on_its_example_alone(
    seed: int, epoch: int, count: int, shape: tuple[int, int, int]
) -> None:
    few, many = (draw("as-coded", seed, epoch, n, shape, ALL) for n in (count, 60))
    assert np.array_equal(few, many[:count])


@pytest.mark.parametrize("shape", [*SHAPES, (4, 4, 1)])
def test_law_rectangles_lie_inside_and_have_the_sizes_of_the_paper(
    shape: tuple[int, int, int],
) -> None:
    high, wide, _ = shape
    rows = erasing.random_erasing_draws(1.0, 5, 0, 4000, shape).astype(np.int64)
    top, left, heights, widths = rows[:, :4].T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + heights <= high).all() and (left + widths <= wide).all()
    assert (heights >= 1).all() and (heights < high).all()
    assert (widths >= 1).all() and (widths < wide).all()
    # Sides are rounded to whole pixels, and to one at least.
    most = np.array([h * w for h, w in zip(heights - 0.5, widths - 0.5, strict=True)])
    least = (heights + 0.5) * (widths + 0.5)
    assert (most <= 0.4 * high * wide).all() and (least >= 0.02 * high * wide).all()
    assert ((heights - 0.5) / (widths + 0.5) <= 1 / 0.3).all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3).all()


def test_law_of_erasing() -> None:
    count, shape = 40_000, (32, 32, 3)
    half = erasing.random_erasing_draws(0.5, 1, 7, count, shape).astype(np.int64)
    every = erasing.random_erasing_draws(1.0, 1, 7, count, shape).astype(np.int64)
    erased = half[:, 2] > 0
    assert abs(erased.mean() - 0.5) < 4 * 0.5 / count**0.5
    assert np.array_equal(half[erased], every[erased])
    assert not half[~erased, 2:4].any()
    area = every[:, 2] * every[:, 3] / 1024
    assert 0.18 < area.mean() < 0.21  # 0.21 of the uniform, less what does not fit
    free = 32 - every[:, 2] + 1
    place = (every[:, 0] + 0.5) / free  # of the top row: uniform over where it fits
    assert abs(place.mean() - 0.5) < 4 * 12**-0.5 / count**0.5
    assert np.abs(np.corrcoef(every[:, [0, 1, 4, 5]].T) - np.eye(4)).max() < 0.03


def test_noise_is_uniform_and_of_its_own_in_every_image() -> None:
    rows = erasing.random_erasing_draws(1.0, 0, 0, 300, (32, 32, 3))
    images = torch.full((300, 32, 32, 3), -1.0)
    noise = erasing.random_erasing(images, torch.from_numpy(rows), 255).numpy()
    inside = noise[noise >= 0].astype(int)
    seen = np.bincount(inside, minlength=256)
    assert len(seen) == 256
    expected = len(inside) / 256
    assert (((seen - expected) ** 2) / expected).sum() < 255 + 5 * (2 * 255) ** 0.5
    same = torch.from_numpy(rows[:1]).repeat(2, 1)
    same[:, :4] = torch.tensor([0, 0, 31, 31])
    same[1, 5] += 1  # the next number of noise
    one, two = erasing.random_erasing(images[:2], same, 255).numpy()[:, :31, :31].reshape(2, -1)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.1


def test_noise_is_as_bright_as_the_images() -> None:
    """The digits' white is 16: noise up to 255 would drown them."""
    images = torch.zeros(50, 8, 8, 1, dtype=torch.uint8)
    rows = torch.from_numpy(draw("none", 0, 0, 50, (8, 8, 1), EACH["erasing"]))
    for scale in (1 / 16, 1 / 255):
        found = gather("none", images, torch.arange(50), rows, scale=scale,
                       extras=EACH["erasing"])  # fmt: skip
        assert 0.98 < float(found.max()) <= 1
        assert abs(float(found[found > 0].mean()) - 0.5) < 0.05


def test_the_hash_is_the_published_one() -> None:
    values = [0, 1, 2, 255, 2**15, 2**30 - 1, 2**31, 2**32 - 1, 2**32 + 5]
    ours = erasing._mixed(torch.tensor(values)).tolist()
    assert ours == [mix32(v) for v in values]
    assert len(set(ours)) == len(values)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_law_of_the_shares(alpha: float) -> None:
    drawn = mixup.share_draws(alpha, 3, 1, 20_000)
    assert drawn.dtype == np.int16 and drawn.shape == (20_000, 1)
    share = mixup.shares(torch.from_numpy(drawn))[:, 0].numpy().astype(np.float64)
    # Shares are rounded to 1 / 16,384: compare at the middles between them.
    places = (np.arange(0, 16_384, 64) + 0.5) / 16_384
    below = np.searchsorted(np.sort(share), places) / len(share)
    assert np.abs(below - scipy.stats.beta.cdf(places, alpha, alpha)).max() < 1.95 / 20_000**0.5
    assert np.abs(below - scipy.stats.beta.cdf(places, alpha / 2, alpha / 2)).max() > 0.03


def test_the_extremes_of_a_share_are_reached() -> None:
    drawn = mixup.shares(torch.from_numpy(mixup.share_draws(0.05, 0, 0, 5000)))
    assert float(drawn.min()) == 0 and float(drawn.max()) == 1


def test_twin_of_mixed_images() -> None:
    """Two networks side by side, of two colours each; the last is mixed with the first."""
    rng = np.random.default_rng(0)
    images, share = rng.random((5, 4, 3, 3), np.float32), rng.random((5, 2), np.float32)
    ours = mixup.mixed(torch.from_numpy(images), torch.from_numpy(share)).numpy()
    for i in range(5):
        for channel in range(4):
            s = share[i, channel // 2]
            both = s * images[i, channel] + (1 - s) * images[(i + 1) % 5, channel]
            np.testing.assert_allclose(ours[i, channel], both, rtol=1e-6)
    assert mixup.partners(torch.tensor([1, 2, 3])).tolist() == [2, 3, 1]
    alone = mixup.mixed(torch.from_numpy(images), torch.ones(5, 2)).numpy()
    np.testing.assert_array_equal(alone, images)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_does_not_depend_on_the_batch_size(kind: str) -> None:
    """Shares and partners neither, but for the pair that a batch's end cuts."""

    def stream(batch: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        block = epoch_block(3, 0, 60 // batch, batch_size=batch, num_examples=30,
                            image_shape=(8, 8, 1), kind=kind, remainder="carry",
                            extras=ALL)  # fmt: skip
        return block.indices.ravel(), block.draws.reshape(60, -1).astype(np.float64)

    index, draws = stream(5)
    assert draws.shape[1] == NUM_DRAWS[kind] + 9
    for batch in (1, 10, 30):
        other_index, other_draws = stream(batch)
        assert np.array_equal(index, other_index) and np.array_equal(draws, other_draws)
    partner = {
        b: mixup.partners(torch.from_numpy(index).view(-1, b).t()).t().ravel() for b in (5, 10)
    }
    same = partner[5] == partner[10]
    assert same.view(-1, 5)[:, :4].all() and not same.all()


def test_another_epoch_and_seed_have_other_draws() -> None:
    one = draw("none", 0, 0, 500, (32, 32, 3), ALL)
    for seed, epoch in ((1, 0), (0, 1)):
        other = draw("none", seed, epoch, 500, (32, 32, 3), ALL)
        for column in (0, 1, 4, 5, 6, 7, 8):
            assert np.mean(one[:, column] == other[:, column]) < 0.6


def test_golden_draws() -> None:
    """A change here changes every trial with these extras: raise spec.SEMANTICS with it."""
    rows = draw("none", 1, 2, 2, (32, 32, 3), ALL)
    assert rows.tolist() == [
        [1, 23, 6, 10, 15, 6, 20377, 28883, 13906],
        [22, 21, 19, 22, 10, 9, 2462, 30785, 2527],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_as_one_graph(kind: str) -> None:
    """fullgraph: a wait for the device or a branch on data would be an error here."""
    images = torch.from_numpy(some_images((32, 32, 3)))
    rows = torch.from_numpy(draw(kind, 0, 0, len(images), (32, 32, 3), ALL))[:8]
    index = torch.arange(8, dtype=torch.int32)
    compiled = torch.compile(gather, fullgraph=True, backend="aot_eager", dynamic=False)
    one = compiled(kind, images, index, rows, extras=ALL)
    assert torch.equal(one, gather(kind, images, index, rows, extras=ALL))


def test_extras_of_settings() -> None:
    assert Extras.of(Settings()) == Extras() and Extras().columns == 0
    found = Extras.of(Settings(cutout=5, random_erasing=0.7, mixup=0.4))
    assert found == ALL and ALL.columns == 9
