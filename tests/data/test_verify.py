"""Digests, canonical order, checks and the cache of decoded arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcliff.data import verify
from batchcliff.data.verify import (
    Decoded,
    canonical,
    check,
    content_digest,
    files_digest,
    forget,
    read_files,
    sha256_file,
    shown,
    through_cache,
)
from batchcliff.errors import DataError


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


def digest_of(d: Decoded) -> str:
    return content_digest(d.arrays(), d.class_names)


def same(a: Decoded, b: Decoded) -> bool:
    arrays = all(np.array_equal(x, y) for x, y in zip(a.arrays(), b.arrays(), strict=True))
    return arrays and (a.class_names, a.encodings) == (b.class_names, b.encodings)


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


# The cache


class Reader:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Decoded:
        self.calls += 1
        return decoded(encodings=("JPEG", "PNG"))


def test_cache_reads_once(tmp_path: Path) -> None:
    read = Reader()
    for _ in range(3):
        assert same(through_cache(tmp_path / "a" / "b", "key", read), read())
        read.calls -= 1
    assert read.calls == 1
    through_cache(tmp_path / "a" / "b", "other key", read)
    assert read.calls == 2
    assert sorted(p.suffix for p in (tmp_path / "a" / "b").iterdir()) == [".npz", ".npz"]


@given(at=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_law_a_damaged_cache_is_decoded_again(
    tmp_path_factory: pytest.TempPathFactory, at: float, bit: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    read = Reader()
    expected = through_cache(folder, "key", read)
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    place = int(at * (len(data) - 1))
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    file.write_bytes(data)
    assert same(through_cache(folder, "key", read), expected)
    assert same(through_cache(folder, "key", read), expected)
    assert read.calls <= 2  # a flipped bit in a field that nobody reads is no damage


def test_a_cache_of_other_arrays_is_not_believed(tmp_path: Path) -> None:
    """A sound file whose content is not what its digest says."""
    read = Reader()
    through_cache(tmp_path, "key", read)
    (file,) = tmp_path.iterdir()
    with np.load(file) as kept:
        arrays = dict(kept)
    arrays["train_labels"] = arrays["train_labels"][::-1].copy()
    np.savez(file, **arrays)
    assert same(through_cache(tmp_path, "key", read), read())
    assert read.calls == 3


def test_a_pickle_in_the_cache_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = tmp_path / "decoded-key.npz"
    file.write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    assert same(through_cache(tmp_path, "key", Reader()), Reader()())
    assert not canary.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    read = Reader()
    for _ in range(2):
        assert same(
            through_cache(tmp_path / "file" / "cache", "key", read),
            decoded(encodings=("JPEG", "PNG")),
        )
    assert read.calls == 2


# What is known of files that look unchanged


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Two files, and whether what they hold, which is right, was had without reading them."""
    files, reads = [tmp_path / "a", tmp_path / "b"], []
    for file in files:
        file.write_bytes(b"1234")

    def reading(path: Path) -> str:
        reads.append(path)
        return sha256_file(path)

    def read() -> Decoded:
        return decoded(seed=int.from_bytes(b"".join(file.read_bytes() for file in files)))

    def ask() -> bool:
        reads.clear()
        assert same(read_files(files, tmp_path, tmp_path / "c", read), read())
        return not reads

    monkeypatch.setattr(verify, "sha256_file", reading)
    monkeypatch.setattr(verify, "_TICK", 0)
    assert not ask()
    return ask


def test_files_that_look_unchanged_are_not_read_again(
    tmp_path: Path, noted: Callable[[], bool]
) -> None:
    assert noted() and noted()
    forget(tmp_path / "c")
    assert not noted(), "unless that is wanted"
    assert noted()


CHANGES = ["size", "time", "bits", "replaced", "note", "longer note", "no cache"]


@pytest.mark.parametrize("what", CHANGES)
def test_any_trace_of_a_change_has_them_read(
    tmp_path: Path, noted: Callable[[], bool], what: str
) -> None:
    file, (note,) = tmp_path / "b", (tmp_path / "c").glob("files-*")
    when = file.stat().st_mtime_ns
    match what:
        case "size":
            file.write_bytes(b"12345")
        case "time":
            os.utime(file, ns=(when, when + 1))
        case "bits":  # under the old size and time
            file.write_bytes(b"1235")
            os.utime(file, ns=(when, when))
        case "replaced":
            (tmp_path / "d").write_bytes(b"1235")
            os.utime(tmp_path / "d", ns=(when, when))
            (tmp_path / "d").replace(file)
        case "note":
            note.write_text(note.read_text()[:-1] + "g")
        case "longer note":
            note.write_text(note.read_text() + "0")
        case "no cache":
            next((tmp_path / "c").glob("decoded-*")).unlink()
    assert not noted()
    assert noted()


def test_files_of_this_very_moment_are_read_again(
    tmp_path: Path, noted: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may change once more within a tick of the clock, and look the same."""
    forget(tmp_path / "c")
    monkeypatch.setattr(verify, "_TICK", 10**12)
    assert not noted() and not noted()
    assert not list((tmp_path / "c").glob("files-*"))


def test_control_size_and_time_of_content_alone_would_miss_it(
    tmp_path: Path, noted: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(tmp_path / "c")
    monkeypatch.setattr(
        verify, "_state_of", lambda files: "".join(str(f.stat().st_mtime_ns) for f in files)
    )
    file = tmp_path / "b"
    assert not noted()
    when = file.stat().st_mtime_ns
    file.write_bytes(b"1235")
    os.utime(file, ns=(when, when))
    with pytest.raises(AssertionError):
        noted()


def test_a_change_that_nobody_noticed_does_not_spoil_the_cache(
    tmp_path: Path, noted: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is lost too: what is decoded anew is kept under what the files hold now."""
    file = tmp_path / "b"
    with monkeypatch.context() as patch:
        state = verify._state_of([tmp_path / "a", file])
        patch.setattr(verify, "_state_of", lambda files: state)
        next((tmp_path / "c").glob("decoded-*")).unlink()
        file.write_bytes(b"1235")
        assert not noted()
    file.write_bytes(b"1234")
    assert not noted()


def test_a_note_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    read = Reader()
    for _ in range(2):
        read_files([file], tmp_path, file, read)
    assert read.calls == 2


def test_paths_are_shown_as_printable_text() -> None:
    text = shown(Path("stüdy 数据\n' \"\udcff"))
    assert text.isprintable()
    json.dumps(text).encode()
