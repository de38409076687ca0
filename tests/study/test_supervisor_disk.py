"""A disk that is full or read-only: exit code 74, nothing half-written, resumable.

File systems of its own in a user namespace, so that no root is needed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from study_runs import PATH, PATIENCE, fake_command

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
        timeout=2 * PATIENCE,
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
    run = shlex.join(fake_command(Path("/mnt/s"), seeds=8))
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


def test_a_read_only_disk(tmp_path: Path) -> None:
    """Before the study begins, and when it goes on."""
    run = shlex.join(fake_command(Path("/mnt/s"), seeds=2))
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
        find /mnt -type f | sort | xargs sha256sum > {tmp_path}/after
        mount -o remount,rw /mnt
        {run} > /dev/null; echo $?
    """)
    assert done.stdout.split() == ["74", "0", "74", "0"], done
    assert done.stderr.count("Read-only file system") == 2
    assert "Traceback" not in done.stderr
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text() != ""
