"""The store under a real kernel: injected faults, full and read-only disks, other users."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import fake_peer as fake
import pytest
from sizes import size

from batchcliff.errors import UsageError
from batchcliff.study.store import Store

TRIALS = 2
TRUTH = fake.true_table(TRIALS)
PROGRAM = str(Path(fake.__file__))
POINTS = size("injections")  # for each fate
CALLS = (
    "mkdir,mkdirat,openat,write,fsync,link,linkat,unlink,unlinkat,rename,renameat,flock,close,"
    "getdents64,newfstatat"
)

FATES = ("signal=SIGKILL", "error=ENOSPC", "error=EIO", "error=EDQUOT", "error=EROFS")

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is missing: faults by the kernel NOT TESTED"
)
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="not root, or no setpriv: other users NOT TESTED",
)


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = "mount -t tmpfs -o size=64k none /mnt"
    return (
        subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode
        == 0
    )


needs_mounts = pytest.mark.skipif(
    not can_unshare(), reason="unshare -Urm is not allowed: real full disks NOT TESTED"
)


# --- faults injected by the kernel ---


def under(
    zygote: fake.Zygote,
    folder: Path,
    calls: str,
    inject: str = "",
    trace: str = "/dev/null",
    more: tuple[str, ...] = (),
) -> int:
    """The exit status of a peer on `folder`, under strace from its first own call on."""
    pid = zygote.start(folder, "--trials", TRIALS, "--stop", *more)
    await_line(pid, "State:", "T")
    options = ["-e", f"inject={inject}"] if inject else []
    strace = subprocess.Popen(
        ["strace", "-q", "-f", "-p", str(pid), "-e", f"trace={calls}", *options, "-o", trace],
        stderr=subprocess.PIPE,
    )
    while status(pid, "TracerPid:") == "0":
        if strace.poll() is not None:
            os.kill(pid, signal.SIGKILL)
            zygote.wait(pid)
            pytest.skip(f"strace may not attach, NOT TESTED: {strace.communicate()[1]!r}")
        time.sleep(0.001)
    os.kill(pid, signal.SIGCONT)
    code = zygote.wait(pid)
    strace.communicate()
    return code


def await_line(pid: int, key: str, value: str) -> None:
    while status(pid, key)[:1] != value:
        time.sleep(0.001)


def status(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return line.split(":")[1].strip()
    return ""


def injections(zygote: fake.Zygote, folder: Path) -> list[tuple[str, int]]:
    """(system call, which one) of everything that a whole small study does."""
    trace = folder / "trace"
    assert under(zygote, folder / "whole", CALLS, trace=str(trace)) == 0
    counts: Counter[str] = Counter()
    for line in trace.read_text().splitlines():
        name = line.split(maxsplit=1)[-1].partition("(")[0]
        counts[name] += 1
    points = [(name, n + 1) for name in CALLS.split(",") for n in range(counts[name])]
    assert len(points) > 150
    every = max(1, len(points) // POINTS)
    return points[::every]


def finishes(folder: Path) -> bool:
    """The same command again ends the study as if nothing had happened."""
    with fake.start(folder, TRIALS) as store:
        clean = all(record is not None for record in store.records().values())
        fake.work(store)
        return clean and store.table() == TRUTH and store.quarantined == ()


@pytest.mark.timeout(7200)
@needs_strace
@pytest.mark.parametrize("fate", FATES)
def test_faults_by_the_kernel_at_every_call(zygote, memory: Path, fate: str) -> None:
    codes: Counter[int] = Counter()
    for call, n in injections(zygote, memory):
        folder = memory / f"{call}{n}"
        code = under(zygote, folder, call, f"{call}:{fate}:when={n}")
        codes[code] += 1
        assert code in ((0, 137) if "signal" in fate else (0, 74)), (call, n, code)
        assert finishes(folder), (call, n)
    assert codes[137 if "signal" in fate else 74] > 0.6 * codes.total(), codes


@needs_strace
def test_control_publishing_in_place_fails_that(zygote, memory: Path) -> None:
    bad = 0
    for n in range(10, 22):
        folder = memory / str(n)
        broken = ("--broken", "in-place")
        under(zygote, folder, "write", f"write:signal=SIGKILL:when={n}", more=broken)
        bad += not finishes(folder)
    assert bad > 0


# --- a disk that is really full, or read only ---


FULL = """
set -e
mount -t tmpfs -o size=300k none "$DIR"
head -c 100k /dev/zero > "$DIR/ballast"
set +e
run() { "$PYTHON" "$PEER" "$DIR/study" --trials 100 "$@"; echo $? >>"$OUT/codes"; }
run --need 100000000 2>"$OUT/refused"
run 2>"$OUT/first"
run 2>"$OUT/second"
ls "$DIR/study/results" | wc -l >"$OUT/left"
ls "$DIR/study/tmp" | wc -l >"$OUT/temporary"
mount -o remount,size=8m "$DIR"
run
cp -r "$DIR/study" "$OUT/study"
"""


def unshared(script: str, tmp_path: Path, **more: str) -> Path:
    place, out = tmp_path / "mounted", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    names = {"DIR": str(place), "OUT": str(out), "PEER": PROGRAM, "PYTHON": sys.executable}
    environment = {**os.environ, **names, **more}
    subprocess.run(["unshare", "-Urm", "sh", "-c", script], env=environment, check=True)
    return out


@needs_mounts
def test_a_full_disk_stops_the_study_and_a_bigger_one_ends_it(tmp_path: Path) -> None:
    out = unshared(FULL, tmp_path)
    assert (out / "codes").read_text().split() == ["74", "74", "74", "0"]
    assert "needs 100.0 MB, has 0." in (out / "refused").read_text()
    for run in ("first", "second"):
        message = (out / run).read_text()
        assert os.strerror(errno.ENOSPC) in message and "MB in" in message, message
        assert "can be resumed" in message and "Traceback" not in message
    assert 0 < int((out / "left").read_text()) < 100
    assert int((out / "temporary").read_text()) == 0
    with Store.open(out / "study") as store:
        assert store.table() == fake.true_table(100) and store.quarantined == ()


READ_ONLY = """
set -e
mount -t tmpfs none "$DIR"
"$PYTHON" "$PEER" "$DIR/study" --trials 2
echo bad > "$DIR/study/results/$VICTIM.json"
mount -o remount,ro "$DIR"
set +e
"$PYTHON" "$PEER" "$DIR/study" --trials 2 2>"$OUT/run"; echo $? >>"$OUT/codes"
"$PYTHON" "$PEER" "$DIR/new" --trials 2 2>"$OUT/new"; echo $? >>"$OUT/codes"
"$PYTHON" -c 'import sys; from batchcliff.study.store import Store
with Store.open(sys.argv[1]) as s: print(len(s.records()), s.quarantined, len(s.missing()))
' "$DIR/study" >"$OUT/read" 2>&1; echo $? >>"$OUT/codes"
"""


@needs_mounts
def test_a_read_only_disk_is_read_but_not_run(tmp_path: Path) -> None:
    victim = fake.specs_of(fake.study_of(2))[0].trial_id
    out = unshared(READ_ONLY, tmp_path, VICTIM=victim)
    assert (out / "codes").read_text().split() == ["74", "74", "0"]
    for run in ("run", "new"):
        assert os.strerror(errno.EROFS) in (out / run).read_text()
    read = (out / "read").read_text()
    assert read.startswith("1 (Quarantined(") and read.endswith("kept=None),) 1\n"), read


# --- other users ---


@pytest.fixture
def common():
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def run_as(uid: int, *arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", "--clear-groups", sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@needs_root
@pytest.mark.parametrize(("owner", "other"), [(65534, 65533), (65533, 65534), (0, 65534)])
def test_the_study_of_another_user_is_refused(common: Path, owner: int, other: int) -> None:
    folder = common / "study"
    assert run_as(owner, PROGRAM, folder, "--trials", 2) == (0, "")
    code, message = run_as(other, PROGRAM, folder, "--trials", 2)
    assert code == 2 and "is owned by " in message
    assert "Traceback" not in message


@needs_root
def test_root_is_another_user_too(common: Path) -> None:
    folder = common / "study"
    assert run_as(65534, PROGRAM, folder, "--trials", 2) == (0, "")
    with pytest.raises(UsageError, match="is owned by"):
        Store.open(folder)
    with pytest.raises(UsageError, match="is owned by"):
        fake.start(folder, 2)
    with Store.open(folder, any_owner=True) as store:
        assert store.table() == TRUTH


@needs_root
def test_a_folder_without_permission_is_exit_74_and_still_readable(common: Path) -> None:
    folder = common / "study"
    assert run_as(65534, PROGRAM, folder, "--trials", 2, "--only-create") == (0, "")
    paths = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in paths:
        path.chmod(0o500)
    code, message = run_as(65534, PROGRAM, folder, "--trials", 2)
    assert code == 74 and os.strerror(errno.EACCES) in message and str(folder) in message
    read = (
        "import sys; from batchcliff.study.store import Store as S; S.open(sys.argv[1]).table()"
    )
    assert run_as(65534, "-c", read, folder) == (0, "")
    code, message = run_as(65534, PROGRAM, folder / "inner/study", "--trials", 2)
    assert code == 74 and os.strerror(errno.EACCES) in message
    with contextlib.suppress(OSError):
        for path in paths:
            path.chmod(0o700)
