"""F12: files of the data that change after the study began, with and without `--verify`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fake_worker
import numpy as np
import pytest
from PIL import Image
from study_runs import accounted
from typer.testing import CliRunner

from batchcliff.cli import app
from batchcliff.data import containers, verify
from batchcliff.study.engines.local import Worker

SIDE, EACH = 8, 8


def picture(path: Path, pixels: np.ndarray) -> None:
    """A PNG of equal size for equal shapes: nothing in it is compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=0)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures in two classes, and a cache of the test's own."""
    rng = np.random.default_rng(3)
    for split in ("train", "test"):
        for number in range(EACH):
            place = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            picture(place, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    monkeypatch.setenv("BATCHCLIFF_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(verify, "_TICK", 0)  # a note of files that were made just now
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def run(images: Path, *more: str, code: int) -> str:
    words = ["run", "digits", "--set", "data=images", "--data", str(images), "--out", "s"]
    words += ["--seeds", "1", "--batch-sizes", "8", "--device", "cpu", "--workers", "1"]
    result = CliRunner().invoke(app, [*words, *more])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def flip(images: Path) -> None:
    """One bit of one pixel; size and time of the file stay as they were."""
    path = images / "train" / "a" / "0.png"
    before = path.stat()
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    picture(path, pixels)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def unnoticed(images: Path) -> None:
    """As if the disk had changed it by itself: neither does the kernel know."""
    (note,) = (images.parent / "home" / "decoded").glob("files-*")
    old, digest = note.read_text().split()
    now = verify._state_of(containers.find(images).files)
    assert old != now
    note.write_text(f"{now} {digest}")


def missing_one(folder: Path) -> None:
    """So that there is something to train."""
    next((folder / "results").iterdir()).unlink()


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_refused(output: str) -> None:
    """Exit code 2 with the old digest and the new one."""
    line = next(line for line in output.splitlines() if "data.digest" in line)
    old, new = (word.strip("',") for word in line.split() if len(word.strip("',")) == 64)
    assert old != new
    assert "in the study" in line
    assert "now" in line


def test_a_flipped_bit_under_the_old_size_and_time_is_caught(images: Path) -> None:
    """Also without --verify: a write leaves another trace (ctime)."""
    run(images, code=0)
    before = snapshot(Path("s"))
    flip(images)
    check_refused(run(images, code=2))
    check_refused(run(images, "--verify", code=2))
    assert snapshot(Path("s")) == before, "nothing was written"


def test_a_change_that_leaves_no_trace_is_caught_with_verify(images: Path) -> None:
    """Without --verify, the control, the run goes on, on the copy of the data that it began
    with."""
    run(images, code=0)
    flip(images)
    unnoticed(images)
    missing_one(Path("s"))
    run(images, code=0)
    accounted(Path("s"), 2)
    check_refused(run(images, "--verify", code=2))
    check_refused(run(images, code=2))  # it is known from now on


def test_a_change_that_leaves_no_trace_is_caught_where_it_would_be_trained_on(
    images: Path,
) -> None:
    """There is no copy: whoever decodes the files sees what they hold."""
    run(images, code=0)
    flip(images)
    unnoticed(images)
    for kept in (images.parent / "home" / "decoded").glob("decoded-*"):
        kept.unlink()
    check_refused(run(images, code=2))


def test_verify_takes_unchanged_data(images: Path) -> None:
    """Also where the files were copied anew, or moved: they are what they hold."""
    run(images, code=0)
    shutil.copytree(images, images.parent / "moved")
    missing_one(Path("s"))
    run(images.parent / "moved", "--verify", code=0)
    run(images, "--verify", code=0)
    accounted(Path("s"), 2)
