"""A disk that is full or read-only: exit code 74, nothing half-written, resumable.

File systems of its own in a user namespace, so that no root is needed.
"""

from __future__ import annotations

import errno
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE
from study_runs import PATH, attempts, fake_command, outcomes, run, study_of

from batchcliff.errors import StorageError
from batchcliff.study import checkpoints, files

CHECK = """
import sys, json
from pathlib import Path
from study_runs import accounted, leases_are_free, marked, table
from batchcliff.study.store import Store
folder = Path(sys.argv[1])
with Store.open(folder) as store:
    records, torn = store.records(), store.quarantined
ends = [end for p in (folder / "attempts").rglob("*.end") for end in [p.read_text()]]
print(json.dumps([len(records), len(torn), leases_are_free(folder), table(folder).decode()]))
"""


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """A shell that may mount; what it mounts is gone with it."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-e", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": PATH},
    )
    return done


@pytest.fixture(scope="module", autouse=True)
def can_mount() -> None:
    done = in_namespace("mount -t tmpfs none /mnt")
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount in a user namespace: {done.stderr}")


def test_a_full_disk(tmp_path: Path) -> None:
    """Filled while the study runs: 74 and what is needed; with room again the same command
    goes on, and the table is that of a run on a large disk."""
    run = shlex.join(fake_command(Path("/mnt/s"), seeds=8, room=0))
    check = shlex.join([sys.executable, "-c", CHECK, "/mnt/s"])
    whole = shlex.join(fake_command(tmp_path / "whole", seeds=8))
    checked = shlex.join([sys.executable, "-c", CHECK, str(tmp_path / "whole")])
    done = in_namespace(f"""
        mount -t tmpfs -o size=120k none /mnt
        set +e
        {run} > {tmp_path}/first 2> {tmp_path}/first.err; echo $?
        mount -o remount,size=144k /mnt
        {run} > {tmp_path}/second 2> {tmp_path}/second.err; echo $?
        mount -o remount,size=8m /mnt
        {check}
        {run} > {tmp_path}/third; echo $?
        {check}
        {whole} > {tmp_path}/fourth; echo $?
        {checked}
    """)
    lines = done.stdout.splitlines()
    assert len(lines) == 7, done.stderr
    assert lines[:2] == ["74", "74"], done
    error = (tmp_path / "first.err").read_text()
    assert "No space left on device" in error and "MB" in error and "resumed" in error
    assert "Traceback" not in error, error
    some, torn, free, _ = json.loads(lines[2])
    assert 0 < some < 16 and not torn and free
    assert lines[3] == "0"
    count, torn, free, table = json.loads(lines[4])
    assert (count, torn, free) == (16, 0, True)
    assert table == json.loads(lines[6])[3]
    assert "failed" not in table


def test_a_disk_that_is_too_full_to_begin(tmp_path: Path) -> None:
    """Exit code 74 with what is needed and what there is, before any trial; nothing is called
    failed, and with room the same command runs."""
    run = shlex.join(fake_command(Path("/mnt/s"), seeds=2))
    done = in_namespace(f"""
        mount -t tmpfs -o size=60m none /mnt
        set +e
        {run} > /dev/null; echo $?
        find /mnt/s/attempts /mnt/s/results -type f
        mount -o remount,size=70m /mnt
        {run} > /dev/null; echo $?
    """)
    assert done.stdout.split() == ["74", "0"], done
    needs, has = map(
        float, re.findall(r"needs ([\d.]+) MB, has ([\d.]+) MB in", done.stderr)[0]
    )
    assert needs == 64.0 and 55 < has < 64, done.stderr


def test_room_for_two_checkpoints_of_each_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real worker says how large one will be before its first update; the disk that has
    room for the records, and not for that, is refused, and the trial is nobody's failure."""
    study, least = study_of(seeds=1, batch_sizes=(16,)), checkpoints.LEAST_ROOM
    monkeypatch.setattr(files, "free_bytes", lambda _: least + 1)
    with pytest.raises(StorageError, match=r"needs 64\.\d MB, has 64\.0 MB") as error:
        run(study, tmp_path / "s", workers=1)
    assert error.value.errno == errno.ENOSPC
    assert outcomes(tmp_path / "s") == {} and attempts(tmp_path / "s") == {0: ["storage"]}
    monkeypatch.setattr(files, "free_bytes", lambda _: least)
    assert run(study, tmp_path / "s", workers=1, checkpoint_every=0).exit_code == 0


def test_a_read_only_disk(tmp_path: Path) -> None:
    """Before the study begins, and when it goes on; a report is written elsewhere."""
    run = shlex.join(fake_command(Path("/mnt/s"), seeds=2, room=0))
    cli = shlex.join([sys.executable, "-m", "batchcliff"])
    done = in_namespace(f"""
        mount -t tmpfs -o size=8m none /mnt
        mount -o remount,ro /mnt
        set +e
        {run}; echo $?
        ls /mnt
        mount -o remount,rw /mnt
        {run} > /dev/null; echo $?
        rm $(ls /mnt/s/results/*.json | head -n 1)
        find /mnt -type f | sort | xargs sha256sum > {tmp_path}/before
        mount -o remount,ro /mnt
        {run} > /dev/null; echo $?
        {cli} report /mnt/s --out {tmp_path}/report > /dev/null; echo $?
        {cli} report /mnt/s 2> {tmp_path}/refused > /dev/null; echo $?
        {cli} status /mnt/s > /dev/null; echo $?
        {cli} export /mnt/s > /dev/null; echo $?
        find /mnt -type f | sort | xargs sha256sum > {tmp_path}/after
        mount -o remount,rw /mnt
        {run} > /dev/null; echo $?
    """)
    assert done.stdout.split() == ["74", "0", "74", "0", "74", "0", "0", "0"], done
    assert "Read-only file system" in (tmp_path / "refused").read_text()
    assert (tmp_path / "report" / "index.html").exists()
    assert done.stderr.count("Read-only file system") == 2
    assert "Traceback" not in done.stderr
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text() != ""
