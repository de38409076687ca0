"""Gates of several ranks: resume, divergence, hangs, deaths; with what each of them catches.

The first half asks two processes over gloo (tests/training/rank_team.py), the second runs
whole studies with real workers in which one rank misbehaves.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import rank_faults
from hangs import hangs_after, wait_for_stacks
from patience import until
from rank_team import RankTeam
from sizes import size
from study_runs import MARK, Told, accounted, attempts, leases_are_free, marked, run, table

from batchcliff.canonical import from_plain
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import Arm, Decay, LrRule, StudySpec
from batchcliff.study import dispatch
from batchcliff.study import ranks as ranks_module
from batchcliff.study.store import Store

UPDATES = 12  # of the trials that are made to diverge


@pytest.fixture(scope="module")
def team() -> Iterator[RankTeam]:
    found = RankTeam(2)
    yield found
    found.close()


# --- G7: resumed equals uninterrupted --------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["ghost", "lars", "adamw", "mixup", "fp16", "growth"])
def test_two_ranks_go_on_from_any_update_to_the_same_bit(team: RankTeam, case: str) -> None:
    """Every tensor and every fact, on both ranks; rank 0 alone reads and writes."""
    first, second = team.ask("resumed", case=case)
    assert first["digest"] == second["digest"]
    assert len(first["resumed"]) > 2
    for answer in (first, second):
        for update, (digest, begun) in answer["resumed"].items():
            assert (digest, begun) == (first["digest"], int(update))
    if case != "growth":
        every = [str(update) for update in range(1, first["updates"])]
        assert list(first["resumed"]) == every, "after every update"


def test_control_a_rank_that_is_not_told_is_noticed(team: RankTeam) -> None:
    """Rank 1 goes on from the right update, with its initial weights in place of rank 0's."""
    first, _ = team.ask("resumed", case="ghost", broken=True)
    said = [digest for digest, _ in first["resumed"].values()]
    assert first["digest"] not in said
    assert all("differ by" in text for text in said)


# --- G8, F17: the first bad update, on one rank ----------------------------------------------


def places(count: int) -> list[list[int]]:
    rng = random.Random(17)
    ends = [[rank, at, 0] for rank in (0, 1) for at in (0, UPDATES - 1)]
    drawn = [
        [rng.randrange(2), rng.randrange(UPDATES), rng.choice((0, 1, -1))] for _ in range(count)
    ]
    return (ends + drawn)[: max(count, len(ends))]


def wrong(bad: list[list[int]], answers: list[list[object]]) -> list[str]:
    """What is not as it was injected, on any rank."""
    found = []
    for number, (rank, at, _) in enumerate(bad):
        records = [from_plain(TrialRecord, answer[number]) for answer in answers]
        for here, record in enumerate(records):
            if record.outcome is not Outcome.DIVERGED or record.first_bad_update != at:
                said = (record.outcome, record.first_bad_update)
                found.append(f"rank {here} says {said} of update {at} on rank {rank}")
            elif record.accuracy is not None or not math.isnan(record.curves.train_loss[-1]):
                found.append(f"rank {here}: a number of a diverged trial")
        if len(set(map(repr, records))) > 1:
            found.append(f"ranks disagree on update {at} of rank {rank}")
    return found


@pytest.mark.timeout(3600)
def test_what_is_not_finite_on_one_rank_is_so_on_all(team: RankTeam) -> None:
    """In the same update, which is the first bad one of one record."""
    bad = places(size("bad_updates") // 5)
    assert wrong(bad, team.ask("bad", places=bad)) == []


def test_control_ranks_that_believe_their_own_loss_are_caught(team: RankTeam) -> None:
    bad = places(4)
    assert wrong(bad, team.ask("bad", places=bad, broken="own losses")) != []


# --- G9, F25: one rank of a real run ---------------------------------------------------------

STUDY = StudySpec(
    name="ranks",
    workload="rank_faults",
    batch_sizes=(16,),
    seeds=(0, 1),
    budget="4ep",
    lr=LrRule(base=0.05, base_batch_size=16),
    decay=Decay(kind="constant"),
    arms=(Arm(name="none"),),
    settings=dataclasses.replace(rank_faults.workload().settings, evaluate_every=1),
    data="rank_faults-data",
)


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """No process of a run outlives it."""
    name = uuid.uuid4().hex
    monkeypatch.setenv(MARK, name)
    # What the kernel kills for lack of memory meanwhile is some other test's.
    monkeypatch.setattr(dispatch, "oom_kills", lambda: 0)
    yield name
    until(lambda: not marked(name, "worker"))


def two_ranks(folder: Path, told: Told | None = None, seeds: tuple[int, ...] = (0, 1)) -> int:
    options = {"workload_reference": "rank_faults:workload", "ranks": 2}
    study = dataclasses.replace(STUDY, seeds=seeds)
    return run(study, folder, told, 1, **options).exit_code


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "s"
    assert two_ranks(folder) == 0
    return table(folder)


def fault(
    monkeypatch: pytest.MonkeyPatch, what: str, rank: int, once: Path | None, at: int = 5
) -> None:
    monkeypatch.setenv("RANK_FAULT", what)
    monkeypatch.setenv("RANK_FAULT_RANK", str(rank))
    monkeypatch.setenv("RANK_FAULT_AT", str(at))
    if once is not None:
        monkeypatch.setenv("RANK_FAULT_ONCE", str(once))


def events(folder: Path, kind: str) -> list[dict[str, str]]:
    lines = [x for p in (folder / "log").iterdir() for x in p.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["event"] == kind]


DEATHS = [("kill", 1), ("exit", 0), ("kill", 0), ("exit", 1)]
HANGS = [("stop", 1), ("sleep", 1), ("stop", 0)]


@pytest.mark.parametrize(("what", "rank"), DEATHS[: size("rank_faults")])
def test_a_rank_that_dies_ends_its_team_and_the_trial_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes, what: str, rank: int
) -> None:
    """The oracle O, within the run; and it is the dead rank that is blamed, not its partner."""
    fault(monkeypatch, what, rank, tmp_path / "once")
    told = Told()
    assert two_ranks(tmp_path / "s", told) == 0
    assert "trying again" in told.notes
    assert accounted(tmp_path / "s", 2) == {"ok": 2}
    assert table(tmp_path / "s") == expected
    assert leases_are_free(tmp_path / "s")
    (death,) = events(tmp_path / "s", "death")
    assert death["status"] == {"kill": -9, "exit": 7}[what]
    why = attempts(tmp_path / "s")[0]
    assert why == [{"kill": None, "exit": "crashed exit status 7"}[what], "done"]


@pytest.mark.parametrize(("what", "rank"), HANGS[: size("rank_faults")])
def test_a_rank_that_hangs_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes, what: str, rank: int
) -> None:
    """F25, and where it hung is in the log: also of a stopped one, which cannot say so while
    it is stopped."""
    fault(monkeypatch, what, rank, tmp_path / "once", at=13)
    hangs_after(monkeypatch, 2.0, seed=0, met=(tmp_path / "once").exists)
    wait_for_stacks(monkeypatch, "in misbehave")
    assert two_ranks(tmp_path / "s") == 0
    assert table(tmp_path / "s") == expected
    (hung,) = events(tmp_path / "s", "hung")
    assert attempts(tmp_path / "s")[0] == ["hung", "done"]
    tail = hung["tail"].partition(f"rank {rank} of 2")[2].partition("rank 1 of 2")[0]
    assert "in misbehave" in tail
    assert ("stopped by a signal" in hung["tail"]) == (what == "stop")


class Ending(Told):
    """Asks the run to end, with SIGTERM, at the first progress of a trial."""

    def advanced(self, trial_id: str, update: int, updates: int, rate: float) -> None:
        if not self.of("advanced"):
            os.kill(os.getpid(), signal.SIGTERM)
        super().advanced(trial_id, update, updates, rate)


LONG = dataclasses.replace(
    STUDY,
    seeds=(0,),
    budget="400ep",
    settings=dataclasses.replace(STUDY.settings, evaluate_every=100),
)
BOTH = {"workload_reference": "rank_faults:workload", "ranks": 2}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a long run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("long") / "s"
    assert run(LONG, folder, None, 1, **BOTH).exit_code == 0
    return table(folder)


@pytest.mark.parametrize("grace", [None, 0.0], ids=["saved", "control"])
def test_ranks_that_are_asked_to_end_save_and_go_on(
    tmp_path: Path, long_run: bytes, grace: float | None
) -> None:
    """F22 under ranks: far from any checkpoint, rank 0 saves before its next update, and the
    next run, of both ranks, goes on from there to the same bits. Without a grace, the control,
    nothing is saved and it begins anew."""
    ended = run(LONG, tmp_path / "s", Ending(), 1, grace=grace, **BOTH)
    assert (ended.exit_code, ended.missing) == (143, 1)
    assert attempts(tmp_path / "s")[0] == ["interrupted"]
    saved = [int(path.name.split("-")[1]) for path in (tmp_path / "s" / "ckpt").iterdir()]
    assert len(saved) == (0 if grace == 0.0 else 1)
    assert run(LONG, tmp_path / "s", None, 1, **BOTH).exit_code == 0
    with Store.open(tmp_path / "s") as store:
        (record,) = store.records().values()
    assert record.provenance is not None and record.provenance.ranks == 2
    assert record.provenance.resumed_from == (saved[0] if saved else 0) < 1600
    assert table(tmp_path / "s") == long_run


@pytest.mark.parametrize(
    ("what", "code", "outcome", "words"),
    [
        ("memory", 0, Outcome.OOM, "rank 1 of 2: CUDA out of memory"),
        ("raise", 3, Outcome.FAILED, "rank 1 of 2: on one rank"),
        ("nan", 0, Outcome.DIVERGED, "training loss not finite at update 5 of 16"),
    ],
)
def test_what_one_rank_meets_is_the_outcome_of_the_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    code: int,
    outcome: Outcome,
    words: str,
) -> None:
    """One record, the right exit code; a divergence is not tried again."""
    fault(monkeypatch, what, 1, None)
    assert two_ranks(tmp_path / "s", seeds=(0,)) == code
    assert accounted(tmp_path / "s", 1) == {str(outcome): 1}
    with Store.open(tmp_path / "s") as store:
        (record,) = store.records().values()
    assert words in record.reason
    assert record.first_bad_update == (5 if what == "nan" else None)
    assert len(attempts(tmp_path / "s")[0]) == (2 if what == "raise" else 1)


def test_control_who_hears_rank_0_alone_blames_the_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without rank 1's own word its partner's complaint hides the out-of-memory."""
    monkeypatch.setattr(ranks_module, "RANK_LOST", "nothing is called so")
    arrived = ranks_module.Team._arrived

    def deaf(self, timeout, ignored):
        for rank, messages in arrived(self, timeout, ignored):
            if rank == 0:
                yield rank, messages
            elif messages is not None:
                yield rank, [m for m in messages if m["event"] != "error"]

    monkeypatch.setattr(ranks_module.Team, "_arrived", deaf)
    fault(monkeypatch, "memory", 1, None)
    assert two_ranks(tmp_path / "s", seeds=(0,)) == 3
    assert accounted(tmp_path / "s", 1) == {"failed": 1}
