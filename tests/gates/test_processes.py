"""Processes: signals at any moment, odd places, hangs, and a host without memory."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_worker
import numpy as np
import pytest
from hangs import hangs_after, wait_for_stacks
from sizes import parts
from study_runs import (
    Told,
    accounted,
    all_gone,
    attempts,
    driver,
    fake_command,
    leases_are_free,
    outcomes,
    run,
    study_of,
    table,
)

from batchcliff.record import TrialRecord
from batchcliff.study import jobs as jobs_module
from batchcliff.study import retries
from batchcliff.study.engines.local import Worker
from batchcliff.study.jobs import Busy
from batchcliff.study.store import Store

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
TRIALS = 6
SPLITS = ("train", "test")
FOREVER = 3600  # seconds: longer than any test


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("expected")
    with driver(
        fake_command(folder / "s", seeds=TRIALS, batch_sizes=[16]), folder / "o"
    ) as one:
        assert one.wait() == 0, one.errors()
    return table(folder / "s")


def finishes(folder: Path, output: Path, expected: bytes) -> None:
    """The oracle O of the page: one more run, and nothing has happened."""
    with driver(fake_command(folder, seeds=TRIALS, batch_sizes=[16]), output) as last:
        assert last.wait() == 0, last.errors()
        assert all_gone(last.mark)
    assert accounted(folder, TRIALS) == {"ok": TRIALS}
    assert table(folder) == expected
    assert leases_are_free(folder)


# --- signals at any moment ------------------------------------------------------------------


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("part", "signals"), parts("signals"))
def test_a_signal_at_any_moment(
    tmp_path: Path, expected: bytes, part: int, signals: int
) -> None:
    """INT, TERM, HUP or USR1, some of them twice, again and again in one study: the exit code
    says which, no grace is waited out, and O. One trial does not end by itself, so that no
    run is over before its signal."""
    rng, number = random.Random(6 + part), 0
    endless = json.dumps({str(TRIALS - 1): f"sleep {FOREVER}"})
    for _ in range(signals):
        folder, signal_ = tmp_path / f"s{number}", rng.choice(SIGNALS)
        command = fake_command(folder, seeds=TRIALS, batch_sizes=[16], grace=FOREVER)
        with driver(command, tmp_path / "out", PAUSE="0.02", FAULTS=endless) as one:
            early, twice = rng.random() < 0.2, rng.random() < 0.3
            one.until("started" if early else "trial_started")
            time.sleep(rng.uniform(0, 0.4))
            one.process.send_signal(signal_)
            if twice:
                time.sleep(rng.uniform(0, 0.1))
                with contextlib.suppress(ProcessLookupError):
                    one.process.send_signal(signal_)
            code = one.wait()
            # Python's own answer, where ours was not yet or no longer in place.
            answers = {128 + signal_} | ({-signal_} if early or twice else set())
            assert code in answers, (code, one.errors())
            assert "Traceback" not in one.errors() or code < 0, one.errors()
            assert all_gone(one.mark)
        if len(list((folder / "results").iterdir())) == TRIALS - 1:
            finishes(folder, tmp_path / "last", expected)
            number += 1
    finishes(tmp_path / f"s{number}", tmp_path / "last", expected)


def ended_by(
    signals: tuple[signal.Signals, ...], grace: float, folder: Path, output: Path
) -> tuple[int, float]:
    """The exit code of a run whose two workers are deaf to being asked to leave, and the
    seconds from the first of `signals` to its end; each is sent once the one before it is
    heard."""
    command = fake_command(folder, seeds=TRIALS, batch_sizes=[16], grace=grace)
    stuck = json.dumps(dict.fromkeys(range(TRIALS), f"sleep {FOREVER}"))
    with driver(command, output, FAULTS=stuck, DEAF="1") as one:
        one.until("advanced", 2)
        began = time.monotonic()
        for number in signals:
            one.process.send_signal(number)
            one.until("note")  # "saving what is being trained"
        code, seconds = one.wait(), time.monotonic() - began
        assert all_gone(one.mark)
    assert leases_are_free(folder)
    return code, seconds


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    """The second one, while the first waits for workers that stay, is not waited for: neither
    are they."""
    code, _ = ended_by((signal.SIGINT,) * 2, FOREVER, tmp_path / "s", tmp_path / "o")
    assert code in (130, -signal.SIGINT)


def test_an_update_that_is_longer_than_the_grace_is_not_waited_for(
    tmp_path: Path, expected: bytes
) -> None:
    """F22: killed at the deadline, not before it, and O."""
    code, seconds = ended_by((signal.SIGTERM,), 2.0, tmp_path / "s", tmp_path / "o")
    assert code == 143
    assert seconds > 2.0
    whys = [why for ends in attempts(tmp_path / "s").values() for why in ends]
    assert whys == ["interrupted"] * 2, "no attempt is used up"
    finishes(tmp_path / "s", tmp_path / "last", expected)


def test_an_odd_folder_and_the_c_locale_change_nothing(tmp_path: Path, expected: bytes) -> None:
    """Accents, another script, a line break, quotes, and bytes that are no text."""
    folder = tmp_path / "st\u00fcdy \u6570\u636e\n' \"" / os.fsdecode(b"\xff")
    command = fake_command(folder, seeds=TRIALS, batch_sizes=[16])
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with driver(command, tmp_path / "out", **plain) as one:
        assert one.wait() == 0, one.errors()
    assert accounted(folder, TRIALS) == {"ok": TRIALS}
    assert table(folder) == expected
    for path in folder.rglob("*"):
        assert path.name.isascii(), path


def test_the_command_line_in_an_odd_folder(tmp_path: Path) -> None:
    """With a real worker, a report and data by an odd path, in the C locale: the same table."""
    odd = tmp_path / "st\u00fcdy \u6570\u636e\n' \"" / os.fsdecode(b"\xff")
    odd.mkdir(parents=True)
    rng = np.random.default_rng(3)
    np.savez(
        odd / "x.npz",
        **{f"x_{split}": rng.integers(0, 256, (32, 8, 8, 3), np.uint8) for split in SPLITS},
        **{f"y_{split}": np.arange(32) % 2 for split in SPLITS},
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    tables = []
    for folder, environment in ((odd / "s", plain), (tmp_path / "s", {})):
        words = ["run", "digits", "--set", "data=images", "--data", str(odd / "x.npz")]
        words += ["--out", str(folder), "--seeds", "1", "--batch-sizes", "8"]
        words += ["--budget", "2ep", "--set", "arms.warmup.warmup.duration=1ep"]
        words += ["--workers", "1", "--device", "cpu"]
        command = [sys.executable, "-m", "batchcliff", *words]
        with driver(command, tmp_path / "out", **environment) as one:
            assert one.wait() == 0, one.errors()
            assert "Traceback" not in one.errors()
        assert (folder / "report" / "index.html").exists()
        assert accounted(folder, 2) == {"ok": 2}
        tables.append(table(folder))
    assert tables[0] == tables[1]


# --- hangs ----------------------------------------------------------------------------------


Hears = Callable[[Busy, Mapping[str, Any]], None]


def heartbeats(monkeypatch: pytest.MonkeyPatch, seconds: float, hears: Hears) -> None:
    """The worker of seed 1 says the same again and again for `seconds`, twenty times in each;
    and the watch, which waits for 2.5, counts by that clock: however slow the machine is."""
    now = [time.monotonic()]

    def heard(self: Busy, message: Mapping[str, Any]) -> None:
        now[0] += 1 / 20
        hears(self, message)

    monkeypatch.setattr(jobs_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Busy, "hears", heard)
    hangs_after(monkeypatch, 2.5, seed=1, met=lambda: True)
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("FAULTS", json.dumps({"1": "heartbeat"}))
    monkeypatch.setenv("HEARTBEAT_SECONDS", str(seconds))


def test_a_heartbeat_is_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that goes on saying the same hangs all the same."""
    heartbeats(monkeypatch, FOREVER, Busy.hears)
    assert run(study_of(seeds=2, batch_sizes=(16,)), tmp_path / "s").exit_code == 3
    assert outcomes(tmp_path / "s") == {0: "ok", 1: "failed"}
    assert attempts(tmp_path / "s")[1] == ["hung"]


def test_control_a_watchdog_that_hears_anything_is_fooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hears(self: Busy, message: Mapping[str, Any]) -> None:
        self.heard = jobs_module.time.monotonic()

    heartbeats(monkeypatch, 2 * 2.5, hears)
    assert run(study_of(seeds=2, batch_sizes=(16,)), tmp_path / "s").exit_code == 0
    assert attempts(tmp_path / "s")[1] == ["done"]


def test_where_a_worker_hung_is_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real worker that sleeps in its network's code: its stack is dumped before the kill."""
    there = tmp_path / "there"
    hangs_after(monkeypatch, 0.5, seed=0, met=there.exists)
    wait_for_stacks(monkeypatch, "misbehave")
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("FAULTS", json.dumps({"0": f"stay {there}"}))
    told = Told()
    summary = run(study_of(seeds=1, batch_sizes=(16,)), tmp_path / "s", told, workers=1)
    assert (summary.exit_code, summary.counts) == (3, {"failed": 1})
    record: TrialRecord = told.of("finished")[0][2]
    assert record.reason.startswith("the worker hung while preparing\n")
    assert "misbehave" in record.reason and "faulty.py" in record.reason
    with Store.open(tmp_path / "s") as store:
        (hung,) = [event for event in store.events()[0] if event["event"] == "hung"]
    assert "most recent call first" in hung["tail"]


# --- memory of the host ---------------------------------------------------------------------


def test_an_allocation_that_the_host_refuses_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real limit (RLIMIT_AS) on a worker that wants more: `oom`, and the others go on."""
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setenv("FAULTS", json.dumps({"1": "hungry"}))
    study = study_of(seeds=3, batch_sizes=(16,))
    assert run(study, tmp_path / "s").exit_code == 0
    assert outcomes(tmp_path / "s") == {0: "ok", 1: "oom", 2: "ok"}
    assert attempts(tmp_path / "s")[1] == ["interrupted"], "it uses no attempt up"


@pytest.fixture
def small_group() -> Iterator[Path]:
    """The list of processes of a control group whose memory the kernel limits to 256 MB."""
    root = Path("/sys/fs/cgroup")
    legacy = root / "memory"
    place = (legacy if legacy.is_dir() else root) / f"batchcliff-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if legacy.is_dir() else "memory.max"
    try:
        place.mkdir()
        (place / limit).write_text(str(256 << 20))
    except OSError as error:
        with contextlib.suppress(OSError):
            place.rmdir()
        pytest.skip(f"NOT TESTED: this machine lets nobody make a control group: {error}")
    yield place / "cgroup.procs"
    for _ in range(100):  # who was killed in there may need a moment to be gone
        with contextlib.suppress(OSError):
            place.rmdir()
            break
        time.sleep(0.05)


def test_a_worker_that_the_kernel_kills_for_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_group: Path
) -> None:
    """Really: SIGKILL, no word, and the kernel's count has grown. Once more, alone; then
    `oom`, and no attempt is used up. The others go on."""
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setenv("FAULTS", json.dumps({"1": f"devour {small_group}"}))
    told = Told()
    study = study_of(seeds=3, batch_sizes=(16,), base=0.1)
    assert run(study, tmp_path / "s", told).exit_code == 0
    assert outcomes(tmp_path / "s") == {0: "ok", 1: "oom", 2: "ok"}
    assert set(attempts(tmp_path / "s")[1]) == {"interrupted"}
    reasons = [event[2].reason for event in told.of("finished")]
    assert [r for r in reasons if r] == [
        "the kernel killed the worker for lack of memory; it ran alone"
    ]


def test_torchs_allocator_under_a_limit_is_out_of_memory() -> None:
    """What torch raises when the kernel says no to a size that it would give otherwise."""
    code = (
        "import resource, torch\n"
        "from batchcliff.study.worker import is_out_of_memory\n"
        "most = 1 << 36\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "try:\n    torch.empty(most, dtype=torch.uint8)\n"
        "except Exception as error:\n    print(is_out_of_memory(error), error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.startswith("True"), (ended.stdout, ended.stderr)
