"""A real Ray hands out the trials of one study: more than once, in any order, to hosts that
are killed, and some to nobody."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="NOT TESTED: a real Ray; install the extra `oracles`")

import fake_worker  # noqa: E402
import ray_host  # noqa: E402
import study_runs  # noqa: E402
from patience import PATIENCE, until  # noqa: E402
from ray.exceptions import RayActorError  # noqa: E402
from study_runs import MARK, all_gone, marked, table  # noqa: E402

from batchcliff import api  # noqa: E402
from batchcliff.study.checkpoints import CheckpointFolder  # noqa: E402
from batchcliff.study.claims import Attempt  # noqa: E402
from batchcliff.study.engines.local import Worker, leashed_group  # noqa: E402
from batchcliff.study.store import Store  # noqa: E402
from batchcliff.studyfile import load_study  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "trials_on_ray.py"
HOSTS = 2
WORKERS = ("fake_worker", "slowly", "batchcliff.study.worker")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """A Ray of this machine, of which nothing is left afterwards. Its mark."""
    mark = uuid.uuid4().hex
    leashed_group()  # the process behind our own workers stays: it is not to have the mark
    with pytest.MonkeyPatch.context() as patch:
        home = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path must be short
        for name, value in {
            MARK: mark,
            "HOME": home,  # Ray writes there
            "PYTHONPATH": f"{Path(__file__).parent}:{study_runs.PATH}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # or it kills where others fill the memory
        }.items():
            patch.setenv(name, value)
        try:
            try:
                ray.init(
                    num_cpus=HOSTS,
                    include_dashboard=False,
                    object_store_memory=80_000_000,
                    log_to_driver=False,
                    configure_logging=False,
                    _temp_dir=home,
                )
            except Exception as error:  # a sandbox: no sockets, no shared memory, no address
                pytest.skip(f"NOT TESTED: Ray does not start on this machine: {error}")
            yield mark
        finally:
            ray.shutdown()
            gone = all_gone(mark, PATIENCE)
            shutil.rmtree(home)
        assert gone


@pytest.fixture(autouse=True)
def no_worker_stays(cluster: str) -> Iterator[None]:
    yield
    until(lambda: not [pid for name in WORKERS for pid in marked(cluster, name)])


def host(**options: Any) -> Any:
    """An actor. Ray starts it anew when it is killed and may be, and calls it again."""
    return ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(ray_host.Host).remote(
        **options
    )


def identity(folder: Path, trial_id: str) -> tuple[bytes, int, int]:
    """Of a record: what it holds, and which file it is."""
    path = folder / "results" / f"{trial_id}.json"
    found = path.stat()
    return path.read_bytes(), found.st_ino, found.st_mtime_ns


def attempts(folder: Path, trial_id: str) -> tuple[Attempt, ...]:
    """Of a trial whose study may not have been begun."""
    if not (folder / "STUDY.json").exists():
        return ()
    with Store.open(folder) as store:
        return store.attempts(trial_id)


def gone(pid: int) -> bool:
    """Whether a process is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def kill_in_the_middle(actor: Any, folder: Path, trial_id: str, *, comes_back: bool) -> None:
    """Kill a host that is the only one to have begun a trial, which has no record then."""
    until(lambda: attempts(folder, trial_id))
    ray.kill(actor, no_restart=not comes_back)
    until(lambda: gone(attempts(folder, trial_id)[0].pid))
    with Store.open(folder) as store:
        assert store.record(trial_id) is None


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, list[str]]:
    """The table of STUDY that nobody disturbed, and its trials; the next run is as quick."""
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setenv("PAUSE", "0.01")
    table = finish(tmp_path / "still")
    with Store.open(tmp_path / "still") as store:
        return table, [cell.trial_id for cell in store.planned()]


def finish(folder: Path) -> bytes:
    """The table after one plain run more, which ends with 0: the oracle O of the page."""
    assert study_runs.run(ray_host.STUDY, folder).exit_code == 0
    assert study_runs.accounted(folder, len(ray_host.STUDY.seeds)) == {"ok": 12}
    assert not list((folder / "quarantine").iterdir())
    assert study_runs.leases_are_free(folder)
    return table(folder)


@dataclass
class Seen:
    """What a scheduler saw. done: trials that it was told are done, and their records then."""

    codes: list[int] = field(default_factory=list)
    done: dict[str, tuple[bytes, int, int]] = field(default_factory=dict)
    lost: int = 0  # with a host that was killed, and handed to no other
    again: int = 0  # with a host that was killed, and handed out again by Ray
    kept_back: set[str] = field(default_factory=set)  # handed to nobody


def deliver(folder: Path, ids: list[str], rng: random.Random) -> Seen:
    """Hand out four trials of five, each one to three times, in random order, to hosts of
    which three are killed in the middle of a trial."""
    seen = Seen(kept_back=set(rng.sample(ids, len(ids) // 5)))
    tasks = [
        one for one in ids if one not in seen.kept_back for _ in range(rng.randrange(1, 4))
    ]
    rng.shuffle(tasks)
    fates = [True, False, True]  # whether a host that is killed comes back
    idle, running, begun = [host() for _ in range(HOSTS)], {}, set[str]()
    while tasks or running:
        while idle and tasks:
            actor, one, gate = idle.pop(), tasks.pop(), folder.with_name(f"gate{len(tasks)}")
            reply = actor.pretend.remote(str(folder), one, str(gate))
            running[reply] = actor, one
            if fates and one not in begun and len(begun) > 1:
                seen.again += fates[-1]
                kill_in_the_middle(actor, folder, one, comes_back=fates.pop())
            gate.touch()
            begun.add(one)
        for reply in ray.wait(list(running))[0]:
            actor, one = running.pop(reply)
            try:
                code = ray.get(reply)
            except RayActorError:
                seen.lost, actor = seen.lost + 1, host()
            else:
                seen.codes.append(code)
                if code == 0:
                    seen.done.setdefault(one, identity(folder, one))
            idle.append(actor)
    for actor in idle:
        ray.kill(actor)
    return seen


def test_what_a_real_ray_loses_repeats_and_kills_is_there_once(
    tmp_path: Path, truth: tuple[bytes, list[str]]
) -> None:
    undisturbed, ids = truth
    folder = tmp_path / "s"
    seen = deliver(folder, ids, random.Random(41))
    assert (seen.lost, seen.again) == (1, 2)
    assert set(seen.codes) <= {0, 75} and len(seen.codes) > len(seen.done)
    with Store.open(folder) as store:
        assert {one for one in ids if not store.attempts(one)} == seen.kept_back
        assert seen.done.keys() <= store.records().keys()
    assert table(folder) != undisturbed  # what nobody does, is missing
    assert finish(folder) == undisturbed
    assert {one: identity(folder, one) for one in seen.done} == seen.done


def replaced(folder: Path, one: str, **options: Any) -> bool:
    """Hand a trial to a host, and to another while the first is at it; whether its record was
    replaced after the first had said that it was there."""
    hosts, gates = [host(**options) for _ in range(HOSTS)], [folder / "1", folder / "2"]
    replies = []
    for actor, gate in zip(hosts, gates, strict=True):
        replies.append(actor.pretend.remote(str(folder / "s"), one, str(gate)))
        until(
            lambda: (
                len(attempts(folder / "s", one)) == len(replies)
                or ray.wait(replies[1:], timeout=0)[0]
            )
        )
    gates[0].touch()
    assert ray.get(replies[0]) == 0
    told = identity(folder / "s", one)
    gates[1].touch()
    assert ray.get(replies[1]) in (0, 75)
    for actor in hosts:
        ray.kill(actor)
    return identity(folder / "s", one) != told


def test_control_a_store_where_the_last_writer_wins_is_seen(
    tmp_path: Path, truth: tuple[bytes, list[str]]
) -> None:
    _, ids = truth
    for name, broken in (("whole", False), ("broken", True)):
        (tmp_path / name).mkdir()
        assert replaced(tmp_path / name, ids[0], broken=broken) == broken


def test_a_trial_whose_host_is_killed_in_training_goes_on_where_ray_hands_it_out_again(
    tmp_path: Path,
) -> None:
    """For real, and to the same bits: killed after its first checkpoint."""
    study = load_study("digits", overrides=ray_host.DIGITS)
    assert api.run(study, out=tmp_path / "still", device="cpu").exit_code == 0
    folder = tmp_path / "s"
    one, _ = api.plan(study, out=folder).missing_ids
    actor, gate = host(), tmp_path / "gate"
    reply = actor.train.remote(str(folder), one, str(gate))
    until(lambda: attempts(folder, one) and CheckpointFolder(folder).reached(one))
    gate.touch()
    kill_in_the_middle(actor, folder, one, comes_back=True)
    assert ray.get(reply) == 0
    with Store.open(folder) as store:
        killed, again = store.attempts(one)
        assert (killed.why, again.why) == (None, "done")
        assert again.reached > 0
        assert store.records().keys() == {one}
    ray.kill(actor)
    assert table(folder) != table(tmp_path / "still")
    assert api.run(study, out=folder, device="cpu").exit_code == 0
    assert table(folder) == table(tmp_path / "still")
    assert not list((folder / "quarantine").iterdir())


SMALL = """
name = "small"
workload = "digits"
batch_sizes = [128, 256]
seeds = 1
budget = "1ep"
[arms.none]
"""


def test_the_example_runs_a_study_on_a_cluster_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), "small.toml", "s"],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    page = tmp_path / "s/report/index.html"
    assert done.stdout.splitlines() == ["2 of 2 trials ended", str(page)]
    assert page.exists()
    with Store.open(tmp_path / "s") as store:
        found = [[a.why for a in store.attempts(c.trial_id)] for c in store.planned()]
    assert found == [["done"], ["done"]]
