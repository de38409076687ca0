"""Processes that train small trials together, for the tests: started once, asked many things.

As a program, `rank_team.py RANK COUNT FD` meets the others at the file behind the descriptor
and then answers lines of JSON, {"ask": NAME, ...}, with lines of JSON. Big answers are files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resumed_trials import Ended, Shelf
from small_trials import SMALL, facts_of, numbers, small_data, small_spec, with_settings
from torch import Tensor

from batchcliff.canonical import to_plain
from batchcliff.data.resident import Resident
from batchcliff.spec import Decay, Settings, TrialSpec
from batchcliff.training import loop as loop_module
from batchcliff.training import ranks as ranks_module
from batchcliff.training.arithmetic import ledger, timeline_of
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.prepare import Prepared, prepare
from batchcliff.training.ranks import RankBatches, Ranks, join
from batchcliff.training.trial import run_trials

ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
PATIENCE = 120.0  # seconds; a loaded machine is no failure
BATCH = 24
GHOST = with_settings(SMALL, batch_norm__group=4)
SHARDS = with_settings(SMALL, batch_norm__group="B/6", batch_norm__running="per-group")
CASES: dict[str, Settings] = {
    "ghost": GHOST,
    "halves": with_settings(SMALL, batch_norm__group=12),
    "shards": SHARDS,
    "mixup": with_settings(GHOST, mixup=0.4, augmentation="as-written", label_smoothing=0.1),
    "clipped": with_settings(GHOST, optimizer__clip_norm=0.5, gradient_norms=True),
    "lars": with_settings(SHARDS, optimizer__name="lars", optimizer__trust=0.1),
    "adamw": with_settings(GHOST, optimizer__name="adamw", loss="clipped-softmax"),
    "resnet": with_settings(
        GHOST, model__name="resnet", model__widths=((4,), (6, 6)), augmentation="as-coded"
    ),
    "fp16": with_settings(GHOST, precision="fp16"),
}
GROWTH = (("batch-growth", (("at", ("2ep",)), ("factor", 2), ("most", 48))),)


def data() -> Resident:
    return small_data(train=48, shape=(8, 8, 3))


def spec_of(case: str, **changes: Any) -> TrialSpec:
    """Twelve updates in six epochs of 48 examples, 24 at a time."""
    return small_spec(
        settings=with_settings(CASES[case], evaluate_every=2),
        **{"batch_size": BATCH, "budget": "6ep", "seed": 3, "lr": 0.02, **changes},
    )


def trial_of(case: str) -> TrialSpec:
    """A trial whose every update is the last of an epoch, and so may be saved after each."""
    if case == "growth":
        return spec_of("halves", batch_size=24, budget="5ep", techniques=GROWTH)
    return spec_of(case, batch_size=48, budget="8up", decay=Decay(at=("50%",)))


def trained(
    spec: TrialSpec, ranks: Ranks | None, most: int = 0, shelf: Shelf | None = None
) -> tuple[Ended, Prepared]:
    """A whole trial, from its spec to its record and the last bit of its state."""
    resident = data()
    prepared = prepare(spec, resident, num_classes=4, stack=1, most=most, ranks=ranks)
    ledgers = [ledger(spec, facts_of(resident))]
    if shelf is None:
        records = run_trials([spec], ledgers, resident, prepared)
    else:
        with shelf.checkpoints() as checkpoints:
            records = run_trials([spec], ledgers, resident, prepared, checkpoints=checkpoints)
    return Ended.of(records, prepared), prepared


def updated(
    case: str, ranks: Ranks | None, most: int = 0, updates: int = 6, wide: bool = False
) -> Prepared:
    """After some updates; `wide`: with every float in float64."""
    spec = spec_of(case)
    with widened() if wide else contextlib.nullcontext():
        prepared = prepare(spec, data(), num_classes=4, stack=1, most=most, ranks=ranks)
        rates_US = torch.linspace(0.02, 0.08, 12)[:, None]
        prepared.restart([spec], rates_US)
        for first in range(0, updates, 2):
            prepared.loop.load_block(*epoch_tensors([spec], data(), first, first + 2))
            prepared.advance()
            prepared.advance()
    return prepared


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """float64 wherever the code says float32."""
    narrow, gather = torch.Tensor.float, loop_module.gather

    def double(*args: Any, **kwargs: Any) -> Tensor:
        return gather(*args, **kwargs).double()

    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    loop_module.gather = double  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = narrow  # type: ignore[method-assign]
        loop_module.gather = gather


# --- what a rank can be asked ----------------------------------------------------------------


def ask_updates(ranks: Ranks, case: str, most: int, wide: bool, file: str) -> dict[str, Any]:
    """Updates by all ranks; what came of them in `file` of each."""
    prepared = updated(case, ranks, most, wide=wide)
    np.savez(file, **numbers(prepared))
    return {"accumulation": prepared.accumulation, "micro_batch": prepared.micro_batch}


def ask_trial(ranks: Ranks, case: str, most: int = 0) -> dict[str, Any]:
    """A whole trial by all ranks."""
    ended, _ = trained(spec_of(case), ranks, most)
    return {"digest": ended.digest, "record": to_plain(ended.records[0])}


def ask_resumed(ranks: Ranks, case: str, broken: bool = False) -> dict[str, Any]:
    """The digest of an uninterrupted trial, and of those that go on after each of its updates.

    broken: other ranks are not told what rank 0 has read.
    """
    spec, first, shelf = trial_of(case), ranks.rank == 0, Shelf()
    whole, prepared = trained(spec, ranks, shelf=shelf if first else None)
    ends = [piece.last for piece in timeline_of(spec, len(data().train_labels)).pieces()[:-1]]
    assert sorted(shelf.kept) == (ends if first else [])
    found = {}
    with not_told() if broken else contextlib.nullcontext():
        for update in ends:
            one = Shelf(kept={update: shelf.kept[update]}) if first else None
            try:
                ended, _ = trained(spec, ranks, shelf=one)
                found[update] = [ended.digest, ended.resumed_from]
            except ranks_module.RanksApart as error:
                found[update] = [str(error), -1]
    return {"digest": whole.digest, "updates": len(prepared.loop.losses_US), "resumed": found}


@contextlib.contextmanager
def not_told() -> Iterator[None]:
    begin = Ranks.begin

    def half(self: Ranks, update: int, seconds: float, state: Any) -> Any:
        return begin(self, update, seconds, ())

    Ranks.begin = half  # type: ignore[method-assign]
    try:
        yield
    finally:
        Ranks.begin = begin  # type: ignore[method-assign]


def ask_bad(ranks: Ranks, places: list[list[float]], broken: str = "") -> list[dict[str, Any]]:
    """Trials in which one rank's share of an update has a loss that is not finite.

    places: of each trial, the rank, the update and 0 for NaN, 1 or -1 for an infinity.
    broken: "own losses": every rank logs its own; "" for the real thing.
    """
    spec, resident = spec_of("ghost"), data()
    prepared = prepare(spec, resident, num_classes=4, stack=1, ranks=ranks)
    ledgers, found = [ledger(spec, facts_of(resident))], []
    with own_losses() if broken == "own losses" else contextlib.nullcontext():
        for rank, at, sign in places:
            prepared.loop.loss_function = spoiled(
                prepared, at=int(at) if rank == ranks.rank else -1, sign=sign
            )
            (record,) = run_trials([spec], ledgers, resident, prepared)
            facts = dataclasses.replace(record, provenance=None)
            found.append(to_plain(facts))
    return found


def spoiled(prepared: Prepared, at: int, sign: float) -> Callable[..., Tensor]:
    """The loss, but for that of update `at`."""
    loop, bad = prepared.loop, torch.nan if sign == 0 else sign * torch.inf

    def losses(*rows: Tensor) -> Tensor:
        found = loop.losses(*rows)
        return found * bad if int(loop.count) == at and found.requires_grad else found

    return losses


@contextlib.contextmanager
def own_losses() -> Iterator[None]:
    """Every rank believes its own loss, as it would without a flag that all have."""
    joined = RankBatches.joined

    def careless(self: RankBatches, total: list[Tensor]) -> list[Tensor]:
        return [total[0] * self.ranks.count, *joined(self, total)[1:]]

    RankBatches.joined = careless  # type: ignore[method-assign]
    try:
        yield
    finally:
        RankBatches.joined = joined  # type: ignore[method-assign]


def ask_apart(ranks: Ranks, step: float) -> str:
    """What is said of weights, one of which differs by `step` on the last rank."""
    weights = [torch.linspace(-1, 1, 7), torch.ones(2, 3)]
    if ranks.rank == ranks.count - 1:
        weights[1][0, 0] += step
    try:
        ranks.check_together(weights)
    except ranks_module.RanksApart as error:
        return str(error)
    return ""


ASKS: dict[str, Callable[..., Any]] = {
    name.removeprefix("ask_"): value
    for name, value in list(globals().items())
    if name.startswith("ask_")
}


# --- the team --------------------------------------------------------------------------------


class RankTeam:
    """`count` processes; `ask` asks all of them at once and gives their answers in order."""

    def __init__(self, count: int) -> None:
        with tempfile.TemporaryFile() as meeting:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, __file__, str(rank), str(count), str(meeting.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=[meeting.fileno()],
                    env={**os.environ, **ENVIRONMENT},
                )
                for rank in range(count)
            ]

    def ask(self, name: str, each: Callable[[int], dict[str, Any]] | None = None, **what: Any):
        for rank, process in enumerate(self.processes):
            more = each(rank) if each else {}
            assert process.stdin is not None
            process.stdin.write(json.dumps({"ask": name, **what, **more}).encode() + b"\n")
            process.stdin.flush()
        return [self._answer(process) for process in self.processes]

    def _answer(self, process: subprocess.Popen[bytes]) -> Any:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], PATIENCE)[0], "a rank does not answer"
        answer = json.loads(process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


def main(rank: int, count: int, descriptor: int) -> None:
    torch.set_num_threads(1)
    meeting = f"/proc/self/fd/{descriptor}"
    ranks = join(rank, count, torch.device("cpu"), meeting, seconds=PATIENCE)
    for line in sys.stdin:
        what = json.loads(line)
        try:
            answer = {"answer": functools.partial(ASKS[what.pop("ask")], ranks)(**what)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*map(int, sys.argv[1:4]))
