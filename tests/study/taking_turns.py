"""Workers that pretend to be on a GPU: they take turns on a CPU, and write down when.

TURNS: the file, a line for each "asks", "waits", "begins", "ends", "leaves" (before its turn
has come) and "dies", each after the worker's number. STAYS: the first one to begin stays in
its turn until a colleague has said this word. DIES: after that it kills itself. FREE: a turn
begins at once, whoever has it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from patience import until

from batchcliff.study import devices, worker
from batchcliff.training import turns

COMMAND = (sys.executable, str(Path(__file__).resolve()))
me = str(os.getpid())


class Everywhere(turns.Places):
    """A place for the CPU, too: what the driver of such workers has."""

    def __init__(self, devices: list[str]) -> None:
        self._files = {device: turns._file() for device in devices}


def said(log: Path) -> list[tuple[str, str]]:
    """(number of the worker, word), oldest first."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [(number, word) for number, word in map(str.split, lines)]


def say(word: str) -> None:
    with Path(os.environ["TURNS"]).open("a") as log:
        log.write(f"{me} {word}\n")


def overlaps(log: Path) -> list[tuple[str, str]]:
    """(who was in its turn, who began one)."""
    found, within = [], ""
    for number, word in said(log):
        if word == "begins":
            found += [(within, number)] if within else []
            within = number
        elif word in ("ends", "dies") and number == within:
            within = ""
    return found


class Turn(turns.Turn):
    def __enter__(self) -> turns.Turn:
        say("asks")
        try:
            if "FREE" not in os.environ:
                super().__enter__()
        except BaseException:
            say("leaves")
            raise
        self.holds = True
        say("begins")
        self._stay()
        return self

    def _taken(self) -> bool:
        taken = super()._taken()
        if not taken:
            say("waits")
        return taken

    def _stay(self) -> None:
        log, word = Path(os.environ["TURNS"]), os.environ.get("STAYS", "")
        first = next(number for number, begins in said(log) if begins == "begins")
        if not word or first != me or said(log).count((me, "begins")) > 1:
            return
        until(lambda: any(one != me and told == word for one, told in said(log)))
        if "DIES" in os.environ:
            say("dies")
            os.kill(os.getpid(), signal.SIGKILL)

    def give_back(self) -> None:
        if self.holds:
            say("ends")
        super().give_back()


class Pretending(worker.Station):
    def ready_for(self, *arguments: Any) -> Any:
        ready = super().ready_for(*arguments)
        ready.captured = True
        return ready


if __name__ == "__main__":
    turns.Turn = Turn  # type: ignore[misc]
    devices.is_served_by_mps = lambda _: False
    sys.exit(worker.main(*map(int, sys.argv[1:4]), kind=Pretending))
