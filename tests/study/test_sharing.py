"""A study for one user alone, and one for a group: with real users, whom root can be."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fake_peer as fake
import pytest

from batchcliff.errors import UsageError
from batchcliff.study import identity
from batchcliff.study.sharing import check_shared, plain_folder
from batchcliff.study.store import Store

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="not root, or no setpriv: other users NOT TESTED",
)

GROUP, STRANGERS = 65532, 65531
BOTH = [(65534, 65533), (65533, 65534)]
PEER = str(Path(fake.__file__))
TINY = ["--set", "budget=1ep", "--seeds", "1", "--batch-sizes", "512", "--workers", "1"]


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every user can reach, and where each may make things."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def run_as(
    uid: int,
    *arguments: object,
    gid: int = GROUP,
    python: str = sys.executable,
    cwd: Path | None = None,
    **variables: str,
) -> tuple[int, str]:
    """Exit code, and what it says; the umask is what most people have."""
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", python]
        + [str(a) for a in arguments],
        capture_output=True,
        text=True,
        umask=0o022,
        cwd=cwd,
        env={**os.environ, **variables},
    )
    return done.returncode, done.stdout + done.stderr


def folders(study: Path) -> list[Path]:
    return [study, *(path for path in study.rglob("*") if path.is_dir())]


@pytest.mark.parametrize(("owner", "other"), BOTH)
def test_a_study_is_private_unless_it_is_said(common: Path, owner: int, other: int) -> None:
    study = common / "study"
    assert run_as(owner, PEER, study, "--trials", 2) == (0, "")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders(study)} == {0o700}
    code, message = run_as(other, PEER, study, "--trials", 2, "--shared")
    assert code == 2 and "is owned by " in message and "Traceback" not in message


@pytest.mark.parametrize(("owner", "other"), BOTH)
def test_two_users_of_a_group_share_a_study(common: Path, owner: int, other: int) -> None:
    """Each does some of the trials, and either can go on after the other."""
    study = common / "study"
    assert run_as(owner, PEER, study, "--trials", 2, "--shared", "--only-create") == (0, "")
    assert run_as(other, PEER, study, "--trials", 2, "--shared") == (0, "")
    with Store.open(study, any_owner=True) as store:
        damaged = next(iter(store.records()))
    (study / "results" / f"{damaged}.json").write_bytes(b"no record")
    assert run_as(owner, PEER, study, "--trials", 2, "--shared") == (0, "")
    with Store.open(study, any_owner=True) as store:
        assert store.table() == fake.true_table(2)
        assert len(store.attempts(damaged)) == 2, "by one user each"
    for path in folders(study):
        state = path.stat()
        assert (stat.S_IMODE(state.st_mode), state.st_gid) == (0o2770, GROUP), path
    assert not any(path.stat().st_mode & stat.S_IRWXO for path in study.rglob("*"))


def test_nobody_else_gets_in(common: Path) -> None:
    study = common / "study"
    assert run_as(65534, PEER, study, "--trials", 1, "--shared") == (0, "")
    code, message = run_as(65533, PEER, study, "--trials", 1, "--shared", gid=STRANGERS)
    assert code == 2 and "is owned by " in message and "group 65532 only" in message
    with pytest.raises(UsageError, match="is owned by"):  # root is in no group of theirs
        Store.open(study)


def test_control_without_the_umask_a_member_cannot_work(common: Path) -> None:
    study = common / "study"
    alone = ["--trials", 1, "--shared", "--umask", "022"]
    assert run_as(65534, PEER, study, *alone, "--only-create") == (0, "")
    assert run_as(65533, PEER, study, *alone)[0] == 74


def test_each_says_that_it_is_shared(common: Path) -> None:
    study = common / "study"
    assert run_as(65534, PEER, study, "--trials", 1, "--shared") == (0, "")
    for uid in (65534, 65533):
        code, message = run_as(uid, PEER, study, "--trials", 1)
        assert code == 2 and "group 65532: write --shared" in message
    private = common / "private"
    assert run_as(65534, PEER, private, "--trials", 1) == (0, "")
    code, message = run_as(65534, PEER, private, "--trials", 1, "--shared")
    assert code == 2 and "begun without it" in message


def test_a_folder_of_a_group_is_not_made_a_study_by_accident(common: Path) -> None:
    place = common / "place"
    place.mkdir()
    place.chmod(0o2770)
    with pytest.raises(UsageError, match="write --shared"):
        check_shared(place, shared=False, exists=False)
    with pytest.raises(UsageError, match="write --shared"):
        fake.start(place, 1)
    assert not list(place.iterdir())


def test_a_link_in_the_place_of_a_part_is_refused_to_every_member(common: Path) -> None:
    """Who may write in a shared study cannot make another user write elsewhere."""
    study, elsewhere = common / "study", common / "elsewhere"
    assert run_as(65534, PEER, study, "--trials", 1, "--shared", "--only-create") == (0, "")
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    for part in ("plan", "results", "attempts", "lease", "log", "tmp"):
        place = study / part
        place.rename(study / ".kept")
        place.symlink_to(elsewhere)
        code, message = run_as(65533, PEER, study, "--trials", 1, "--shared")
        assert code == 2 and "symbolic link" in message, (part, message)
        assert not list(elsewhere.iterdir()), part
        place.unlink()
        (study / ".kept").rename(place)
    for part in ("cache", identity.REPORT):
        with pytest.raises(UsageError, match="symbolic link"):
            (study / part).rmdir()
            (study / part).symlink_to(elsewhere)
            plain_folder(study / part)


def reachable(uid: int) -> dict[str, str]:
    """A Python that user `uid` may run, and what it needs to find our packages; else a skip."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/{version}"):
        asked = subprocess.run(
            ["setpriv", f"--reuid={uid}", "--clear-groups", "sh", "-c", f"exec {python} -V"],
            capture_output=True,
        )
        if asked.returncode == 0:
            return {"python": python, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pytest.skip("no Python that another user may run: `run --shared` as two users NOT TESTED")


def test_two_users_and_nothing_is_loaded_from_the_folder(common: Path) -> None:
    """`batchcliff run --shared`: the second user adds a seed, and writes a report over that of
    the first, who has left modules in the folder that have names of Python's and of ours. The
    run is started right there, and has workers of its own: none is loaded."""
    study, found, trace = common / "study", reachable(65534), common / "trace"
    home = {"HOME": str(common), "PYTHONPATH": found["PYTHONPATH"], "python": found["python"]}
    command = ["-P", "-m", "batchcliff", "run", "digits", "--out", study, "--shared", *TINY]
    code, said = run_as(65534, *command, **home)
    assert code == 0 and "report:" in said, said
    for name in ("numpy", "torch", "sitecustomize", "usercustomize", "batchcliff", "random"):
        for place in (study, study / "cache"):
            (place / f"{name}.py").write_text(f"open({str(trace)!r}, 'w')\n")
    more = [*command, "--extend", "--seeds", "2"]
    code, said = run_as(65533, *more, cwd=study, **home)
    assert code == 0 and "[4/4]" in said, said
    assert (study / "report" / "index.html").stat().st_uid == 65533
    assert not trace.exists()
    run_as(65533, "-c", "import numpy", cwd=study, **home)
    assert trace.exists(), "the control: a careless Python loads one"
