"""The commit protocol on raw files, one call at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcliff.errors import StorageError, UsageError
from batchcliff.study import files
from batchcliff.study.files import Folder, publish_once, set_aside, sweep
from batchcliff.study.sealed import Damaged, NewerVersion, seal, unseal

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: "$float" not in repr(value))


@pytest.fixture
def room(tmp_path: Path):
    """An open folder with the parts that publishing needs."""
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(Folder.open(tmp_path))
        parts = {n: stack.enter_context(root.sub(n, create=True)) for n in ("tmp", "results")}
        yield root, parts["tmp"], parts["results"]


# --- seals ---


@given(body=PLAIN, provenance=PLAIN)
def test_a_seal_gives_back_what_went_in(body, provenance) -> None:
    text = seal(body, provenance)
    assert json.loads(text)["v"] == 1
    assert unseal(text) == (body, provenance)
    assert seal(*unseal(text)) == text


def test_text_that_is_no_utf8_is_sealed_as_escapes() -> None:
    assert unseal(seal({"path": "a\udcff"}, ["\ud800"])) == ({"path": "a\\udcff"}, ["\\ud800"])


def test_a_seal_keeps_a_nan_a_nan() -> None:
    body, _ = unseal(seal({"loss": math.nan, "top": math.inf}))
    assert math.isnan(body["loss"]) and body["top"] == math.inf


def test_facts_are_sealed_apart_from_provenance() -> None:
    one, two = (json.loads(seal({"a": 1}, {"host": host})) for host in ("x", "y"))
    assert one["sha256"] == two["sha256"] and one["body"] == two["body"]
    assert one["provenance"]["sha256"] != two["provenance"]["sha256"]


SEALED = seal({"accuracy": 0.5, "curve": [1.0, 2.0]}, {"host": "x", "seconds": 3})


@settings(max_examples=400)
@given(at=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_shows(at: int, bit: int) -> None:
    bad = bytearray(SEALED)
    bad[at] ^= 1 << bit
    with pytest.raises(Damaged):
        unseal(bytes(bad))


def test_any_missing_or_additional_byte_shows() -> None:
    for at in range(len(SEALED)):
        for bad in (
            SEALED[:at],
            SEALED[:at] + SEALED[at + 1 :],
            SEALED[:at] + b" " + SEALED[at:],
            SEALED[:at] + bytes(len(SEALED) - at),
        ):
            with pytest.raises(Damaged):
                unseal(bad)
    with pytest.raises(Damaged):
        unseal(SEALED + b"\n")


def test_control_a_seal_that_only_parses_would_miss_most_of_that() -> None:
    missed = 0
    for at in range(len(SEALED)):
        with contextlib.suppress(ValueError):
            json.loads(SEALED[:at] + b" " + SEALED[at:])
            missed += 1
    assert missed > 10


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'{"v":1}',
        b'{"body":1,"sha256":7,"v":1}\n',
        b'{"body":{"$float":[]},"sha256":"","v":1}\n',
        b'{"body":1,"provenance":[],"sha256":"","v":1}\n',
        b'{"body":1,"provenance":{"body":"\\ud800","sha256":""},"sha256":"","v":1}\n',
        b"[" * 100_000,
        b"9" * 10_000,
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_crafted_text_is_damaged_and_nothing_worse(text: bytes) -> None:
    with pytest.raises(Damaged, match=r"sealed record|SHA-256"):
        unseal(text)


def test_a_later_format_is_said_to_be_one() -> None:
    with pytest.raises(NewerVersion, match="format 2, this batchcliff reads up to 1"):
        unseal(SEALED.replace(b'"v":1}', b'"v":2}'))


# --- reading ---


def test_only_plain_files_are_read(room, tmp_path: Path) -> None:
    _, _, results = room
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "results/link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "results/pipe")
    (tmp_path / "results/folder").mkdir()
    (tmp_path / "results/plain").write_text("plain")
    for name in ("link", "pipe", "folder"):
        with pytest.raises(Damaged, match="not a plain file"):
            results.read(name)
    assert results.read("plain") == b"plain"
    assert results.read("absent") is None


def test_a_huge_file_is_not_read(room, tmp_path: Path) -> None:
    _, _, results = room
    with (tmp_path / "results/huge").open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)  # sparse
    with pytest.raises(Damaged, match="larger than"):
        results.read("huge")


def test_a_linked_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").symlink_to("elsewhere")
    with Folder.open(tmp_path) as root, pytest.raises(UsageError, match="symbolic link"):
        root.sub("results", create=True)


# --- publication ---


def test_the_first_writer_wins(room, tmp_path: Path) -> None:
    _, tmp, results = room
    assert publish_once(tmp, results, "a", b"first") is True
    assert publish_once(tmp, results, "a", b"second") is False
    assert (tmp_path / "results/a").read_bytes() == b"first"
    assert tmp.names() == []


def test_without_hard_links_the_first_writer_wins_too(room, tmp_path: Path) -> None:
    root, tmp, results = room
    with root.sub("lease", create=True) as locks:
        assert publish_once(tmp, results, "a", b"first", locks) is True
        assert publish_once(tmp, results, "a", b"second", locks) is False
    assert (tmp_path / "results/a").read_bytes() == b"first"
    assert tmp.names() == []


def test_a_lost_reply_of_nfs_is_still_our_success(room, monkeypatch) -> None:
    _, tmp, results = room
    link = os.link

    def reply_lost(*args, **kwargs) -> None:
        link(*args, **kwargs)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", reply_lost)
    assert publish_once(tmp, results, "a", b"ours") is True
    assert results.read("a") == b"ours"


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_refusing_disk_leaves_nothing_behind(room, monkeypatch, call, number) -> None:
    _, tmp, results = room

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError) as raised:
            publish_once(tmp, results, "a", b"x" * 5000)
    assert raised.value.errno == number and raised.value.exit_code == 74
    message = str(raised.value)
    assert str(results.path / "a") in message and os.strerror(number) in message
    assert "can be resumed" in message
    assert ("needs 0.005 MB, has " in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert tmp.names() == [] and results.names() == []


def test_missing_hard_links_are_noticed(room, monkeypatch) -> None:
    _, tmp, _ = room
    assert files.has_hard_links(tmp)

    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert not files.has_hard_links(tmp)
    assert tmp.names() == []


def test_the_message_quotes_a_path_that_would_break_a_line(tmp_path: Path) -> None:
    assert files.shown(tmp_path / "plain") == str(tmp_path / "plain")
    assert files.shown("a\nb\udcff\x1b[31m") == r"'a\nb\udcff\x1b[31m'"


def test_check_space(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as root:
        files.check_space(root.path, root.fd, 1)
        with pytest.raises(
            StorageError, match=r"needs 1000000000000.0 MB, has .* MB in "
        ) as no:
            files.check_space(root.path, root.fd, 10**18)
    assert no.value.errno == errno.ENOSPC


# --- cleaning up ---


def test_sweep_takes_what_is_published_or_old_and_nothing_else(room, tmp_path: Path) -> None:
    _, tmp, results = room
    for name in ("published", "old", "fresh", files.RESERVE):
        (tmp_path / "tmp" / name).write_text(name)
    os.link(tmp_path / "tmp/published", tmp_path / "results/published")
    long_ago = time.time() - 200_000
    for name in ("old", files.RESERVE):
        os.utime(tmp_path / "tmp" / name, (long_ago, long_ago))
    sweep(tmp, 86_400)
    assert tmp.names() == ["fresh", files.RESERVE]
    assert results.read("published") == b"published"


def check_of(folder: Folder, name: str):
    def check() -> None:
        data = folder.read(name)
        if data is not None and data != b"good":
            raise Damaged("not good")

    return check


def test_set_aside_moves_the_bad_file_and_says_why(room) -> None:
    root, _, results = room
    Path(results.path / "a").write_bytes(b"bad")
    kept = set_aside(root, results, "a", check_of(results, "a"))
    assert kept is not None and kept.read_bytes() == b"bad"
    assert json.loads(Path(f"{kept}.why").read_text()) == {"reason": "not good"}
    assert results.names() == []


def test_set_aside_looks_again_under_its_lock(room) -> None:
    # Somebody else repaired the file between our first look and the lock.
    root, _, results = room
    Path(results.path / "a").write_bytes(b"good")
    assert set_aside(root, results, "a", check_of(results, "a")) is None
    assert set_aside(root, results, "absent", check_of(results, "absent")) is None
    assert results.read("a") == b"good"
