"""The cache of decoded arrays, and what is known of files that look unchanged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from decoded_arrays import decoded, same
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcliff.data import verify
from batchcliff.data.verify import Decoded, forget, read_files, sha256_file, through_cache

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
    tick = tmp_path / "tick"
    tick.touch()
    while tick.stat().st_ctime_ns <= files[1].stat().st_ctime_ns:  # what changes now, is later
        tick.touch()
    tick.unlink()
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
