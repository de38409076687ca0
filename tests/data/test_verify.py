"""Digests, canonical order and checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoded_arrays import decoded, same
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcliff.data.verify import (
    Decoded,
    canonical,
    check,
    content_digest,
    files_digest,
    sha256_file,
    shown,
)
from batchcliff.errors import DataError


def digest_of(d: Decoded) -> str:
    return content_digest(d.arrays(), d.class_names)


# Digests


def test_twin_of_the_content_digest() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    labels = np.array([1, 256], np.int64)
    text = b'{"class_names":["x","\xc3\xa9"]}'
    text += b'{"dtype":"|u1","shape":[1,2,3,1]}' + bytes(range(6))
    text += b'{"dtype":"<i8","shape":[2]}'
    text += (1).to_bytes(8, "little") + (256).to_bytes(8, "little")
    expected = hashlib.sha256(text).hexdigest()
    assert content_digest([images, labels], ["x", "é"]) == expected
    # Neither the byte order nor the memory layout is content.
    assert content_digest([images, labels.astype(">i8")], ["x", "é"]) == expected
    assert content_digest([np.asfortranarray(images), labels], ["x", "é"]) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.train_images.__setitem__((0, 0, 0, 0), d.train_images[0, 0, 0, 0] ^ 1),
        lambda d: d.test_labels.__setitem__(0, 2),
        lambda d: dataclasses.replace(d, class_names=("a", "b", "d")),
        lambda d: dataclasses.replace(d, class_names=("ab", "", "c")),
        lambda d: dataclasses.replace(d, train_images=d.train_images.reshape(12, 5, 4, 3)),
        lambda d: dataclasses.replace(d, train_labels=d.train_labels.astype(np.int32)),
        lambda d: dataclasses.replace(
            d, train_images=d.test_images, test_images=d.train_images
        ),
    ],
)
def test_any_change_changes_the_digest(change: Callable[[Decoded], Decoded | None]) -> None:
    made = decoded()
    assert digest_of(change(made) or made) != digest_of(decoded())


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = b"0123456789abcdef" * 200_000
    path.write_bytes(data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()


def test_files_digest_names_what_changed(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(b"1")
    first = files_digest(files, tmp_path)
    assert files_digest(files, tmp_path) == first
    files[1].write_bytes(b"2")
    assert files_digest(files, tmp_path) != first
    files[1].write_bytes(b"1")
    assert files_digest([files[0], files[1].rename(tmp_path / "c")], tmp_path) != first


# The canonical order


@given(st.permutations(range(12)), st.permutations(range(6)))
@settings(max_examples=50, deadline=None)
def test_law_canonical_order_forgets_the_order(train: list[int], test: list[int]) -> None:
    made = decoded()
    made.train_images[3] = made.train_images[7]  # equal images, other labels
    made.train_images[4] = made.train_images[10]  # equal images, equal labels
    shuffled = dataclasses.replace(
        made,
        train_images=made.train_images[train],
        train_labels=made.train_labels[train],
        test_images=made.test_images[test],
        test_labels=made.test_labels[test],
    )
    assert same(canonical(made), canonical(shuffled))


@pytest.mark.parametrize("shape", [(7, 3, 1), (8, 8, 1), (1, 1, 1)])
def test_canonical_order_keeps_every_pair(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (50, *shape), np.uint8)
    made = decoded(train_images=images, train_labels=np.arange(50) % 3)
    ordered = canonical(made)

    def pairs(d: Decoded) -> list[tuple[bytes, int]]:
        return sorted(
            (image.tobytes(), int(label))
            for image, label in zip(d.train_images, d.train_labels, strict=True)
        )

    assert pairs(ordered) == pairs(made)
    assert same(canonical(ordered), ordered)


def test_canonical_order_mixes_classes() -> None:
    """Sorted by class on disk, but no stretch of the result is of one class."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (3000, 4, 4, 1), np.uint8)
    labels = np.repeat(np.arange(3), 1000)
    ordered = canonical(decoded(train_images=images, train_labels=labels))
    for start in range(0, 3000, 300):
        counts = np.bincount(ordered.train_labels[start : start + 300], minlength=3)
        assert counts.min() > 60


# Checks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": np.zeros((12, 4, 5), np.uint8)},
            r"train images are uint8 \[12, 4, 5\]",
        ),
        ({"test_images": np.zeros((6, 4, 5, 3))}, r"test images are float64 \[6, 4, 5, 3\]"),
        ({"train_images": np.zeros((0, 4, 5, 3), np.uint8)}, "at least one image"),
        (
            {"train_labels": np.zeros(11, np.int64)},
            r"train labels are int64 \[11\]; .* 12 images",
        ),
        ({"train_labels": np.zeros(12, np.int32)}, r"train labels are int32"),
        (
            {"test_images": np.zeros((6, 5, 5, 3), np.uint8)},
            r"\[4, 5, 3\], test .* \[5, 5, 3\]",
        ),
        (
            {"test_labels": np.array([0, 1, 2, 3, -1, 0])},
            r"test labels -1, 3 lie outside of 0\.\.2",
        ),
        (
            {"test_labels": np.array([0, 1, 0, 1, 0, 0])},
            r"no test image of class c\..* a, b, c",
        ),
        ({"train_labels": np.array([1] * 12)}, "no training image of class a, c"),
        (
            {"class_names": ("a", "b", "c", "d")},
            "no training image of class d; no test image of class d",
        ),
    ],
)
def test_check_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^here: .*" + message):
        check(decoded(**changes), "here")


def test_check_refuses_a_single_class() -> None:
    made = decoded(
        train_labels=np.zeros(12, np.int64),
        test_labels=np.zeros(6, np.int64),
        class_names=("a",),
    )
    with pytest.raises(DataError, match=r"a single class \(a\)"):
        check(made, "here")
    check(decoded(), "here")


def test_paths_are_shown_as_printable_text() -> None:
    text = shown(Path("stüdy 数据\n' \"\udcff"))
    assert text.isprintable()
    json.dumps(text).encode()
