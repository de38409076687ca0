""".npz: well-formed ones, and files made to do harm."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcliff.data import containers, images
from batchcliff.errors import DataError


def read(path: Path) -> Any:
    return containers.find(path).read()


def npz(path: Path, **changes: Any) -> Path:
    arrays = {
        "x_train": np.zeros((4, 5, 5, 3), np.uint8),
        "y_train": np.array([0, 1, 2, 0]),
        "x_test": np.zeros((3, 5, 5, 3), np.uint8),
        "y_test": np.array([0, 1, 2]),
    }
    kept = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
    np.savez_compressed(path, **kept)
    return path


def test_npz_of_grey_images_and_column_labels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    path = npz(
        tmp_path / "x.npz",
        x_train=np.asfortranarray(pixels),
        x_test=pixels[:3],
        y_train=np.array([[0], [1], [2], [0]], np.uint8),
        y_test=np.array([0, 1, 2], ">i4"),
    )
    decoded = read(path)
    assert np.array_equal(decoded.train_images, pixels[..., None])
    assert decoded.train_labels.tolist() == [0, 1, 2, 0]
    assert decoded.test_labels.dtype == np.int64
    assert decoded.test_labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "no y_test; it has x_test, x_train, y_train"),
        ({"x_train": np.zeros((4, 5, 5, 3))}, "x_train holds float64; expected integers"),
        ({"x_train": np.zeros((4, 5, 5, 3), np.int64)}, "x_train is int64"),
        (
            {"x_train": np.zeros((4, 3, 5, 5), np.uint8)},
            r"x_train is uint8 \[4, 3, 5, 5\].*last",
        ),
        ({"x_test": np.zeros(3, np.uint8)}, r"x_test is uint8 \[3\]"),
        ({"y_train": np.zeros((4, 3), np.int64)}, r"y_train is \[4, 3\]; expected one class"),
        (
            {"y_train": np.array([0, 1, 2, 2**63], np.uint64)},
            "y_train is .* expected one class",
        ),
        ({"y_train": np.array([0, 1, 2, 10**9])}, "a label of 1,000,000,000"),
    ],
)
def test_bad_npz_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(npz(tmp_path / "x.npz", **changes))


def npy(header: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def crafted(path: Path, member: bytes) -> Path:
    npz(path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", member)
    return path


@pytest.mark.parametrize("descr", ["'|O'", "[('a', '|O')]"])
def test_pickled_objects_in_npz_are_not_run(tmp_path: Path, descr: str) -> None:
    canary = tmp_path / "canary"
    gadget = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,)}}"
    with pytest.raises(DataError, match="x_train holds Python objects; expected integers"):
        read(crafted(tmp_path / "x.npz", npy(header, gadget)))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            npy(
                "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 900, 900, 3)}",
                b"x",
            ),
            "its header says .* more than the file holds",
        ),
        (
            npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 3)}", b"x"),
            "no readable",
        ),
        (npy("__import__('os').system('false')", b"x"), "no readable .npz"),
        (npy("{", b"x"), "no readable .npz"),
        (b"\x93NUMPY\x09\x00" + bytes(200), r"x_train: .npy version|no readable .npz"),
        (b"cos\nsystem\n", "no readable .npz"),
        (b"", "no readable .npz"),
    ],
)
def test_crafted_headers_are_refused(tmp_path: Path, member: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(crafted(tmp_path / "x.npz", member))


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "x.npz", x_train=np.zeros((4, 1000, 1000, 3), np.uint8))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", 1_000_000)
    with pytest.raises(DataError, match=r"x_train unpacks to 12,000,128 bytes: refused"):
        read(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: b"",
        lambda d: b"<html>",
        lambda d: d[:-30],
        lambda d: d[:90] + b"\xff" * 20 + d[110:],
    ],
)
def test_damaged_npz_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = npz(
        tmp_path / "x.npz",
        x_train=np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8),
    )
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=r"no readable \.npz|x_train"):
        read(path)
