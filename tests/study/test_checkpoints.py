"""Where checkpoints are kept: whole or not at all, never trusted, gone when they are over."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_disk import Disk, Killed, lay_out, mutated, survivors
from sizes import size

from batchcliff.errors import StorageError
from batchcliff.study import checkpoints
from batchcliff.study.checkpoints import PART, CheckpointFolder, Kept
from batchcliff.study.identity import PARTS
from batchcliff.study.jobs import STACK
from batchcliff.training.checkpoint import Elsewhere, Unusable

ONE, TWO, THREE = (digit * 20 for digit in "abc")
MOST = 10_000


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    folder.mkdir()
    for part in PARTS:
        (folder / part).mkdir()
    return folder


def whole(data: bytes) -> bytes:
    """A reader that believes everything."""
    return data


def names(study: Path) -> list[str]:
    return sorted(path.name for path in (study / PART).iterdir())


def put(study: Path, key: str, update: int, data: bytes, digest: bytes | None = None) -> Path:
    """A file under the name that `keep` would give it, or under another content's."""
    of = hashlib.sha256(data if digest is None else digest).hexdigest()
    path = study / PART / f"{key}-{update}-{of}.safetensors"
    path.write_bytes(data)
    return path


def kept(folder: CheckpointFolder, *ids: str) -> tuple[Kept, list[str]]:
    said: list[str] = []
    return folder.of(ids or (ONE,), said.append), said


def test_the_newest_is_read_and_older_ones_go(study: Path) -> None:
    folder = CheckpointFolder(study)
    mine, said = kept(folder)
    assert mine.newest(whole, MOST) is None
    for update in (9, 10, 100):
        data = b"%d" % update
        mine.keep(update, data)
        digest = hashlib.sha256(data).hexdigest()
        assert names(study) == [f"{ONE}-{update}-{digest}.safetensors"]
        assert mine.newest(whole, MOST) == data
    assert said == []
    assert list((study / "tmp").iterdir()) == []
    assert list((study / "quarantine").iterdir()) == []


def test_each_composition_has_its_own(study: Path) -> None:
    """Trials that were trained together go on together, in the same order, or start anew."""
    folder = CheckpointFolder(study)
    both, _ = kept(folder, ONE, TWO)
    both.keep(5, b"both")
    for ids in ((ONE,), (TWO,), (TWO, ONE), (ONE, TWO, THREE)):
        other, _ = kept(folder, *ids)
        assert other.newest(whole, MOST) is None
        other.keep(3, "+".join(ids).encode())
    assert both.newest(whole, MOST) == b"both"
    assert len(names(study)) == 5
    folder.drop({TWO})
    assert [name.split("-")[0] for name in names(study)] == [ONE]
    folder.drop({THREE, ONE})
    assert names(study) == []


def test_the_name_of_a_full_stack_fits_on_any_disk() -> None:
    """Also with what a name in quarantine/ has behind it."""
    name = f"{'+'.join([ONE] * STACK)}-{10**18 - 1}-{'0' * 64}.safetensors"
    assert checkpoints.NAME.fullmatch(name)
    assert len(f"{name}.{'0' * 16}.why") <= 255


# --- what cannot be believed


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_(path: Path) -> None:
    path.unlink()
    path.mkdir()


def sparse(path: Path) -> None:
    os.truncate(path, 2**40)


def flipped(path: Path) -> None:
    path.write_bytes(b"G" + path.read_bytes()[1:])


SHA = "SHA-256 of the content is not the one in its name"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (flipped, SHA),
    "cut short": (lambda path: os.truncate(path, 3), SHA),
    "empty": (lambda path: os.truncate(path, 0), SHA),
    "a terabyte of nothing": (sparse, f"larger than {MOST} bytes"),
    "a symbolic link": (link, "not a plain file"),
    "a pipe": (pipe, "not a plain file"),
    "a folder": (folder_, "not a plain file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_gate_what_is_damaged_is_set_aside_and_the_older_one_read(
    name: str, study: Path
) -> None:
    damage, reason = DAMAGE[name]
    put(study, ONE, 5, b"good and old")
    path = put(study, ONE, 10, b"good and new")
    folder = CheckpointFolder(study)
    mine, said = kept(folder)
    assert mine.newest(whole, MOST) == b"good and new"
    damage(path)
    assert mine.newest(whole, MOST) == b"good and old"
    (text,) = said
    assert text.startswith(f"the checkpoint at update 10 is not used: {reason} (now ")
    assert [name.split("-")[1] for name in names(study)] == ["5"]
    kept_aside = sorted(p.name for p in (study / "quarantine").iterdir())
    assert [p.startswith(path.name) for p in kept_aside] == [True, True]
    assert mine.newest(whole, MOST) == b"good and old"
    assert len(said) == 1, "said once"


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("verified", [True, False], ids=["store", "control"])
def test_every_mutation_of_a_checkpoint_is_found(
    memory: Path, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    """G5: set aside, and the older one is read. A reader that looks at no digest, the control,
    believes most of them."""
    for part in PARTS:
        (memory / part).mkdir()
    rng, rounds, missed = random.Random(6), size("mutations") // 4 if verified else 40, 0
    old, new, other = (rng.randbytes(400) for _ in range(3))
    if not verified:
        monkeypatch.setattr(
            checkpoints, "_read", lambda parts, name, *_: parts.reading(PART).read(name)
        )
    for _ in range(rounds):
        put(memory, ONE, 5, old)
        path = put(memory, ONE, 10, new)
        bad = mutated(new, other, rng)
        path.write_bytes(bad)
        mine, said = kept(CheckpointFolder(memory))
        found = mine.newest(whole, MOST)
        missed += bad != new and not (found == old and len(said) == 1 and not path.exists())
        for left in [*(memory / PART).iterdir(), *(memory / "quarantine").iterdir()]:
            left.unlink()
    assert missed == 0 if verified else missed > 20


def test_what_the_reader_refuses(study: Path) -> None:
    """Unusable content goes away; that of other surroundings stays, till there is a newer."""
    put(study, ONE, 7, b"elsewhere")
    put(study, ONE, 9, b"unusable")

    def read(data: bytes) -> bytes:
        raise {b"elsewhere": Elsewhere, b"unusable": Unusable}[data]("a reason")

    folder = CheckpointFolder(study)
    mine, said = kept(folder)
    assert mine.newest(read, MOST) is None
    assert said[0].startswith("the checkpoint at update 9 is not used: a reason (now ")
    assert said[1:] == ["the checkpoint at update 7 is not used: a reason"]
    assert [name.split("-")[1] for name in names(study)] == ["7"]
    mine.keep(3, b"new")
    assert mine.newest(whole, MOST) == b"new"
    assert [name.split("-")[1] for name in names(study)] == ["3"]


STRANGERS = [
    f"{ONE}-5-{'0' * 63}.safetensors",
    f"{ONE}-5-{'0' * 64}.pt",
    f"{ONE}--5-{'0' * 64}.safetensors",
    f"../{ONE}-5-{'0' * 64}.safetensors",
    f"{ONE}-{'9' * 19}-{'0' * 64}.safetensors",
    f"{ONE}+-5-{'0' * 64}.safetensors",
    f".{ONE}-5-{'0' * 64}.safetensors",
    f"{ONE.upper()}-5-{'0' * 64}.safetensors",
    f"{ONE}-\N{ARABIC-INDIC DIGIT FIVE}-{'0' * 64}.safetensors",
]


def test_strangers_are_neither_read_nor_removed(study: Path) -> None:
    for stranger in STRANGERS:
        (study / PART / stranger).write_bytes(b"x")
    before = names(study)
    folder = CheckpointFolder(study)
    mine, said = kept(folder)
    assert mine.newest(whole, MOST) is None
    mine.keep(6, b"mine")
    folder.drop({ONE})
    assert (names(study), said) == (before, [])


def test_a_disk_that_cannot_be_read_or_cleaned_ends_nothing(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(study, ONE, 5, b"five")
    put(study, ONE, 6, b"six")
    folder = CheckpointFolder(study)
    mine, said = kept(folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, "read", _fails(errno.EIO))
        assert mine.newest(whole, MOST) is None
    assert [f"{os.strerror(errno.EIO)} (errno 5)" in text for text in said] == [True] * 2
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", _fails(errno.EROFS))
        folder.drop({ONE})
    assert len(names(study)) == 2
    assert mine.newest(whole, MOST) == b"six"


def _fails(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# --- killed, refused, without power at any moment


def keep_two(study: Path) -> None:
    folder = CheckpointFolder(study)
    mine, _ = kept(folder)
    for update in (1, 2):
        mine.keep(update, b"checkpoint %d" % update)


def newest_of(study: Path) -> tuple[bytes | None, list[str]]:
    folder = CheckpointFolder(study)
    mine, said = kept(folder)
    return mine.newest(whole, MOST), said


VALID = (b"checkpoint 1", b"checkpoint 2")


@pytest.mark.parametrize("error", [None, errno.ENOSPC, errno.EIO])
def test_gate_killed_or_refused_at_every_call(error: int | None, tmp_path: Path) -> None:
    """From the first whole checkpoint on there always is one, and nothing torn is seen."""
    calls = had_one = 0
    while True:
        folder = tmp_path / str(calls)
        for part in ("", *PARTS):
            (folder / part).mkdir()
        disk = Disk(folder, at=calls, error=error)
        with disk:
            try:
                keep_two(folder)
                finished = disk.calls <= calls
            except (Killed, StorageError):
                finished = False
        found, said = newest_of(folder)
        assert found in (None, *VALID)
        assert said == []
        assert found is not None or not had_one
        had_one += found is not None
        if finished:
            break
        calls += 1
    assert found == VALID[1]
    assert calls > 20
    assert had_one > 5


@pytest.mark.parametrize("honest", [True, False])
def test_gate_power_cuts_lose_no_durable_checkpoint(honest: bool, tmp_path: Path) -> None:
    """With fsyncs that do nothing, the control, some cut leaves torn files or none."""
    folder, rng = tmp_path / "s", random.Random(1)
    with Disk(tmp_path, honest_files=honest, honest_folders=honest) as disk:
        folder.mkdir()
        for part in PARTS:
            (folder / part).mkdir()
        for place in (folder, tmp_path):
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(fd)
            os.close(fd)
        opened = CheckpointFolder(folder)
        mine, _ = kept(opened)
        mine.keep(1, VALID[0])
        durable = len(disk.log)
        mine.keep(2, VALID[1])
    wrong = 0
    for trial in range(150):
        cut = rng.randrange(durable, len(disk.log) + 1)
        target = tmp_path / f"cut{trial}"
        target.mkdir()
        lay_out(survivors(disk.log, cut, rng), tmp_path, target)
        if not (target / "s").is_dir():
            wrong += 1
            continue
        found, said = newest_of(target / "s")
        wrong += found not in VALID or bool(said)
    assert (wrong == 0) is honest
