"""CIFAR-10's binary version, well-formed and hostile. Archives are never extracted."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcliff.data import cifar, containers
from batchcliff.errors import DataError


def read(path: Path, make: Any, pinned: bytes | None = None) -> Any:
    pin = make.pin(path.read_bytes() if pinned is None else pinned)
    return containers.find(path, pin).read()


def members(tiny: Any, make: Any) -> list[Any]:
    return [make.member(f"{cifar.FOLDER}/{n}", d) for n, d in tiny.files().items()]


def test_archive_and_folder_decode_to_the_images(tiny: Any, make: Any, tmp_path: Path) -> None:
    for decoded in (
        read(tiny.archive(tmp_path / "cifar.tar.gz"), make),
        containers.find(tiny.binary(tmp_path / cifar.FOLDER)).read(),
        containers.find(tmp_path).read(),  # the folder that holds it
    ):
        assert np.array_equal(decoded.train_images, tiny.train_images)
        assert np.array_equal(decoded.train_labels, tiny.train_labels)
        assert np.array_equal(decoded.test_images, tiny.test_images)
        assert np.array_equal(decoded.test_labels, tiny.test_labels)
        assert decoded.class_names == cifar.CLASS_NAMES
        assert decoded.encodings == ()


def test_the_pin_is_the_published_one() -> None:
    assert cifar.ARCHIVE.url.startswith("https://")
    assert cifar.ARCHIVE.size == 170_052_171
    assert len(bytes.fromhex(cifar.ARCHIVE.sha256)) == 32


def test_a_flipped_byte_names_both_digests(tiny: Any, make: Any, tmp_path: Path) -> None:
    path = tiny.archive(tmp_path / "cifar.tar.gz")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    expected, found = make.pin(good).sha256, make.pin(path.read_bytes()).sha256
    with pytest.raises(DataError, match=f"(?s){len(good):,} bytes .*{expected}.*{found}"):
        read(path, make, pinned=good)
    assert path.exists()  # it is the user's file: left where it is


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "renamed.tar.gz"])
def test_the_pickled_archive_is_refused(make: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(make.tar_gz([make.member("cifar-10-batches-py/data_batch_1", b"cos\n")]))
    with pytest.raises(DataError, match="pickle can run any code"):
        read(path, make, pinned=b"")


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_the_pickled_folder_is_refused(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).mkdir(exist_ok=True)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (tmp_path / inner / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"python version.*pickle"):
        containers.find(tmp_path)


def link(kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(f"{cifar.FOLDER}/data_batch_1.bin")
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_and_devices_in_the_archive_are_refused(
    tiny: Any, make: Any, tmp_path: Path, kind: bytes
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(tiny.files()["data_batch_1.bin"])
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(make.tar_gz([link(kind, str(secret)), *members(tiny, make)[1:]]))
    with pytest.raises(DataError, match=r"data_batch_1\.bin must be one regular file of"):
        read(path, make)


def test_members_with_other_paths_are_passed_over_and_nothing_is_written(
    tiny: Any, make: Any, tmp_path: Path
) -> None:
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    path = place / "cifar.tar.gz"
    hostile = [
        make.member(n, b"x") for n in ("../canary", f"{tmp_path}/canary", "../../canary")
    ]
    path.write_bytes(make.tar_gz([*hostile, *members(tiny, make)]))
    assert len(read(path, make).train_labels) == 60
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cifar.tar.gz", "deep", "er"]


def test_missing_short_and_repeated_members_are_refused(
    tiny: Any, make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cifar.tar.gz"
    good = members(tiny, make)
    path.write_bytes(make.tar_gz(good[1:]))
    with pytest.raises(DataError, match=r"missing data_batch_1\.bin"):
        read(path, make)
    path.write_bytes(make.tar_gz([*good, good[0]]))
    with pytest.raises(DataError, match="must be one regular file"):
        read(path, make)
    path.write_bytes(make.tar_gz([make.member(good[0][0].name, good[0][1][:-1]), *good[1:]]))
    with pytest.raises(DataError, match="must be one regular file"):
        read(path, make)


def test_bombs_are_refused_before_they_fill_memory(
    tiny: Any, make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(
        make.tar_gz([make.member("padding", bytes(20 << 20)), *members(tiny, make)])
    )
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="unpacks to more bytes than CIFAR-10 has"):
        read(path, make)
    # An extended header is read into memory whole, whatever length it claims.
    header = tarfile.TarInfo("./PaxHeaders/x")
    header.type, header.size = tarfile.XHDTYPE, 7 << 30
    path.write_bytes(gzip.compress(header.tobuf() + bytes(20 << 20)))
    with pytest.raises(DataError, match="unpacks to more bytes than CIFAR-10 has"):
        read(path, make)


@pytest.mark.parametrize(
    "data", [b"", b"<html>", gzip.compress(b"no tar" * 500, mtime=0), b"\x1f\x8b\x08"]
)
def test_what_is_no_archive_is_said_to_be_none(
    tiny: Any, make: Any, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"no readable \.tar\.gz archive|missing data_batch_1\.bin"
    ):
        read(path, make)


def test_a_binary_folder_that_is_cut_short(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.binary(tmp_path / cifar.FOLDER)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"missing test_batch\.bin"):
        containers.find(folder).read()
    (folder / "data_batch_2.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"data_batch_2\.bin' has 3 bytes; expected 36,876"):
        containers.find(folder).read()
