"""Many at once, in any order, at odd times, or cut off: one record of each trial."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_peer as fake
import fake_worker
import pytest
import study_runs
from patience import PATIENCE
from sizes import size

from batchcliff import provenance
from batchcliff.canonical import canonical_json, to_plain
from batchcliff.errors import UsageError
from batchcliff.study import claims, dispatch, files
from batchcliff.study import store as store_module
from batchcliff.study.engines.local import Worker
from batchcliff.study.sealed import seal, unseal
from batchcliff.study.store import Store

TRIALS = 12
SPECS = fake.specs_of(fake.study_of(TRIALS))
STUDIES = sorted(p.parent for p in (Path(__file__).parents[2] / "results").glob("*/STUDY.json"))


def finish(folder: Path, trials: int = TRIALS) -> None:
    """The oracle O of the page, for peers."""
    with fake.start(folder, trials) as store:
        fake.work(store)
        assert store.table() == fake.true_table(trials)
        assert store.quarantined == () and not list((folder / "quarantine").iterdir())
        names = {path.name for path in (folder / "results").iterdir()}
        assert names == {f"{cell.trial_id}.json" for cell in store.planned()}


# --- eight processes ------------------------------------------------------------------------


def crowd(folder: Path, trials: int, *more: object) -> tuple[list[int], int]:
    """Exit codes of eight peers at once, and how many attempts they made."""
    zygote = fake.Zygote()
    try:
        codes = zygote.together([(folder, "--trials", trials, *more)] * 8)
    finally:
        zygote.close()
    with Store.open(folder) as store:
        assert store.table() == fake.true_table(trials)
        return codes, sum(len(store.attempts(c.trial_id)) for c in store.planned())


@pytest.mark.timeout(1800)
def test_eight_processes_make_as_many_attempts_as_there_are_trials(tmp_path: Path) -> None:
    trials = size("peer_trials")
    assert crowd(tmp_path / "s", trials) == ([0] * 8, trials)


def test_control_without_leases_eight_processes_make_more(tmp_path: Path) -> None:
    codes, attempts = crowd(tmp_path / "s", 40, "--broken", "no-lease", "--seconds", 0.02)
    assert codes == [0] * 8 and attempts > 40


# --- an engine that repeats, reorders and loses ---------------------------------------------


def deliver(folder: Path, rng: random.Random) -> tuple[dict[str, bytes], list[str]]:
    """Tasks of a study, a fifth of them lost, the others one to three times, in any order,
    to eight who ask for no lease. The acknowledged records, and those replaced since."""
    kept = [spec for spec in SPECS if rng.random() > 0.2]
    tasks = [spec for spec in kept for _ in range(rng.randrange(1, 4))]
    rng.shuffle(tasks)
    fake.start(folder, TRIALS).close()
    acknowledged: dict[str, bytes] = {}
    lock = threading.Lock()

    def run(spec) -> None:
        with Store.open(folder) as store:
            won = store.publish(fake.train(spec))
            data = (folder / f"results/{spec.trial_id}.json").read_bytes()
        with lock:
            if won:
                acknowledged.setdefault(spec.trial_id, data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, tasks))
    assert acknowledged.keys() == {spec.trial_id for spec in kept}
    now = {i: (folder / f"results/{i}.json").read_bytes() for i in acknowledged}
    return acknowledged, [i for i, data in acknowledged.items() if now[i] != data]


def test_an_engine_that_repeats_reorders_and_loses_tasks(tmp_path: Path) -> None:
    for seed in range(5):
        folder = tmp_path / str(seed)
        _, replaced = deliver(folder, random.Random(seed))
        assert replaced == []
        finish(folder)


def test_control_a_store_where_the_last_writer_wins_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchcliff.study.parts.files.publish_once", fake.publish_over)
    replaced = [deliver(tmp_path / str(n), random.Random(n))[1] for n in range(10)]
    assert any(replaced)


# --- clocks ---------------------------------------------------------------------------------


def through_the_ages(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A study whose clocks jump by days and centuries, with files from the past and the
    future, where nobody may ask for the time."""
    rng = random.Random(4)

    def jumping() -> str:
        return f"{rng.choice((1970, 2026, 2038, 2106))}-01-19T03:14:07Z"

    def forbidden() -> float:
        raise AssertionError("a wall clock was asked")

    for module in (provenance, store_module, claims):
        patch.setattr(module, "utc_now", jumping)
    patch.setattr(time, "time", forbidden)
    with fake.start(folder, TRIALS) as store:
        for spec in SPECS[:5]:
            store.publish(fake.train(spec))
            store.log({"event": "x"})
    for path in folder.rglob("*"):
        when = rng.choice((0, 2**31 + 5, 86_400 * 365 * 90))
        os.utime(path, (when, when), follow_symlinks=False)
    finish(folder)


def test_no_clock_decides_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through_the_ages(tmp_path / "s", monkeypatch)


def test_a_run_asks_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor with its workers: wall clocks that jump by days between any two looks
    change neither what is run nor the table."""
    rng = random.Random(8)
    study = study_runs.study_of(seeds=4)
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    assert study_runs.run(study, tmp_path / "still").exit_code == 0

    def forbidden() -> float:
        raise AssertionError("a wall clock was asked")

    def jumping() -> str:
        return f"{rng.choice((1970, 2026, 2038, 2106))}-01-{rng.choice((18, 20))}T03:14:07Z"

    for module in (provenance, store_module, claims, dispatch):
        monkeypatch.setattr(module, "utc_now", jumping)
    monkeypatch.setattr(time, "time", forbidden)
    monkeypatch.setattr(time, "time_ns", forbidden)
    told = study_runs.Told()
    assert study_runs.run(study, tmp_path / "s", told).exit_code == 0
    assert told.notes == ""
    assert {tuple(why) for why in study_runs.attempts(tmp_path / "s").values()} == {("done",)}
    assert study_runs.table(tmp_path / "s") == study_runs.table(tmp_path / "still")


def test_control_a_clock_that_is_asked_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean-up that compares the age of files with the time of day."""
    monkeypatch.setattr(files, "sweep", lambda tmp, seconds: time.time() - seconds)
    with pytest.raises(AssertionError, match="a wall clock was asked"):
        through_the_ages(tmp_path / "s", monkeypatch)


# --- the end of the interpreter -------------------------------------------------------------

ENDS_IN_THE_MIDDLE = """
import sys, threading, time
from pathlib import Path
import fake_peer as fake
folder = Path(sys.argv[1])
store = fake.start(folder, 40)
specs = fake.specs_of(fake.study_of(40))
def publish(part):
    for spec in specs[part::4]:
        store.publish(fake.train(spec))
        print("published", flush=True)
for part in range(4):
    threading.Thread(target=publish, args=(part,), daemon=True).start()
while len(list((folder / "results").iterdir())) < 5:
    time.sleep(0.001)
"""


def test_an_interpreter_that_ends_during_a_commit(tmp_path: Path) -> None:
    """Daemon threads publish while the main thread returns: no hang, nothing half-written."""
    folder = tmp_path / "s"
    place = str(Path(fake.__file__).parent)
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_IN_THE_MIDDLE, str(folder)],
        env={**os.environ, "PYTHONPATH": place},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    acknowledged = ended.stdout.count("published")
    with Store.open(folder) as store:
        assert acknowledged <= len(store.records()) <= 40
        assert store.quarantined == ()
    finish(folder, 40)


# --- stores of older versions ---------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_every_study_that_was_kept_opens(study: Path, tmp_path: Path) -> None:
    """The studies under results/ were written by earlier versions of the code."""
    folder = tmp_path / "s"
    shutil.copytree(study, folder)
    with Store.open(folder) as store:
        records = store.records()
        assert store.quarantined == (), store.quarantined
        assert len(records) == len(list((study / "results").iterdir())) > 0
        missing = {cell.trial_id for cell in store.missing()}
        assert missing | records.keys() == {cell.trial_id for cell in store.planned()}
        assert not missing & records.keys()
        assert canonical_json(store.study) == canonical_json(to_plain(store.study))


@pytest.mark.parametrize("what", ["STUDY.json", "plan/0001.json"])
def test_control_a_store_of_a_later_version_is_refused_in_words(
    what: str, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    shutil.copytree(STUDIES[0], folder)
    body, made = unseal((folder / what).read_bytes())
    body["study"]["field_of_2030"] = 1
    (folder / what).write_bytes(seal(body, made))
    with pytest.raises(UsageError, match="was written by another version of batchcliff"):
        Store.open(folder)
    (folder / what).write_bytes(seal(body, made).replace(b'"v":1}', b'"v":2}'))
    with pytest.raises(UsageError, match=r"another version of batchcliff \(format 2"):
        Store.open(folder)
