"""A team of ranks is one worker to its owner: what it says, whom it blames, how it ends.

The ranks here are shells that say lines and end as they are told.
"""

from __future__ import annotations

import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, until

from batchcliff.errors import UsageError
from batchcliff.study import ranks as ranks_module
from batchcliff.study.engines.local import Worker
from batchcliff.study.ranks import NEIGHBOURS, Team, check_wanted_ranks, start, teams_of

SHOW = "import os; print(os.environ)"
PUPPET = """
import json, os, socket, sys, time
line = socket.socket(fileno=int(sys.argv[1]))
header = socket.recv_fds(line, 4, 8)[0]
setup = json.loads(line.recv(1 << 16))
for step in setup["plays"][setup["rank"]]:
    if isinstance(step, list):
        what, path = step
        if what == "touch":
            open(path, "x").close()
        while not os.path.exists(path):
            time.sleep(0.01)
    elif isinstance(step, dict):
        line.sendall(json.dumps(step).encode() + b"\\n")
    elif isinstance(step, str):
        print(step, flush=True)
    elif step < 0:
        os.kill(os.getpid(), -step)
    else:
        time.sleep(step)
"""


STAY = 3600  # seconds: until it is ended


def error(kind: str, **more: Any) -> dict[str, Any]:
    return {"event": "error", "kind": kind, "message": "no", **more}


def progress(done: int, trial: str = "a") -> dict[str, Any]:
    return {"event": "progress", "ids": [trial], "done": done, "updates": 9, "seconds": 1.0}


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Team]]:
    """A team whose ranks do what they are told: events, texts, pauses, -signals, and "touch" or
    "await" a file."""
    monkeypatch.setattr(Worker, "command", (sys.executable, "-c", PUPPET))
    teams = []

    def playing(*plays: list[Any]) -> Team:
        team = start({"ranks": len(plays), "environment": {}})
        assert isinstance(team, Team)
        team.send({"device": "+".join(["cpu"] * len(plays)), "plays": plays})
        teams.append(team)
        return team

    yield playing
    for team in teams:
        team.kill()
        team.close()
        assert all(worker.process.returncode is not None for worker in team.ranks)


def heard(team: Team, last: str = "error") -> list[dict[str, Any] | None]:
    """All that a team says until the event `last`, or until a rank is gone; then None."""
    said: list[dict[str, Any] | None] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        select.select([team], [], [], 1.0)
        messages = team.receive()
        if messages is None:
            return [*said, None]
        said += messages
        if any(message["event"] == last for message in messages):
            return said
    raise AssertionError(said)


def test_a_team_is_ready_idle_and_as_far_as_its_last_rank(
    play: Callable[..., Team], tmp_path: Path
) -> None:
    """Records of rank 0 alone; the same place twice is no progress. Rank 1 is behind."""
    record, ready, idle = {"event": "record"}, {"event": "ready"}, {"event": "idle"}
    gate = tmp_path / "gate"
    team = play(
        [ready, progress(4), progress(8), record, idle, STAY],
        [["await", str(gate)], ready, progress(2), progress(2), progress(6), record, idle],
    )
    assert heard(team, "record") == [record], "nothing else is the team's"
    gate.touch()
    said = [m and (m["event"], m.get("done")) for m in heard(team)]
    assert said == [("ready", None), ("progress", 2), ("progress", 6), ("idle", None), None]


@pytest.mark.parametrize("cause", [0, 1])
def test_the_cause_is_blamed_and_not_who_lost_it(
    play: Callable[..., Team], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: int
) -> None:
    """Although the other one has been heard before."""
    monkeypatch.setattr(ranks_module, "CAUSE_SECONDS", PATIENCE)
    said = str(tmp_path / "said")
    plays: list[list[Any]] = [[error("RankLost"), ["touch", said], STAY] for _ in range(2)]
    plays[cause] = [["await", said], 0.3, error("MemoryError", out_of_memory=True), STAY]
    team = play(*plays)
    (message,) = heard(team)
    assert message is not None
    assert message["kind"] == "MemoryError"
    assert message["message"] == f"rank {cause} of 2: no"
    team.hang_up()
    team.reap(0.0)
    assert all(worker.process.returncode is not None for worker in team.ranks)


def test_a_rank_that_dies_is_the_one_whose_end_is_told(
    play: Callable[..., Team], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its partner has complained before; and the partner is not waited for."""
    monkeypatch.setattr(ranks_module, "CAUSE_SECONDS", PATIENCE)
    said = str(tmp_path / "said")
    complains = [error("RankLost"), ["touch", said], STAY]
    team = play(complains, [["await", said], 0.3, -signal.SIGKILL])
    assert heard(team) == [None]
    assert team.reap(float(STAY)) == -signal.SIGKILL


def test_without_a_cause_the_complaint_is_what_there_is(
    play: Callable[..., Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks_module, "CAUSE_SECONDS", 0.2)
    (message,) = heard(play([0.1, error("RankLost"), STAY], [STAY]))
    assert message is not None
    assert message["kind"] == "RankLost"


def test_the_stopped_rank_is_named(play: Callable[..., Team]) -> None:
    team = play(["here", STAY], ["there", -signal.SIGSTOP])
    until(lambda: ranks_module._is_stopped(team.ranks[1].process.pid), team.tail)
    until(lambda: "here" in team.ranks[0].tail(), team.tail)
    team.ask_where()
    text = team.tail()
    assert "rank 0 of 2:\nhere" in text
    assert "rank 1 of 2, stopped by a signal:\nthere" in text


def test_each_rank_has_its_device_its_number_and_the_meeting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And connections that no other machine can reach."""
    sent: list[tuple[dict[str, Any], list[int] | None]] = []
    monkeypatch.setattr(Worker, "send", lambda _, m, d=None: sent.append((m, d)))
    monkeypatch.setattr(
        Worker, "command", (sys.executable, "-c", "import os; print(os.environ)")
    )
    team = Team({"MINE": "1"}, 2)
    team.send({"device": "cuda:2+cuda:3", "other": 5})
    team.send({"specs": []}, [9])
    meeting = team.meeting.fileno()
    assert sent == [
        ({"device": "cuda:2", "rank": 0, "other": 5}, [meeting]),
        ({"device": "cuda:3", "rank": 1, "other": 5}, [meeting]),
        ({"specs": []}, [9]),
        ({"specs": []}, [9]),
    ]
    for worker in team.ranks:
        worker.process.wait(PATIENCE)
        said = worker.tail()
        assert "'MINE': '1'" in said
        assert all(f"'{name}': 'lo'" in said for name in NEIGHBOURS)
    team.close()
    assert list(tmp_path.iterdir()) == []


def test_teams_of_devices() -> None:
    gpus = [f"cuda:{number}" for number in range(5)]
    assert teams_of(gpus, 1) == gpus
    assert teams_of(gpus, 2) == ["cuda:0+cuda:1", "cuda:2+cuda:3"]
    assert teams_of(["cpu"], 3) == ["cpu+cpu+cpu"]
    with pytest.raises(UsageError, match=r"--ranks 2: .* gives 1 \(cuda:1\). Write --ranks 1"):
        teams_of(["cuda:1"], 2)


@pytest.mark.parametrize("ranks", [0, -1])
def test_a_number_of_ranks_that_is_none(ranks: int) -> None:
    with pytest.raises(UsageError, match=f"--ranks {ranks}: write 1"):
        check_wanted_ranks(ranks, [], {})
