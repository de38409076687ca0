"""A tiny CIFAR-10 in every container. 12 records a file instead of 10,000."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from batchcliff.data import cifar

RECORDS = 12


@dataclass
class Tiny:
    """60 training and 12 test images, in the order of the binary files."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def splits(self) -> list[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
        return [
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ]

    def files(self) -> dict[str, bytes]:
        """The binary version: a byte of label, then the red, green and blue planes."""
        images = np.concatenate([self.train_images, self.test_images])
        labels = np.concatenate([self.train_labels, self.test_labels])
        written = {}
        for i, name in enumerate((*cifar.TRAIN_FILES, cifar.TEST_FILE)):
            records = range(i * RECORDS, (i + 1) * RECORDS)
            written[name] = b"".join(
                bytes([labels[r]]) + b"".join(images[r, :, :, c].tobytes() for c in range(3))
                for r in records
            )
        return written

    def binary(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)
        return folder

    def archive(self, path: Path) -> Path:
        members = [(f"{cifar.FOLDER}/{n}", d) for n, d in self.files().items()]
        path.write_bytes(tar_gz([plain(n, d) for n, d in members]))
        return path

    def npz(self, path: Path) -> Path:
        np.savez(
            path,
            x_train=self.train_images,
            y_train=self.train_labels[:, None].astype(np.uint8),  # as Keras has them
            x_test=self.test_images,
            y_test=self.test_labels,
        )
        return path

    def folder(self, folder: Path) -> Path:
        for split, images, labels in self.splits():
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                place = folder / split / cifar.CLASS_NAMES[label]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{len(images) - i:03}.png").write_bytes(encode(image, "PNG"))
        return folder

    def parquet(self, folder: Path, kind: str = "PNG", **columns: str) -> Path:
        folder.mkdir(parents=True)
        for split, images, labels in self.splits():
            rows = [encode(image, kind) for image in images]
            write_parquet(folder / f"{split}-00000-of-00001.parquet", rows, labels, **columns)
        return folder


def encode(image: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    rows: list[bytes | None],
    labels: object,
    image: str = "img",
    label: str = "label",
    names: list[str] | None = None,
) -> None:
    structs = pa.array(
        [{"bytes": data, "path": None} for data in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({image: structs, label: pa.array(labels)})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    with path.open("wb") as file:  # pyarrow itself cannot open every name
        pq.write_table(table, file)


def plain(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def tar_gz(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def pin(data: bytes, url: str = "https://data.invalid/cifar.tar.gz") -> cifar.Archive:
    """The archive that `data` would have to be."""
    return cifar.Archive(
        url=url,
        name="cifar-10-binary.tar.gz",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


@dataclass
class Make:
    """What tests need to craft files, as one fixture."""

    encode = staticmethod(encode)
    parquet = staticmethod(write_parquet)
    member = staticmethod(plain)
    tar_gz = staticmethod(tar_gz)
    pin = staticmethod(pin)


@pytest.fixture
def make() -> type[Make]:
    return Make


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr(cifar, "RECORDS_PER_FILE", RECORDS)
    rng = np.random.default_rng(0)
    labels = [np.arange(6 * RECORDS) % 10]
    images = rng.integers(0, 256, (6 * RECORDS, 32, 32, 3), np.uint8)
    return Tiny(
        train_images=images[: 5 * RECORDS],
        train_labels=labels[0][: 5 * RECORDS].astype(np.int64),
        test_images=images[5 * RECORDS :],
        test_labels=labels[0][5 * RECORDS :].astype(np.int64),
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's data folder."""
    folder = tmp_path / "home of data"
    monkeypatch.setenv("BATCHCLIFF_DATA", str(folder))
    return folder
