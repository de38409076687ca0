"""The worker process: jobs in, records out. `python -m batchcliff.study.worker FD PARENT`.

Messages from the supervisor: a 4-byte length and canonical JSON; the first sets up, every
later one is a job. One that was started before the data were read (study/ahead.py) is told to
warm up before that. Messages to it: a line of JSON each: "ready", "phase", "progress",
"record", "error". The process ends when the supervisor closes the socket, and is killed by the
kernel when the supervisor dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchcliff.canonical import canonical_json, from_plain, parse_json, to_plain
from batchcliff.errors import BatchcliffError, DataError
from batchcliff.record import Ledger
from batchcliff.spec import Settings, TrialSpec
from batchcliff.study.checkpoints import CheckpointFolder
from batchcliff.study.engines.local import HEADER, stay_on_leash
from batchcliff.study.jobs import PHASE_SECONDS, PREPARING, WAITING, stack_width
from batchcliff.trace import mark

if TYPE_CHECKING:
    from batchcliff.training.checkpoint import Checkpoints
    from batchcliff.training.ranks import Ranks
    from batchcliff.training.turns import Turn

PR_SET_PDEATHSIG = 1
WAITING_SECONDS = 0.5  # between two words of one that waits for its turn
LEFT = "Left"  # training.checkpoint's; importing that takes torch


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux); it may have by now."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


class Channel:
    """The worker's end of the socket."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and the descriptors that came with it; None at the end."""
        header, descriptors, _, _ = socket.recv_fds(self.socket, HEADER.size, 64)
        while 0 < len(header) < HEADER.size:
            more = self.socket.recv(HEADER.size - len(header))
            if not more:
                return None
            header += more
        if not header:
            return None
        for descriptor in descriptors:  # a lease is ours, not some compiler's that we start
            os.set_inheritable(descriptor, False)
        (size,) = HEADER.unpack(header)
        parts = b""
        while len(parts) < size:
            more = self.socket.recv(size - len(parts))
            if not more:
                return None
            parts += more
        return parse_json(parts), descriptors

    def send(self, event: str, **fields: Any) -> None:
        """One line. Non-finite floats travel as in records."""
        self.socket.sendall(canonical_json({"event": event, **fields}) + b"\n")


class Station:
    """What a worker keeps between jobs: the data on the device, and one prepared shape."""

    def __init__(
        self, channel: Channel, setup: dict[str, Any], descriptors: Sequence[int] = ()
    ) -> None:
        import torch

        from batchcliff.data.resident import Resident
        from batchcliff.study.material import load_material
        from batchcliff.training.deterministic import choose_algorithms
        from batchcliff.training.own import check_own

        self.channel, self.setup = channel, setup
        self.device = torch.device(setup["device"])
        if self.device.type == "cpu":
            torch.set_num_threads(setup["threads"])
        else:
            torch.cuda.set_device(self.device)  # what names no device means this one
        choose_algorithms(deterministic=setup["deterministic"], alone=setup["alone"])
        self.ranks = self.join(descriptors) if setup["ranks"] > 1 else None
        # Of a GPU that others of the run train on, too; with ranks nobody else does.
        self.place = descriptors[0] if descriptors and self.ranks is None else None
        self.first = self.ranks is None or self.ranks.rank == 0  # whose word counts
        location = Path(setup["location"]) if setup["location"] else None
        self.material = load_material(setup["workload"], setup["data"], location)
        if self.material.dataset.digest != setup["digest"]:
            raise DataError(
                f"the data changed under the study: digest {setup['digest']} when it was "
                f"planned, {self.material.dataset.digest} now"
            )
        if self.material.build is not None:
            facts = self.material.facts
            check_own(
                self.material.build, facts.image_shape, facts.num_classes, setup["groups"]
            )
        self.resident, self.held_out = Resident.of(self.material.dataset, self.device), 0.0
        self.running: Checkpoints | None = None  # of the trials that are being trained
        self.leaving = False
        self.checkpoints: CheckpointFolder | None = None
        if setup["checkpoint_every"]:
            self.checkpoints = CheckpointFolder(Path(setup["study"]))
        self.prepared: Any = None
        self.pretrained: dict[int, Any] = {}  # by seed: a study has one pretraining

    def join(self, descriptors: Sequence[int]) -> Ranks:
        """Meet the other ranks of the team, at the file that came with the setup."""
        from batchcliff.training.ranks import join

        meeting = f"/proc/self/fd/{descriptors[0]}"
        # Longer than a hang takes to be found, which tells more of it.
        wait = 60.0 + PHASE_SECONDS
        rank, count = self.setup["rank"], self.setup["ranks"]
        return join(rank, count, self.device, meeting, seconds=wait)

    def origin(self, spec: TrialSpec) -> Any:
        """The pretrained network that the trial begins with, or None: other ranks have its
        weights from rank 0."""
        from batchcliff.data.resident import Resident
        from batchcliff.study.material import load_data
        from batchcliff.training.pretrained import Pretrained

        pretraining = spec.settings.pretraining
        if pretraining is None or not self.first:
            return None
        if spec.seed not in self.pretrained:
            location = Path(self.setup["location"]) if self.setup["location"] else None
            dataset = load_data(pretraining.data, location)
            self.pretrained = {  # one seed at a time: the former's memory is given back
                spec.seed: Pretrained(
                    spec,
                    Resident.of(dataset, self.device),
                    num_classes=dataset.num_classes,
                    data_digest=dataset.digest,
                    cache=Path(self.setup["cache"]),
                    weights=Path(self.setup["weights"]) if self.setup["weights"] else None,
                )
            }
        return self.pretrained[spec.seed]

    def data_of(self, spec: TrialSpec) -> Any:
        """What the trial may see: a trial that chooses a learning rate, no test set."""
        from batchcliff.data.resident import Resident
        from batchcliff.data.validation import held_out

        if spec.validation != self.held_out:
            self.prepared = None  # free its memory first
            del self.resident
            dataset, share = self.material.dataset, spec.validation
            self.resident = Resident.of(
                held_out(dataset, share) if share else dataset, self.device
            )
            self.held_out = share
        return self.resident

    def saving(self, ids: list[str]) -> contextlib.AbstractContextManager[Checkpoints | None]:
        """The checkpoints of trials that are trained together; None if there are to be none."""
        from batchcliff.training.checkpoint import Checkpoints

        if self.checkpoints is None or not self.first:
            return contextlib.nullcontext()

        def tell(text: str, update: int = 0) -> None:
            self.channel.send("checkpoint", ids=ids, text=_utf8(text), update=update)

        place = self.checkpoints.of(ids, tell)
        return Checkpoints(
            place,
            every_seconds=self.setup["checkpoint_every"],
            tell=tell,
            expect=lambda size: self.channel.send("space", bytes=size),
            mixing=self.setup["mixing"],
        )

    def enter(self, phase: str) -> None:
        """Say what the time is spent on from here: the supervisor knows how long each may take
        without progress (`jobs.Busy`)."""
        self.channel.send("phase", phase=phase)

    def leave(self, *_: object) -> None:
        """A signal asks to end: once what is being trained is saved, or at once."""
        self.leaving = True
        if self.running is None:
            os._exit(0)
        self.running.leave()

    def work(self, job: dict[str, Any]) -> None:
        """Train the job's trials and send a record for each; of several ranks, the first."""
        specs = [from_plain(TrialSpec, plain) for plain in job["specs"]]
        mark(f"begins {specs[0].arm}, {specs[0].batch_size}")
        ledgers = [from_plain(Ledger, plain) for plain in job["ledgers"]]
        self.enter(PREPARING)
        alone = self.device.type != "cpu" or self.material.build is not None
        stack = 1 if alone else stack_width(specs)
        origin, resident = self.origin(specs[0]), self.data_of(specs[0])
        ready = self.ready_for(specs[0], resident, stack, job["micro_batch"])
        together = 1 if stack == 1 else len(specs)
        for first in range(0, len(specs), together):
            group = slice(first, first + together)
            self.train(specs[group], ledgers[group], resident, ready, origin)

    def ready_for(self, spec: TrialSpec, resident: Any, stack: int, most: int) -> Any:
        """What is prepared, or prepared anew if it is of another shape than the trial."""
        from batchcliff.training.arithmetic import shape_key
        from batchcliff.training.prepare import prepare

        ready = self.prepared
        shape = (shape_key(spec), stack, most)
        if ready is None or (ready.key, ready.stack, ready.most) != shape:
            self.prepared = ready = None  # free its memory first
            self.prepared = prepare(
                spec,
                resident,
                num_classes=self.material.dataset.num_classes,
                stack=stack,
                user_build=self.material.build,
                most=most,
                ranks=self.ranks,
            )
        return self.prepared

    def turn(self, ready: Any) -> Turn | None:
        """What a trial that can keep the GPU busy waits for; None if it need not."""
        from batchcliff.study.devices import is_served_by_mps
        from batchcliff.training.checkpoint import Left
        from batchcliff.training.epochs import Every
        from batchcliff.training.turns import Turn

        if self.place is None or not ready.captured or is_served_by_mps(self.device.index):
            return None
        again = Every(seconds=WAITING_SECONDS)

        def waits() -> None:
            if self.leaving:
                raise Left
            if again.due():
                self.enter(WAITING)

        return Turn(self.place, waits)

    def train(
        self,
        specs: list[TrialSpec],
        ledgers: list[Ledger],
        resident: Any,
        ready: Any,
        origin: Any,
    ) -> None:
        """Train trials side by side, telling how far they are, and send their records."""
        from batchcliff.training import surroundings
        from batchcliff.training.checkpoint import Left
        from batchcliff.training.trial import run_trials

        ids, begun = [spec.trial_id for spec in specs], time.monotonic()
        turn = self.turn(ready)

        def progress(done: int, updates: int) -> None:
            seconds = time.monotonic() - begun - (turn.waited if turn else 0.0)
            self.channel.send("progress", ids=ids, done=done, updates=updates, seconds=seconds)

        self.channel.send("started", ids=ids, numerics=surroundings.of(ready))
        if self.leaving:
            raise Left
        mark("prepared")
        with self.saving(ids) as self.running:
            records = run_trials(
                specs,
                ledgers,
                resident,
                ready,
                on_progress=progress,
                on_phase=self.enter,
                code=self.setup["code"],
                data_source=self.material.dataset.described,
                workers=self.setup["workers"],
                pretrained=origin,
                checkpoints=self.running,
                turn=turn,
            )
        self.running = None
        mark("trained and evaluated")
        for record in records if self.first else ():
            self.channel.send("record", record=to_plain(record))


NO_MEMORY = (
    "can't allocate memory",  # torch's allocator of host memory
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left."""
    torch = sys.modules.get("torch")
    known = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    if isinstance(error, known):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def warm_up(message: dict[str, Any]) -> None:
    """What takes seconds and needs no data, for this process, or for others if it is told so
    (training/rehearsal.py). What fails here fails again later, where it is told."""
    with contextlib.suppress(Exception):
        import batchcliff.study.material
        import batchcliff.training.trial  # noqa: F401
        from batchcliff.training import rehearsal

        mark("torch is imported")
        settings = from_plain(Settings, message["settings"])
        rehearsal.warm_up(message["warm"], settings, message["part"], message["of"])


def _utf8(text: str) -> str:
    """Without what cannot be written, such as half of a surrogate pair in a file's name."""
    return text.encode("utf-8", "backslashreplace").decode()


def main(fd: int, parent: int, collar: int, kind: type[Station] = Station) -> int:
    """Serve until the socket closes; 0, or 1 after an error that ends the process."""
    die_with(parent)
    os.setsid()  # not before, see engines/local.py
    stay_on_leash(collar)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(fd)
    try:
        message = channel.receive()
        if message is not None and "warm" in message[0]:
            warm_up(message[0])
            if message[0]["of"]:
                return 0
            message = channel.receive()
        if message is None:
            return 0
        mark("told what to train on")
        sys.path += [place for place in message[0]["path"] if place not in sys.path]
        station = kind(channel, *message)
        signal.signal(signal.SIGUSR1, station.leave)
        mark("the data are on the device")
        channel.send("ready")
        while (message := channel.receive()) is not None:
            job, leases = message
            station.work(job)
            for lease in leases:
                os.close(lease)
            channel.send("idle")
    except (BrokenPipeError, ConnectionResetError):
        return 0
    except Exception as error:
        if type(error).__name__ == LEFT:
            return 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            channel.send(
                "error",
                kind=type(error).__name__,
                message=_utf8(str(error)[:2000]),
                trace=_utf8(traceback.format_exc()[-8000:]),
                out_of_memory=is_out_of_memory(error),
                ours=isinstance(error, BatchcliffError),
            )
        return 1
    return 0


if __name__ == "__main__":
    status = main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    # Everything is said by now. Taking torch down in order takes seconds that the run waits.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
