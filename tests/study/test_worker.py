"""The worker process: what it is given, what it says, and when it ends."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import fake_worker
import pytest
from patience import PATIENCE, until
from study_runs import Told, run, study_of

from batchcliff.study.engines.local import HEADER, Worker, end_of_process
from batchcliff.study.worker import Channel, is_out_of_memory


@pytest.fixture
def ends() -> tuple[socket.socket, Channel]:
    ours, theirs = socket.socketpair()
    with ours:
        channel = Channel(theirs.detach())
        yield ours, channel
        channel.socket.close()


def test_a_message_arrives_whole_with_its_leases(
    ends: tuple[socket.socket, Channel], tmp_path: Path
) -> None:
    """In pieces, with a NaN; the leases do not go on to what the worker itself starts."""
    ours, channel = ends
    body = json.dumps({"x": {"$float": "nan"}, "y": ["é"] * 1000}).encode()
    data = HEADER.pack(len(body)) + body
    with (tmp_path / "lease").open("w") as lease:
        socket.send_fds(ours, [data[:1]], [lease.fileno()])
        ours.sendall(data[1:3])
        ours.sendall(data[3:])
        received = channel.receive()
        assert received is not None
        message, (held,) = received
        assert message["x"] != message["x"] and message["y"] == ["é"] * 1000
        assert os.path.samestat(os.fstat(held), os.fstat(lease.fileno()))
        assert not os.get_inheritable(held)
        os.close(held)


@pytest.mark.parametrize("sent", [b"", b"\0\0", HEADER.pack(10), HEADER.pack(10) + b"{"])
def test_a_driver_that_is_gone_is_the_end(
    ends: tuple[socket.socket, Channel], sent: bytes
) -> None:
    """Also in the middle of a message."""
    ours, channel = ends
    ours.sendall(sent)
    ours.close()
    assert channel.receive() is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)  # fmt: skip
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    try:
        raise KeyError("a wrapper, as of torch.compile") from error
    except KeyError as wrapper:
        assert is_out_of_memory(wrapper) is expected


def test_torchs_own_errors_count_as_out_of_memory() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_how_a_process_ended_is_named() -> None:
    assert end_of_process(7) == "exit status 7"
    assert end_of_process(-11) == "SIGSEGV"
    assert end_of_process(None) == "cannot be killed"


def test_a_worker_whose_driver_is_gone_before_it_starts_is_killed() -> None:
    """The race of PR_SET_PDEATHSIG: the parent died before the request."""
    code = "from batchcliff.study.worker import die_with; die_with(1); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
    code = code.replace("die_with(1)", f"die_with({os.getpid()})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"alive\n")


def test_a_worker_that_is_hung_up_on_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    assert Worker({}).close(grace=PATIENCE) == 0


def test_a_worker_that_does_not_leave_is_killed_with_its_helpers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And with those of a worker that has left: nothing of it goes on computing."""
    script = f"sleep 3600 & echo $! > {tmp_path}/helper; "
    stays, leaves = (script + "wait", 0.5, -signal.SIGKILL), (script + "exit 3", PATIENCE, 3)
    for command, grace, status in (stays, leaves):
        # A worker makes a session of its own as soon as it lives.
        own = f"import os; os.setsid(); os.execv('/bin/sh', ['sh', '-c', {command!r}])"
        monkeypatch.setattr(Worker, "command", (sys.executable, "-c", own))
        worker = Worker({})
        helper = tmp_path / "helper"
        until(functools.partial(_is_told, helper), worker.tail)
        pid = int(helper.read_text())
        helper.unlink()
        assert worker.close(grace) == status
        until(functools.partial(_is_gone, pid))


def _is_told(file: Path) -> bool:
    return file.exists() and file.read_text().endswith("\n")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_strangers_folder_is_not_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A real worker: one thread, no torch.py of the current folder, a quiet standard output,
    a session of its own, no descriptor of the driver's, nothing of the first job's leases."""
    for name in ("torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a run adds the current folder to it
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    faults = {0: "noise", 1: f"look {tmp_path / 'seen.json'}"}
    monkeypatch.setenv("FAULTS", json.dumps(faults))
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        study = study_of(seeds=2, batch_sizes=(16,))
        assert run(study, tmp_path / "s", Told(), workers=1).exit_code == 0
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["torch_threads"] == 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert seen["environment"][name] == "1"
    assert seen["session"] == seen["pid"] != os.getsid(0)
    assert seen["parent"] == os.getpid()
    held = [place for place in seen["descriptors"].values() if str(tmp_path) in place]
    assert [Path(place).parent.name for place in held] == ["lease"], "of its one trial"
    assert capfd.readouterr() == ("", "")
