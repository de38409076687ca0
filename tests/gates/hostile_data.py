"""Data sets that attack whoever reads them. Each is made in a folder, beside a canary."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import seeds
from PIL import Image

from batchcliff.data import cifar, images

Make = Callable[[Path, Path], Path]  # (folder, canary) -> what is given as --data


class Gadget:
    """Unpickled, it runs a command that makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


@dataclass(frozen=True)
class Attack:
    """`message`: what is said; empty where the file is good and its extra is passed over."""

    make: Make
    message: str


def npz(folder: Path, **members: bytes) -> Path:
    """A good `.npz` with some members replaced or added."""
    path = folder / "x.npz"
    with (
        zipfile.ZipFile(io.BytesIO(seeds.small_npz()[0])) as good,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, members.pop(name.removesuffix(".npy"), good.read(name)))
        for name, data in members.items():
            bad.writestr(name, data)
    return path


def object_array(canary: Path, dtype: object = object) -> bytes:
    buffer = io.BytesIO()
    array = np.empty(2, dtype)
    array[:] = (Gadget(canary),) if dtype is not object else Gadget(canary)
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def member(key: str, dtype: object = object) -> Make:
    return lambda folder, canary: npz(folder, **{key: object_array(canary, dtype)})


def pickled(name: str) -> Make:
    def make(folder: Path, canary: Path) -> Path:
        path = folder / name
        path.write_bytes(pickle.dumps(Gadget(canary)))
        return path

    return make


def python_version(folder: Path, canary: Path) -> Path:
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        pickled(name)(folder, canary)
    return folder


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def lies_about_its_size(folder: Path, canary: Path) -> Path:
    """A zip member that says in the directory that it is small, and is not."""
    path = npz(folder, x_train=header("(50000000,)") + bytes(50_000_000))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"x_train.npy"))
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    return path


def slip(folder: Path, canary: Path) -> Path:
    return npz(folder, **{f"../{canary.name}": b"x", str(canary): b"x"})


# --- archives, were the pin wrong -----------------------------------------------------------


def archive(*extra: tuple[str, bytes, str, bytes], first: bool = True) -> Make:
    """A good archive of tiny files with members (name, type, link, data) before its own."""

    def make(folder: Path, canary: Path) -> Path:
        path = folder / cifar.ARCHIVE.name
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind, link, data in extra:
                info = tarfile.TarInfo(name.format(canary=canary))
                info.type, info.linkname = kind, link.format(canary=canary)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            with tarfile.open(fileobj=io.BytesIO(seeds.small_archives()[0])) as good:
                for info in good:
                    tar.addfile(info, good.extractfile(info))
        path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
        return path

    return make


def tar_bomb(folder: Path, canary: Path) -> Path:
    path = folder / cifar.ARCHIVE.name
    info = tarfile.TarInfo("padding")
    info.size = 50 << 20
    path.write_bytes(gzip.compress(info.tobuf() + bytes(info.size), mtime=0))
    assert path.stat().st_size < 60_000
    return path


BATCH = f"{cifar.FOLDER}/data_batch_1.bin"


# --- images ---------------------------------------------------------------------------------

POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\nshowpage\n%%EOF\n"
)


def image_folder(**spoiled: bytes) -> Make:
    """Two classes of two splits, with files of the first class replaced or added."""

    def make(folder: Path, canary: Path) -> Path:
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                place = folder / "images" / split / name
                place.mkdir(parents=True)
                Image.new("RGB", (4, 4), 9).save(place / "0.png")
        for name, data in spoiled.items():
            (folder / "images" / "train" / "cat" / name).write_bytes(data)
        return folder / "images"

    return make


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def linked(target: str) -> Make:
    """An image, or a class, that is a link to somebody's file."""

    def make(folder: Path, canary: Path) -> Path:
        place = image_folder()(folder, canary)
        (place / "train" / "cat" / "1.png").symlink_to(target)
        return place

    return make


def no_text(folder: Path, canary: Path) -> Path:
    """A class whose name is bytes that are no UTF-8."""
    place = image_folder()(folder, canary)
    for split in ("train", "test"):
        (place / split / "cat").rename(place / split / os.fsdecode(b"\xff\xfe"))
    return place


def named_pipe(folder: Path, canary: Path) -> Path:
    place = image_folder()(folder, canary)
    os.mkfifo(place / "train" / "cat" / "1.png")
    return place


# --- Parquet --------------------------------------------------------------------------------


def parquet(
    metadata: Callable[[Path], dict[bytes, bytes]], *, nulls: bool = False, names: bytes = b""
) -> Make:
    def make(folder: Path, canary: Path) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        data = None if nulls else seeds.small_images()[0]
        rows = pa.array([{"bytes": data, "path": "/etc/passwd"}] * 2, kind)
        field = pa.field("img", kind, metadata=metadata(canary))
        schema = pa.schema([field, ("label", pa.int64())], {"huggingface": names})
        table = pa.table([rows, pa.array([0, 1])], schema=schema)
        for split in ("train", "test"):
            pq.write_table(table, folder / f"{split}.parquet")
        return folder

    return make


def unpickled_type(canary: Path) -> dict[bytes, bytes]:
    """What older versions of pyarrow unpickled when they read a schema (CVE-2023-47248)."""
    return {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Gadget(canary)),
    }


ATTACKS = {
    **{f"objects in {key}": Attack(member(key), "holds Python objects")
       for key in images.NPZ_KEYS},
    "a structured array of objects": Attack(
        member("x_train", [("a", object)]), "holds Python objects"),
    "a header that is code": Attack(
        lambda folder, canary: npz(folder, x_train=header(
            "(1,)", f"__import__('os').system('touch {canary}')")), "no readable .npz"),
    "a header of a terabyte": Attack(
        lambda folder, canary: npz(folder, x_train=header("(1000000, 1000, 1000)") + b"x"),
        "more than the file holds"),
    "a member that lies about its size": Attack(lies_about_its_size, "x.npz"),
    "members outside of the archive": Attack(slip, ""),
    **{f"a pickle called x{suffix}": Attack(pickled(f"x{suffix}"), "refused")
       for suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy")},
    "a pickle called x.npz": Attack(pickled("x.npz"), "no readable .npz"),
    "the python version of CIFAR-10": Attack(python_version, "made of pickle files"),
    "the python version in an archive": Attack(
        pickled("cifar-10-python.tar.gz"), "made of pickle files"),
    "members with other paths": Attack(
        archive(("../{canary}", tarfile.REGTYPE, "", b"x"),
                ("{canary}", tarfile.REGTYPE, "", b"x")), ""),
    "a symbolic link for a file": Attack(
        archive((BATCH, tarfile.SYMTYPE, "/etc/passwd", b"")), "one regular file"),
    "a hard link through a symbolic one": Attack(
        archive(("a", tarfile.SYMTYPE, "/etc", b""),
                (BATCH, tarfile.LNKTYPE, "a/passwd", b"")), "one regular file"),
    "a device": Attack(archive((BATCH, tarfile.CHRTYPE, "", b"")), "one regular file"),
    "a file twice": Attack(
        archive((BATCH, tarfile.REGTYPE, "", bytes(seeds.RECORDS * cifar._RECORD))),
        "one regular file"),
    "an archive that unpacks to 50 MB": Attack(tar_bomb, "more bytes than CIFAR-10 has"),
    "PostScript called .png": Attack(image_folder(**{"1.png": POSTSCRIPT}), "no readable"),
    "an image of 20,000 by 20,000": Attack(
        image_folder(**{"1.png": png(20_000, 20_000)}), "1.png"),
    "a text chunk that unpacks to 64 MB": Attack(
        image_folder(**{"1.png": png(4, 4, chunk(
            b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20))))}), "no readable"),
    "a script among the images": Attack(
        image_folder(**{"run.sh": b"touch x"}), "is no image file"),
    "a link to somebody's file": Attack(linked("/etc/passwd"), "no readable image"),
    "a link to nowhere": Attack(linked("/nowhere/at/all"), "is no image file"),
    "a link to a device": Attack(linked("/dev/zero"), "is no image file"),
    "a pipe that nobody writes to": Attack(named_pipe, "is no image file"),
    "a class whose name is no text": Attack(no_text, "is no text in UTF-8"),
    "a class of half a surrogate pair": Attack(parquet(lambda canary: {}, names=(
        b'{"info": {"features": {"label": {"names": ["a", "\\ud800"]}}}}')),
        "is no text in UTF-8"),
    "a Parquet type that is a pickle": Attack(parquet(unpickled_type), ""),
    "Parquet rows that name files": Attack(
        parquet(lambda canary: {}, nulls=True), "no image bytes"),
}  # fmt: skip
