"""`--ranks` of a run: trials that several processes train together, a device each.

To the dispatcher a team is one worker. Each of its processes is a worker as any other: started
in a session of its own, killed by the kernel with its driver, holding the leases. Rank 0 alone
sends records and writes checkpoints. A team is ready, idle, or so far in its trial, when the
last of its ranks is; when one of them is lost, the others are killed with it. What a trial
computes depends on the number of ranks by rounding alone, so it is an option of a run and no
part of any trial's identity; provenance has it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batchcliff.errors import UsageError
from batchcliff.record import Ledger
from batchcliff.spec import TrialSpec
from batchcliff.study import ahead
from batchcliff.study.engines.local import Worker
from batchcliff.training.ranks_shares import check_ranks

LOOPBACK = "lo"
NEIGHBOURS = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
"""All ranks are on this machine: their connections are not to be reached from any other."""

CAUSE_SECONDS = 2.0  # for the rank that is the cause, after another has lost it
RANK_LOST = "RankLost"  # what a rank's error is called when another did not answer


def check_wanted_ranks(
    ranks: int, specs: Iterable[TrialSpec], ledgers: Mapping[str, Ledger]
) -> None:
    """UsageError for a number of ranks that is none; Indivisible for a trial that they could
    not share."""
    if ranks < 1:
        raise UsageError(f"--ranks {ranks}: write 1, or how many processes share a batch")
    if ranks > 1 and sys.platform != "linux":
        raise UsageError(f"--ranks {ranks}: several ranks need Linux. Write --ranks 1.")
    for spec in specs if ranks > 1 else ():
        if spec.trial_id in ledgers:
            check_ranks(spec, ledgers[spec.trial_id].num_train, ranks)


def teams_of(devices: list[str], ranks: int) -> list[str]:
    """The devices of each team, joined by "+"; `devices` themselves for one rank.

    Every rank has a GPU of its own; the ranks of a CPU share it. Raises UsageError.
    """
    if ranks == 1:
        return devices
    if devices == ["cpu"]:
        return ["+".join(devices * ranks)]
    if len(devices) < ranks:
        raise UsageError(
            f"--ranks {ranks}: every rank needs a GPU of its own, and --device gives "
            f"{len(devices)} ({', '.join(devices)}). Write --ranks {len(devices)}, or --device "
            "cuda for all GPUs."
        )
    return ["+".join(devices[i : i + ranks]) for i in range(0, len(devices) - ranks + 1, ranks)]


def start(setup: Mapping[str, Any]) -> Worker:
    """A worker, or a team of them if the study is trained by ranks."""
    if setup["ranks"] == 1:
        return ahead.take(setup["environment"]) or Worker(setup["environment"])
    return Team(setup["environment"], setup["ranks"])


class Team(Worker):
    """Workers that train every trial together; to its owner they are one."""

    def __init__(self, environment: Mapping[str, str], count: int) -> None:
        # Not Worker's own: there is no process that is the team.
        self.ranks = [Worker({**environment, **NEIGHBOURS}) for _ in range(count)]
        self.meeting = tempfile.TemporaryFile()  # noqa: SIM115  (no name, so nothing is left)
        self._poll = select.epoll()
        for worker in self.ranks:
            self._poll.register(worker.fileno(), select.EPOLLIN)
        self._numbers = {worker.fileno(): rank for rank, worker in enumerate(self.ranks)}
        self._lost: int | None = None
        self._said: dict[str, set[int]] = {"ready": set(), "idle": set()}
        self._places: dict[int, tuple[list[str], int]] = {}
        self._told: tuple[list[str], int] = [], -1
        self._stopped: set[int] = set()

    @property
    def members(self) -> list[Worker]:
        return self.ranks

    def fileno(self) -> int:
        return self._poll.fileno()

    def send(self, message: Mapping[str, Any], descriptors: list[int] | None = None) -> None:
        """To every rank; what sets up tells each who it is, and where they meet."""
        devices = str(message.get("device", "")).split("+")
        for rank, worker in enumerate(self.ranks):
            if "device" in message:
                own = {**message, "device": devices[rank], "rank": rank}
                worker.send(own, [self.meeting.fileno()])
            else:
                worker.send(message, descriptors)

    # --- what ranks say ---

    def receive(self) -> list[dict[str, Any]] | None:
        """What the team has to say; None when one of its ranks is gone.

        A rank that lost another one is not the cause, which has `CAUSE_SECONDS` to show.
        """
        told: list[dict[str, Any]] = []
        lost: dict[int, dict[str, Any]] = {}  # who lost another, and what it said
        timeout, deadline = 0.0, time.monotonic() + CAUSE_SECONDS
        while True:
            for rank, messages in self._arrived(timeout, lost):
                for message in messages or ():
                    if message["event"] != "error":
                        told += self._merged(rank, message)
                    elif message["kind"] == RANK_LOST:
                        lost[rank] = message
                    else:
                        return [*told, self._blamed(rank, message)]
                if messages is None and rank not in lost:
                    self._lost = rank
                    return told or None
            if not lost:
                return told
            timeout = deadline - time.monotonic()
            if timeout <= 0 or len(lost) == len(self.ranks):
                rank, message = min(lost.items())
                return [*told, self._blamed(rank, message)]

    def _arrived(
        self, timeout: float, ignored: Iterable[int]
    ) -> Iterator[tuple[int, list[dict[str, Any]] | None]]:
        for descriptor, _ in self._poll.poll(timeout):
            rank = self._numbers[descriptor]
            if rank not in ignored:
                yield rank, self.ranks[rank].receive()

    def _blamed(self, rank: int, message: dict[str, Any]) -> dict[str, Any]:
        """An error that ends the team."""
        self._lost = rank
        text = f"rank {rank} of {len(self.ranks)}: {message['message']}"
        return {**message, "message": text}

    def _merged(self, rank: int, message: dict[str, Any]) -> list[dict[str, Any]]:
        """The message, if it is one of the team's."""
        event = message["event"]
        if event in self._said:
            self._said[event].add(rank)
            if len(self._said[event]) < len(self.ranks):
                return []
            self._said[event].clear()
            return [message]
        if event != "progress":
            return [message] if rank == 0 else []
        self._places[rank] = (message["ids"], message["done"])
        if len(self._places) < len(self.ranks):
            return []
        if any(ids != message["ids"] for ids, _ in self._places.values()):
            return []
        least = min(done for _, done in self._places.values())
        if (message["ids"], least) == self._told:
            return []
        self._told = message["ids"], least
        return [{**message, "done": least}]

    # --- letting go ---

    def tail(self, lines: int = 50) -> str:
        """The last lines of every rank, each under its name."""
        parts = []
        for rank, worker in enumerate(self.ranks):
            state = ", stopped by a signal" if rank in self._stopped else ""
            parts.append(f"rank {rank} of {len(self.ranks)}{state}:\n{worker.tail(lines)}")
        return "\n".join(parts)

    def kill(self) -> None:
        """End every process, now; `reap` waits for them."""
        for worker in self.ranks:
            worker.kill()

    def ask_where(self) -> None:
        """Have every rank write its stacks. One that is stopped goes on for that: it is to be
        killed right after, and says first where it was stopped."""
        for rank, worker in enumerate(self.ranks):
            worker.ask_where()
            if _is_stopped(worker.process.pid):
                self._stopped.add(rank)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGCONT)

    def ask_to_leave(self) -> None:
        """Have the first rank save, whose checkpoints count; without it the others end."""
        self.ranks[0].ask_to_leave()

    def hang_up(self) -> None:
        """Close the sockets: ranks end when they have nothing left to do."""
        for worker in self.ranks:
            worker.hang_up()

    def reap(self, grace: float = 0.0) -> int | None:
        """The exit status of the rank that was lost, or else of the first that did not end
        well; the others are given no time where one was lost. All are dead then."""
        deadline = time.monotonic() + grace
        if self._lost is not None:
            for rank, worker in enumerate(self.ranks):
                if rank != self._lost:
                    worker.kill()
        statuses = [w.reap(max(0.0, deadline - time.monotonic())) for w in self.ranks]
        if self._lost is not None:
            return statuses[self._lost]
        return next((status for status in statuses if status != 0), 0)

    def close(self, grace: float = 0.0) -> int | None:
        """Let them finish within `grace` seconds, and let go of them."""
        self.hang_up()
        status = self.reap(grace)
        for worker in self.ranks:
            worker.close(0.0)
        self._poll.close()
        self.meeting.close()
        return status


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False
