"""CIFAR-10's binary version: the pinned archive, and how its files are laid out.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009), and
https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version". A record is one byte of label
and 3,072 bytes of pixels: the red, the green and the blue plane, each 32 rows of 32.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchcliff.data.verify import Decoded, sha256_file, shown
from batchcliff.errors import DataError

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
IMAGE_SHAPE = (32, 32, 3)
NUM_TRAIN, NUM_TEST = 50_000, 10_000

TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
FOLDER = "cifar-10-batches-bin"
RECORDS_PER_FILE = 10_000
_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A file to fetch, and what it must be. `size` in bytes, `sha256` as 64 hex digits."""

    url: str
    name: str
    size: int
    sha256: str


# Size and SHA-256 as published by TensorFlow Datasets (url_checksums/cifar10.txt); the same
# SHA-256 is pinned by MLDatasets.jl (cifar10.jl) and torchvision-ruby (cifar10.rb). It has
# been compared between these three, not taken from a download of ours. The authors' page
# gives an MD5 only (c32a1d4ab5d03f1284b67883e8d87530), which is not used.
ARCHIVE = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    name="cifar-10-binary.tar.gz",
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)

PICKLED = (
    "this is CIFAR-10's python version, which is made of pickle files, and a pickle can run "
    "any code when it is read: it is refused. Take the binary version, "
    f"{ARCHIVE.url}, or any other accepted container"
)


def is_pickled_folder(folder: Path) -> bool:
    """Whether this is the python version's folder, or holds it."""
    return any(
        (place / "data_batch_1").is_file() and (place / "test_batch").is_file()
        for place in (folder, folder / "cifar-10-batches-py")
    )


def differences(path: Path, archive: Archive) -> str | None:
    """What is wrong with a copy of `archive`, both digests named; None if nothing is."""
    size = path.stat().st_size
    found = sha256_file(path)
    if (size, found) == (archive.size, archive.sha256):
        return None
    return (
        f"expected {archive.size:,} bytes with SHA-256 {archive.sha256}; "
        f"found {size:,} bytes with SHA-256 {found}"
    )


def read_archive(path: Path, archive: Archive) -> Decoded:
    """Decode the official archive, member by member, without extracting it.

    DataError if it is not the pinned file, or (should the pin ever be wrong) if a member is
    missing, no regular file, or has another size than it must have.
    """
    if wrong := differences(path, archive):
        if "python" in path.name or _first_member(path).startswith("cifar-10-batches-py"):
            raise DataError(f"{shown(path)}: {PICKLED}.")
        raise DataError(
            f"{shown(path)} is not {archive.name}: {wrong}. If you repacked it, extract it and "
            f"give the folder {FOLDER} instead."
        )
    return _decoded(_members(path), path)


class _CappedReader(io.RawIOBase):
    """A decompressing reader that refuses to yield more than `most` bytes in all.

    A header may ask for any number of bytes, and 10 MB of gzip can hold 10 GB of zeros.
    """

    def __init__(self, stream: gzip.GzipFile, most: int) -> None:
        super().__init__()
        self._stream, self._left = stream, most

    def read(self, size: int = -1) -> bytes:
        most = self._left + 1
        data = self._stream.read(most if size < 0 else min(size, most))
        self._left -= len(data)
        if self._left < 0:
            raise DataError("the archive unpacks to more bytes than CIFAR-10 has: refused")
        return data


def _most_bytes() -> int:
    return (len(TRAIN_FILES) + 1) * RECORDS_PER_FILE * _RECORD + (1 << 20)


def _first_member(path: Path) -> str:
    """Name of the first member, or "" if this is no readable archive."""
    try:
        with (
            gzip.open(path) as stream,
            tarfile.open(fileobj=_CappedReader(stream, 1 << 20), mode="r|") as tar,
        ):
            first = tar.next()
            return first.name if first else ""
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, DataError):
        return ""


def _members(path: Path) -> dict[str, bytes]:
    wanted = {f"{FOLDER}/{name}": name for name in (*TRAIN_FILES, TEST_FILE)}
    size = RECORDS_PER_FILE * _RECORD
    found: dict[str, bytes] = {}
    try:
        with (
            gzip.open(path) as stream,
            tarfile.open(fileobj=_CappedReader(stream, _most_bytes()), mode="r|") as tar,
        ):
            for member in tar:
                name = wanted.get(member.name)
                if name is None:
                    continue
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or member.size != size or name in found:
                    raise DataError(
                        f"{shown(path)}: member {member.name} must be one regular file of "
                        f"{size:,} bytes"
                    )
                found[name] = file.read(size)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shown(path)}: no readable .tar.gz archive ({error})") from error
    return found


def read_binary_folder(folder: Path) -> Decoded:
    """Decode the extracted binary version. DataError if a file is missing or cut."""
    size = RECORDS_PER_FILE * _RECORD
    found: dict[str, bytes] = {}
    for name in (*TRAIN_FILES, TEST_FILE):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size != size:
            raise DataError(
                f"{shown(path)} has {path.stat().st_size:,} bytes; expected {size:,} "
                f"({RECORDS_PER_FILE:,} records of {_RECORD:,})"
            )
        found[name] = path.read_bytes()
    return _decoded(found, folder)


def _decoded(files: dict[str, bytes], path: Path) -> Decoded:
    missing = [name for name in (*TRAIN_FILES, TEST_FILE) if name not in files]
    if missing:
        raise DataError(f"{shown(path)}: missing {', '.join(missing)}")
    parts = [_records(files[name]) for name in TRAIN_FILES]
    test_images, test_labels = _records(files[TEST_FILE])
    return Decoded(
        train_images=np.concatenate([images for images, _ in parts]),
        train_labels=np.concatenate([labels for _, labels in parts]),
        test_images=test_images,
        test_labels=test_labels,
        class_names=CLASS_NAMES,
    )


def _records(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [N, 32, 32, 3] and labels int64 [N] of one file."""
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    planes_NCHW = records[:, 1:].reshape(-1, 3, 32, 32)
    images_NHWC = np.ascontiguousarray(planes_NCHW.transpose(0, 2, 3, 1))
    return images_NHWC, records[:, 0].astype(np.int64)
