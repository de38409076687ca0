"""Workers that take turns: when they ask, what they say, and whole runs of them on a CPU."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import PATIENCE, until
from study_runs import attempts, outcomes, run, study_of, table
from taking_turns import COMMAND, Everywhere, overlaps, said

from batchcliff.study import dispatch, worker
from batchcliff.study.engines.local import Worker
from batchcliff.study.jobs import WAITING
from batchcliff.study.worker import Station
from batchcliff.training import epochs
from batchcliff.training.checkpoint import Left
from batchcliff.training.turns import Places

STUDY = study_of(seeds=4, batch_sizes=(16,))
FOREVER = 3600.0  # seconds: longer than any test


class Told:
    """The driver's end of a worker."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, event: str, **fields: Any) -> None:
        self.messages.append({"event": event, **fields})


@pytest.fixture
def place() -> Iterator[int]:
    with contextlib.closing(Places(["cuda:0"])) as places:
        yield places.of("cuda:0")[0]


@pytest.fixture
def station(place: int, monkeypatch: pytest.MonkeyPatch) -> Station:
    """One on a GPU, without what it takes to train there."""
    made = object.__new__(Station)
    made.channel, made.place, made.leaving = Told(), place, False  # type: ignore[assignment]
    made.device = SimpleNamespace(index=0)
    monkeypatch.setattr("batchcliff.study.devices.is_served_by_mps", lambda number: number == 7)
    return made


CAPTURED = SimpleNamespace(captured=True)


def test_who_takes_turns(station: Station, place: int) -> None:
    turn = station.turn(CAPTURED)
    assert turn is not None and turn.place == place
    assert station.turn(SimpleNamespace(captured=False)) is None
    station.device = SimpleNamespace(index=7)  # where kernels of several run side by side
    assert station.turn(CAPTURED) is None
    station.device, station.place = SimpleNamespace(index=0), None
    assert station.turn(CAPTURED) is None


def test_one_that_waits_says_so_now_and_then_and_may_leave(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(epochs.time, "monotonic", lambda: now[0])
    turn = station.turn(CAPTURED)
    assert turn is not None
    for _ in range(30):
        now[0] += worker.WAITING_SECONDS / 10
        turn.waits()
    said = station.channel.messages  # type: ignore[attr-defined]
    assert said and all(m == {"event": "phase", "phase": WAITING} for m in said)
    assert len(said) == pytest.approx(3, abs=1), "every half second"
    station.leaving = True
    with pytest.raises(Left):
        turn.waits()


def test_what_it_waited_is_no_part_of_its_speed(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told with the progress; with -5,000 seconds of waiting, the time is not to be missed."""
    from batchcliff.training import surroundings, trial

    def run_trials(*_: object, on_progress: Callable[[int, int], None], **__: object) -> list:
        on_progress(1, 2)
        return []

    monkeypatch.setattr(trial, "run_trials", run_trials)
    monkeypatch.setattr(surroundings, "of", lambda _: ())
    station.checkpoints, station.setup, station.first = None, {"code": "", "workers": 1}, True
    station.material = SimpleNamespace(dataset=SimpleNamespace(described=""))  # type: ignore[assignment]
    for waited in (0.0, -5_000.0):
        turn = SimpleNamespace(waited=waited)
        monkeypatch.setattr(station, "turn", lambda _, turn=turn: turn)
        station.train([], [], None, CAPTURED, None)
        (told,) = [m for m in station.channel.messages if m["event"] == "progress"]  # type: ignore[attr-defined]
        assert told["seconds"] == pytest.approx(-waited, abs=PATIENCE)
        station.channel.messages.clear()  # type: ignore[attr-defined]


# --- whole runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of the study, curves and all, by workers that know of no turns."""
    folder = tmp_path_factory.mktemp("undisturbed") / "s"
    assert run(STUDY, folder).exit_code == 0
    return table(folder)


@pytest.fixture
def turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """turns(STAYS="waits") has workers from here on take turns; the file that says when."""
    monkeypatch.setattr(Worker, "command", COMMAND)
    monkeypatch.setattr(dispatch, "Places", Everywhere)

    def anew(**wanted: str) -> Path:
        log = tmp_path / f"turns {' '.join(wanted)}"
        monkeypatch.setenv("TURNS", str(log))
        for name in ("STAYS", "DIES", "FREE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in wanted.items():
            monkeypatch.setenv(name, value)
        return log

    return anew


def count(log: Path, word: str) -> int:
    return [told for _, told in said(log)].count(word)


def test_no_two_train_at_once_and_nothing_changes(
    tmp_path: Path, turns: Callable[..., Path], undisturbed: bytes
) -> None:
    log = turns(STAYS="waits")
    assert run(STUDY, tmp_path / "s").exit_code == 0
    assert overlaps(log) == []
    assert count(log, "begins") == count(log, "ends") == 4
    assert table(tmp_path / "s") == undisturbed


def test_control_without_turns_two_train_at_once(
    tmp_path: Path, turns: Callable[..., Path]
) -> None:
    log = turns(STAYS="begins", FREE="1")
    assert run(STUDY, tmp_path / "s").exit_code == 0
    assert overlaps(log) != []


def test_a_worker_that_is_killed_in_its_turn_leaves_it_to_the_next(
    tmp_path: Path, turns: Callable[..., Path], undisturbed: bytes
) -> None:
    log = turns(STAYS="waits", DIES="1")
    assert run(STUDY, tmp_path / "s").exit_code == 0
    assert count(log, "dies") == 1 and count(log, "begins") == 5
    assert overlaps(log) == []
    assert sorted(map(len, attempts(tmp_path / "s").values())) == [1, 1, 1, 2]
    assert table(tmp_path / "s") == undisturbed


def test_one_that_waits_leaves_at_once_when_the_run_is_to_end(
    tmp_path: Path, turns: Callable[..., Path], undisturbed: bytes
) -> None:
    """While another is in its turn, which stays there until the one that waits has left."""
    log = turns(STAYS="leaves")

    def interrupts() -> None:
        until(lambda: count(log, "waits"))
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupts)
    thread.start()
    summary = run(STUDY, tmp_path / "s", grace=FOREVER)
    thread.join()
    assert (summary.exit_code, summary.missing) == (130, 4)
    assert count(log, "begins") == count(log, "leaves") == 1
    assert outcomes(tmp_path / "s") == {}
    again = turns()
    assert run(STUDY, tmp_path / "s").exit_code == 0
    assert overlaps(again) == []
    assert table(tmp_path / "s") == undisturbed
