"""Single images, Parquet and image folders: well-formed ones, and files made to do harm."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batchcliff.data import containers, decoding, images
from batchcliff.errors import DataError


def read(path: Path) -> Any:
    return containers.find(path).read()


# Single images


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises any size in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + kind
            + data
            + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def decode(*data: bytes) -> Any:
    encoded = [(f"image {i}", lambda d=d: d) for i, d in enumerate(data)]
    return decoding.decode_images(encoded, len(data))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_come_back_exactly(make: Any, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    rows = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind, **options)
        rows.append(buffer.getvalue())
    decoded, kinds = decode(*rows)
    assert np.array_equal(decoded, pixels)
    assert kinds == (kind,)


def test_grey_palette_and_black_and_white() -> None:
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    decoded, _ = decode(saved(grey, "PNG"))
    assert decoded.shape == (1, 3, 4, 1)
    assert np.array_equal(decoded[0, :, :, 0], np.asarray(grey))
    assert decode(saved(grey.convert("1"), "PNG"))[0].shape == (1, 3, 4, 1)
    assert decode(saved(grey.convert("RGB").convert("P"), "PNG"))[0].shape == (1, 3, 4, 3)


def test_large_images_are_decoded_by_threads(make: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 90, 80, 3), np.uint8)
    rows = [make.encode(image, "PNG") for image in pixels]
    assert len(rows[0]) > decoding._WORTH_THREADS
    assert np.array_equal(decode(*rows)[0], pixels)
    with pytest.raises(DataError, match="image 5 is no readable image"):
        decode(*rows[:5], b"x", *rows[6:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image 1 is no readable image"),
        (b"<html>", "image 1 is no readable image"),
        (png_header(4, 3)[:40], "image 1 is no readable image"),
        (png_header(5000, 5000), "image 1 is 5000x5000: more than 16,777,216 pixels"),
        (
            png_header(11_000, 9_000),
            r"exceeds limit|more than 16,777,216",
        ),
        (png_header(60_000, 60_000), r"image 1 is no readable image .* exceeds limit"),
        (saved(Image.new("RGBA", (4, 3)), "PNG"), "image 1 has mode RGBA; convert it to RGB"),
        (saved(Image.new("I;16", (4, 3)), "PNG"), "image 1 has mode I;16"),
        (saved(Image.new("RGB", (4, 3)), "GIF"), "image 1 is no readable image"),
        (saved(Image.new("RGB", (4, 3)), "TIFF"), "image 1 is no readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", "image 1 is no readable image"),
        (
            saved(Image.new("RGB", (3, 4)), "PNG"),
            r"image 1 is \[4, 3, 3\], the first .*\[3, 4, 3\]",
        ),
        (saved(Image.new("L", (4, 3)), "PNG"), r"image 1 is \[3, 4, 1\], the first"),
    ],
)
def test_bad_images_are_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(saved(Image.new("RGB", (4, 3)), "PNG"), data)


def test_limits_on_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    good = saved(Image.new("RGB", (4, 3)), "PNG")
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "MAX_DECODED_BYTES", 100)
        with pytest.raises(
            DataError, match=r"3 images of \[3, 4, 3\] need 108 bytes .* at most 100"
        ):
            decode(good, good, good)
    monkeypatch.setattr(decoding, "MAX_ENCODED_BYTES", 10)
    with pytest.raises(DataError, match="image 0 has more than 10 bytes"):
        decode(good)


# Parquet


def pair(folder: Path) -> tuple[Path, Path]:
    return folder / "train.parquet", folder / "test.parquet"


@pytest.fixture
def rows() -> list[bytes]:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (4, 5, 5, 3), np.uint8)
    return [saved(Image.fromarray(a), "PNG") for a in arrays]


def test_parquet_with_plain_binary_and_many_files(rows: list[bytes], tmp_path: Path) -> None:
    for name, start in (("train-0", 0), ("train-1", 2), ("validation", 0)):
        table = pa.table(
            {
                "image": pa.array(rows[start : start + 2], pa.binary()),
                "label": [0, 1],
                "x": [1, 2],
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    decoded = read(tmp_path)
    assert decoded.train_images.shape == (4, 5, 5, 3)
    assert decoded.train_labels.tolist() == [0, 1, 0, 1]
    assert decoded.test_labels.tolist() == [0, 1]
    assert decoded.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "picture"}, "no column img or image; it has picture, label"),
        ({"label": "fine"}, "no column label or labels; it has img, fine"),
        ({"labels": [0.0, 1.0, 0.0, 1.0]}, "column label is double; expected an integer"),
        ({"labels": [0, 1, None, 1]}, "between 0 and 3 has no image bytes or no label"),
        ({"rows": [None] * 4}, "between 0 and 3 has no image bytes or no label"),
        ({"rows": [b"x"] * 4}, r"train.parquet' row 0 is no readable image"),
        ({"labels": [0, 1, 0, 5_000_000]}, "a label of 5,000,000"),
    ],
)
def test_bad_parquet_is_refused(
    rows: list[bytes], make: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for path in pair(tmp_path):
        options: dict[str, Any] = {"rows": rows, "labels": [0, 1, 0, 1], **change}
        make.parquet(path, **options)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_parquet_of_other_types_is_refused(tmp_path: Path) -> None:
    for path in pair(tmp_path):
        pq.write_table(pa.table({"img": ["a.png", "b.png"], "label": [0, 1]}), path)
    with pytest.raises(DataError, match=r"column img is string; expected struct<bytes, path>"):
        read(tmp_path)


def test_damaged_parquet_is_refused(rows: list[bytes], make: Any, tmp_path: Path) -> None:
    for path in pair(tmp_path):
        make.parquet(path, rows, [0, 1, 0, 1])
    path = tmp_path / "train.parquet"
    good = path.read_bytes()
    for bad in (b"", b"PAR1", good[:-20], good[:100] + bytes(200) + good[300:]):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"train\.parquet"):
            read(tmp_path)


def test_a_parquet_bomb_is_refused(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in pair(tmp_path):
        make.parquet(path, [bytes(1 << 20)] * 20, [0] * 20)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", 1 << 18)
    with pytest.raises(DataError, match=r"unpacks to [\d,]+ bytes: refused"):
        read(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "[]",
        "{}",
        '{"info": 3}',
        '{"info":{"features":{"label":{"names":[1]}}}}',
        "[" * 5000,
    ],
)
def test_odd_metadata_gives_no_names(metadata: str) -> None:
    assert images._names_in({b"huggingface": metadata.encode()}) == ()


# Folders of images


def image_folder(root: Path, classes: dict[str, int]) -> Path:
    """`classes`: {"train/cat": 2, ...}, how many images each."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            colour = (len(name) % 256, i, 0)
            (root / name / f"{i}.png").write_bytes(
                saved(Image.new("RGB", (4, 3), colour), "PNG")
            )
    return root


def test_an_image_folder(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "x", {"train/b": 2, "train/a": 3, "test/a": 1, "test/b": 1})
    (root / "train" / ".DS_Store").touch()
    (root / "train" / "a" / ".hidden.txt").touch()
    decoded = read(root)
    assert decoded.class_names == ("a", "b")
    assert decoded.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert decoded.train_images[:, 0, 0, 1].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {"train/a": 1, "train/b": 1, "test/a": 1},
            r"training classes: a, b; test classes: a; empty: none\. Both",
        ),
        (
            {"train/a": 1, "test/a": 1, "test/z": 1},
            r"training classes: a; test classes: a, z; empty: none",
        ),
        (
            {"train/a": 1, "train/b": 0, "test/a": 1, "test/b": 1},
            r"training classes: a, b; test classes: a, b; empty: train/b\.",
        ),
    ],
)
def test_missing_empty_and_unseen_classes(
    tmp_path: Path, classes: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(image_folder(tmp_path / "x", classes))


def test_nothing_in_a_folder_is_passed_over_in_silence(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "x", {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    stray = root / "train" / "a" / "labels.csv"
    stray.touch()
    with pytest.raises(DataError, match=r"labels\.csv' is no image file"):
        read(root)
    stray.unlink()
    (root / "train" / "a" / "broken.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"broken\.png' is no image file"):
        read(root)
    (root / "train" / "a" / "broken.png").unlink()
    (root / "train" / "readme.txt").touch()
    with pytest.raises(DataError, match=r"readme\.txt': expected train/<class>/<image>"):
        read(root)


# .npz
