"""Data sets that attack: refused or read as data; nothing is run, written or followed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import seeds
from hostile_data import ATTACKS, POSTSCRIPT, Gadget, object_array
from PIL import Image
from typer.testing import CliRunner
from watch import watch

from batchcliff.cli import app
from batchcliff.data import cifar, sources
from batchcliff.errors import DataError
from batchcliff.study import ahead


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CIFAR-10 files of two records, and a data folder of the test's own."""
    monkeypatch.setattr(cifar, "RECORDS_PER_FILE", seeds.RECORDS)
    monkeypatch.setenv("BATCHCLIFF_DATA", str(tmp_path / "home"))
    (tmp_path / "x").mkdir()


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def read(data: Path) -> sources.Dataset:
    """As `--data` is read, with an archive taken for the pinned one: should a pin be wrong."""
    if data.name == cifar.ARCHIVE.name:
        raw = data.read_bytes()
        pin = cifar.Archive(
            url="https://x.invalid/",
            name=data.name,
            size=len(raw),
            sha256=hashlib.sha256(raw).hexdigest(),
        )
        decoded = cifar.read_archive(data, pin)
        assert decoded.class_names == cifar.CLASS_NAMES
        return decoded  # type: ignore[return-value]
    return sources.load_images(data)


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_run_written_or_followed(name: str, tmp_path: Path) -> None:
    attack, canary = ATTACKS[name], tmp_path / "canary"
    data = attack.make(tmp_path / "x", canary)
    before = everything(tmp_path)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(data)
        said = ""
    except DataError as error:
        said = str(error)
        assert (error.exit_code == 2 and str(tmp_path) in said) or attack.message in said
    assert (attack.message in said) if attack.message else said == "", said
    assert not canary.exists()
    assert everything(tmp_path) - before <= {"home"} | {
        p for p in everything(tmp_path) if p.startswith("home/")
    }
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
    assert grown < 300_000, f"{grown} kB more memory"


@pytest.mark.parametrize("name", ["objects in x_train", "a pickle called x.pt"])
def test_the_command_line_says_so_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, a message without a traceback, before anything is made.

    Workers that start ahead are left out: they read no data, and a process that starts one
    opens the socket to it, which this process is watched for.
    """
    monkeypatch.setattr(ahead, "_fewest_jobs", lambda *_: 0)
    canary = tmp_path / "canary"
    data = ATTACKS[name].make(tmp_path / "x", canary)
    out = tmp_path / "study"
    arguments = ["run", "article", "--data", str(data), "--out", str(out), "--device", "cpu"]
    with watch():
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and ATTACKS[name].message in result.output
    assert not canary.exists() and not out.exists()


def test_a_byte_that_changes_under_the_study_is_noticed(tmp_path: Path) -> None:
    """Size and time stay as they were: the content is what counts."""
    path = tmp_path / "x" / "x.npz"
    path.write_bytes(seeds.small_npz()[0])
    before, when = sources.load_images(path).digest, path.stat()
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("x_train.npy")
    with zipfile.ZipFile(path) as archive, archive.open(info) as member:
        array = np.lib.format.read_array(member)
    at = bytes(data).index(array.tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert path.stat().st_size == when.st_size
    with pytest.raises(DataError, match="no readable"):  # its CRC-32 gives it away
        sources.load_images(path)
    array = array.copy()
    array.flat[0] ^= 1
    np.savez(path, x_train=array, x_test=array, y_train=[0, 1], y_test=[0, 1])
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert sources.load_images(path).digest != before


# --- controls: the attacks do work on whoever is careless -----------------------------------


def test_control_the_gadget_works(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Gadget(canary)))
    assert canary.exists()
    canary.unlink()
    np.load(io.BytesIO(object_array(canary)), allow_pickle=True)
    assert canary.exists()


def test_control_extraction_writes_elsewhere(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = ATTACKS["members with other paths"].make(tmp_path / "x", canary)
    with tarfile.open(data) as tar:
        tar.extractall(tmp_path / "out", filter="fully_trusted")
    assert canary.exists()


def test_control_an_unlimited_list_of_formats_takes_postscript() -> None:
    with Image.open(io.BytesIO(POSTSCRIPT)) as image:
        assert image.format == "EPS", "which Pillow hands to another program"
