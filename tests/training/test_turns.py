"""One after the other: what a turn is between processes, however each of them ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import PATIENCE, until

from batchcliff.training import turns
from batchcliff.training.turns import Places, Turn

GPU = "cuda:0"

# Asks for a turn and says what comes of it; at a word it gives the turn back, or ends it.
PROGRAM = """
import sys
from batchcliff.training.turns import Turn
say = lambda word: print(word, flush=True)
with Turn(int(sys.argv[1]), lambda: say("waits")) as turn:
    say("holds")
    if sys.stdin.readline() == "give back\\n":
        turn.give_back()
        say("gave back")
        sys.stdin.readline()
say("over")
"""


class Colleague:
    """A process that asks for its turn."""

    def __init__(self, place: int, said: Path) -> None:
        self.said = said
        with said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(place)],
                pass_fds=[place],
                stdin=subprocess.PIPE,
                stdout=output,
            )

    def words(self) -> list[str]:
        return self.said.read_text().split("\n")[:-1]

    def says(self, word: str, times: int = 1) -> None:
        """Wait until it has said this word so many more times."""
        before = self.words().count(word)
        until(lambda: self.words().count(word) >= before + times, lambda: str(self.words()))

    def has_said(self, word: str) -> None:
        until(lambda: word in self.words(), lambda: str(self.words()))

    def waits(self) -> None:
        """It asked in vain, from a moment on that is yet to come."""
        self.says("waits", 3)
        assert "holds" not in self.words()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()


@pytest.fixture
def places() -> Iterator[Places]:
    made = Places([GPU])
    yield made
    made.close()


@pytest.fixture
def place(places: Places) -> int:
    (found,) = places.of(GPU)
    return found


@pytest.fixture
def colleague(tmp_path: Path) -> Iterator[Callable[[int], Colleague]]:
    """Starts one that asks for its turn at a place; ends all of them."""
    made: list[Colleague] = []

    def start(place: int) -> Colleague:
        made.append(Colleague(place, tmp_path / f"said {len(made)}"))
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.mark.parametrize("way", ["ends", "is killed", "gives back"])
def test_the_next_one_comes_when_the_holder(
    place: int, colleague: Callable[[int], Colleague], way: str
) -> None:
    first = colleague(place)
    first.has_said("holds")
    second, third = colleague(place), colleague(place)
    second.waits()
    third.waits()
    match way:
        case "ends":
            first.tell("end")
        case "is killed":
            first.process.kill()
        case "gives back":
            first.tell("give back")
    two = [second, third]
    until(lambda: any("holds" in one.words() for one in two))
    now, later = two if "holds" in second.words() else two[::-1]
    later.waits()
    if way == "gives back":  # and goes on, without it
        first.has_said("gave back")
        first.tell("end")
        first.has_said("over")
        later.waits()
    now.tell("end")
    later.has_said("holds")
    assert now.words()[-1] == "over"


def test_one_that_stops_waiting_holds_nothing(
    place: int, colleague: Callable[[int], Colleague]
) -> None:
    class Enough(Exception):
        pass

    def waits() -> None:
        raise Enough

    first = colleague(place)
    first.has_said("holds")
    turn = Turn(place, waits)
    with pytest.raises(Enough), turn:
        raise AssertionError("it is another's turn")
    assert not turn.holds
    second = colleague(place)
    second.waits()
    first.tell("end")
    second.has_said("holds")


def test_an_error_within_a_turn_ends_it(
    place: int, colleague: Callable[[int], Colleague]
) -> None:
    turn, second = Turn(place, lambda: None), None
    with pytest.raises(ZeroDivisionError), turn:
        second = colleague(place)
        second.waits()
        _ = 1 / 0
    assert second is not None
    second.has_said("holds")


# --- who leaves the GPU idle


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes when it is told to, and while somebody sleeps."""
    made = SimpleNamespace(now=100.0)

    def sleep(seconds: float) -> None:
        made.now += seconds

    fake = SimpleNamespace(perf_counter=lambda: made.now, sleep=sleep)
    monkeypatch.setattr(turns, "time", fake)
    return made


@pytest.mark.parametrize(
    ("spent", "idle", "holds"),
    [
        (0.99, 0.0, True),  # not known yet
        (1.0, 0.0, False),
        (1.0, 0.09, False),
        (1.0, 0.11, True),
        (64.0, 6.3, False),
        (64.0, 6.5, True),
        (64.0, 64.0, True),
    ],
)
def test_a_turn_is_given_back_where_the_host_never_waits(
    place: int, clock: SimpleNamespace, spent: float, idle: float, holds: bool
) -> None:
    """idle: how long the host waited for the GPU, of the seconds spent; a tenth is enough."""
    with Turn(place, lambda: None) as turn:
        clock.now += spent
        turn.look(idle)
        assert turn.holds == holds
    assert not turn.holds


def test_others_come_after_such_a_look_and_stay(
    place: int, clock: SimpleNamespace, colleague: Callable[[int], Colleague]
) -> None:
    """Who has given back does not end another's turn, by a second look or its own end."""
    with Turn(place, lambda: None) as turn:
        second = colleague(place)
        second.waits()
        turn.look(0.0)
        second.waits()
        clock.now += 2.0
        turn.look(0.0)
        second.has_said("holds")
        turn.look(0.0)
    third = colleague(place)
    third.waits()


def test_what_was_waited_is_counted(place: int, clock: SimpleNamespace) -> None:
    """Until it has come: three times in vain, and `begun` is when it came."""
    turn = Turn(place, lambda: None)
    in_vain = iter([False, False, False, True])
    turn._taken = lambda: next(in_vain)  # type: ignore[method-assign]
    with turn:
        assert turn.waited == pytest.approx(3 * turns.POLL_SECONDS)
        assert turn.begun == clock.now
    with Turn(place, lambda: None) as at_once:
        assert at_once.waited == 0.0


# --- places


def test_a_place_for_each_gpu_and_none_for_a_cpu_or_a_team() -> None:
    with contextlib.closing(Places(["cuda:0", "cuda:1", "cpu", "cuda:2+cuda:3"])) as places:
        (one,), (other,) = places.of("cuda:0"), places.of("cuda:1")
        assert not os.path.samestat(os.fstat(one), os.fstat(other))
        assert places.of("cuda:0") == [one], "every worker on it has the same"
        for none in ("cpu", "cuda:2+cuda:3", "cuda:2", ""):
            assert places.of(none) == []
            assert not places.renew(none)
        assert not os.get_inheritable(one)
    for closed in (one, other):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)
    places.close()
    assert places.of("cuda:0") == []


def test_a_new_place_is_free_whoever_holds_the_former(
    places: Places, place: int, colleague: Callable[[int], Colleague]
) -> None:
    first = colleague(place)
    first.has_said("holds")
    assert places.renew(GPU)
    (new,) = places.of(GPU)
    second = colleague(new)
    second.has_said("holds")
    colleague(new).waits()
    assert first.words()[-1] == "holds"
