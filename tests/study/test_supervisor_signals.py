"""Ctrl-C and its relatives: quickly over, resumable, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import fake_worker
import pytest
from patience import PATIENCE
from study_runs import (
    MARK,
    PATH,
    Told,
    accounted,
    all_gone,
    attempts,
    driver,
    fake_command,
    leases_are_free,
    marked,
    run,
    study_of,
)

from batchcliff.study.engines.local import Worker

FOREVER = 3600  # seconds: longer than any test


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1],
    ids=lambda number: number.name,
)
def test_a_signal_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "s"
    command = fake_command(folder, seeds=3, batch_sizes=[16], grace=FOREVER)
    stuck = json.dumps(dict.fromkeys(range(3), f"sleep {FOREVER}"))
    with driver(command, tmp_path / "1", FAULTS=stuck) as one:
        one.until("advanced", 2)
        one.process.send_signal(number)
        assert one.wait() == 128 + number, "and no grace is waited out"
        assert not one.workers(), "it has waited for its workers"
        assert all_gone(one.mark)
        assert one.events()[-1] == {"event": "ended", "exit_code": 128 + number, "text": ""}
        assert one.errors() == ""
    assert sorted(map(str, attempts(folder).values())) == [
        "['interrupted']", "['interrupted']", "[]"
    ]  # fmt: skip
    assert leases_are_free(folder)
    with driver(command, tmp_path / "2") as two:
        assert two.wait() == 0
    assert accounted(folder, 3) == {"ok": 3}
    assert sorted(map(len, attempts(folder).values())) == [1, 2, 2]


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.2])
def test_a_second_ctrl_c_changes_nothing(tmp_path: Path, pause: float) -> None:
    folder = tmp_path / "s"
    command = fake_command(folder, seeds=3, batch_sizes=[16])
    with driver(command, tmp_path / "1", PAUSE=f"{FOREVER}") as one:
        one.until("trial_started", 2)
        for _ in range(3):
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGINT)
            time.sleep(pause)
        # A late one meets Python on its way out, which also means "interrupted".
        assert one.wait() in (130, -signal.SIGINT), one.errors()
        assert all_gone(one.mark)
    assert leases_are_free(folder)
    with driver(command, tmp_path / "2") as two:
        assert two.wait() == 0
    accounted(folder, 3)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.usefixtures("fake_workers")
def test_two_signals_at_once_save_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The second comes before the run has even looked at the first; with one, the control,
    workers that are deaf to it have their time."""
    monkeypatch.setenv("FAULTS", json.dumps(dict.fromkeys(range(3), f"sleep {FOREVER}")))
    monkeypatch.setenv("DEAF", "1")

    class Impatient(Told):
        def advanced(self, trial_id: str, update: int, updates: int, rate: float) -> None:
            super().advanced(trial_id, update, updates, rate)
            if len(self.of("advanced")) == 1:
                for _ in range(times):
                    signal.raise_signal(signal.SIGTERM)

    told = Impatient()
    summary = run(study_of(seeds=3, batch_sizes=(16,)), tmp_path / "s", told, grace=0.5)
    assert summary.exit_code == 143
    assert ("saving what is being trained" in told.notes) == (times == 1)
    assert leases_are_free(tmp_path / "s")


def test_a_signal_while_the_worker_starts(tmp_path: Path) -> None:
    """A stopped worker never gets ready; the run ends all the same."""
    start = f'{{"signal": {signal.SIGSTOP.value}, "unless": "{tmp_path / "been-here"}"}}'
    command = fake_command(tmp_path / "s", seeds=3, workers=1, grace=0.5)
    with driver(command, tmp_path / "1", START=start) as one:
        one.until("trial_started")
        one.meets((tmp_path / "been-here").exists)
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == 143
        assert not one.workers()
        assert all_gone(one.mark)


def test_who_ignores_hangups_goes_on(tmp_path: Path) -> None:
    """`nohup batchcliff run ...`; no trial ends before the signal."""
    command = fake_command(tmp_path / "s", seeds=3, batch_sizes=[16])
    sent = tmp_path / "sent"
    held = json.dumps(dict.fromkeys(range(3), f"await {sent}"))
    with driver(["nohup", *command], tmp_path / "1", FAULTS=held) as one:
        one.until("trial_started")
        one.process.send_signal(signal.SIGHUP)
        sent.touch()
        assert one.wait() == 0, one.errors()
    assert accounted(tmp_path / "s", 3) == {"ok": 3}


def test_handlers_are_put_back_and_threads_can_run_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    study, codes = study_of(seeds=2, batch_sizes=(16,)), []
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    codes.append(run(study, tmp_path / "a").exit_code)
    assert before == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ]
    thread = threading.Thread(target=lambda: codes.append(run(study, tmp_path / "b").exit_code))
    thread.start()
    thread.join(PATIENCE)
    assert codes == [0, 0]


def test_a_signal_in_this_process_is_a_summary_and_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python: exit code 130 in the summary, and the caller's session goes on."""
    mark = uuid.uuid4().hex
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("FAULTS", json.dumps(dict.fromkeys(range(2), f"sleep {FOREVER}")))

    class Impatient(Told):
        def advanced(self, trial_id: str, update: int, updates: int, rate: float) -> None:
            if update == 1:  # once
                os.kill(os.getpid(), signal.SIGINT)

    study = study_of(seeds=2, batch_sizes=(16,))
    summary = run(study, tmp_path / "s", Impatient(), workers=1)
    assert (summary.exit_code, summary.missing) == (130, 2)
    assert not marked(mark), "it has waited for its workers"
    assert leases_are_free(tmp_path / "s")
    monkeypatch.delenv("FAULTS")
    assert run(study, tmp_path / "s").exit_code == 0


def test_ctrl_c_typed_at_a_terminal(tmp_path: Path) -> None:
    """The whole command line with a real worker in training. The terminal sends SIGINT to
    its foreground processes; the worker is in a session of its own and does not get it."""
    mark, folder = uuid.uuid4().hex, tmp_path / "s"
    ours, theirs = pty.openpty()
    at_terminal = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from batchcliff.cli import main; sys.argv[0] = 'batchcliff'; main()"
    )
    environment = {**os.environ, MARK: mark, "TERM": "xterm", "PYTHONPATH": PATH}
    process = subprocess.Popen(
        [
            sys.executable, "-c",
            at_terminal,
            "run", "digits", "--out", str(folder), "--budget", "5000ep", "--workers", "1",
            "--batch-sizes", "32", "--device", "cpu",
        ],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment,
    )  # fmt: skip
    os.close(theirs)
    screen, typed = b"", False
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    more = os.read(ours, 1 << 16)
                except OSError:  # the other end is closed
                    break
                screen += more
            if not typed and b" updates" in screen:  # a trial's line: it trains
                os.write(ours, b"\x03")
                typed = True
        assert typed and process.wait(PATIENCE) == 130, screen
        assert all_gone(mark)
        assert b"Traceback" not in screen
        assert b"run digits" in screen, "how to go on"
        assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l"), "the cursor is back"
    finally:
        for pid in {process.pid, *marked(mark)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        os.close(ours)
    ends = [why for whys in attempts(folder).values() for why in whys]
    assert ends and set(ends) == {"interrupted"}
    assert leases_are_free(folder)
