"""Peers killed at random, peers at once: zero lost, zero twice, equal tables."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import fake_peer as fake
import pytest
from patience import until
from sizes import size

from batchcliff.study.store import Planned, Store

KILLS = size("kills")
RACES = size("races")


def complaints(folder: Path, trials: int, acks: Path) -> list[str]:
    """What the oracle O of RELIABILITY.md has to say about a finished study."""
    found = []
    with Store.open(folder) as store:
        if store.table() != fake.true_table(trials):
            found.append("the table differs")
        names = {path.name for path in (folder / "results").iterdir()}
        if names != {f"{cell.trial_id}.json" for cell in store.planned()}:
            found.append("results are not the plan")
        if store.quarantined or any((folder / "quarantine").iterdir()):
            found.append("a record was torn")
        acked = [line.split() for line in acks.read_text().splitlines()]
        if len({trial for trial, _ in acked}) != len(acked):
            found.append("a trial was acknowledged twice")
        if any(fake.file_digest(store, trial) != sha for trial, sha in acked):
            found.append("an acknowledged record was replaced")
    return found


def storm(
    zygote: fake.Zygote, folder: Path, kills: int, *more: object, pause: float = 0.04
) -> list[str]:
    """Three peers at all times, one of them killed every `pause` seconds or so, until `kills`
    died.

    Whenever a study is finished its fate is judged and the next one begins.
    """
    rng, killed, found, number, trials = random.Random(3), 0, [], 0, 30
    while killed < kills and not found:
        study, acks = folder / f"study{number}", folder / f"acks{number}"
        acks.touch()
        call = (study, "--trials", trials, "--acks", acks, "--seconds", 0.002, *more)
        peers = [zygote.start(*call) for _ in range(3)]
        while not finished(study, trials) and killed < kills:
            time.sleep(rng.expovariate(1 / pause))
            victim = peers.pop(rng.randrange(3))
            os.kill(victim, signal.SIGKILL)
            killed += zygote.wait(victim) == 128 + signal.SIGKILL
            peers.append(zygote.start(*call))
        ends = [zygote.wait(pid) for pid in peers]  # all of them, before the study is judged
        if any(ends):
            found.append("a peer that was left alone failed")
        found += complaints(study, trials, acks)
        shutil.rmtree(study)
        number += 1
    return found


def finished(folder: Path, trials: int) -> bool:
    try:
        return len(list((folder / "results").iterdir())) == trials
    except FileNotFoundError:
        return False


@pytest.mark.timeout(7200)
def test_random_kills_lose_nothing(zygote: fake.Zygote, tmp_path: Path) -> None:
    assert storm(zygote, tmp_path, KILLS) == []


def test_control_a_store_that_writes_in_place_tears_records(
    zygote: fake.Zygote, tmp_path: Path
) -> None:
    """Peers live long enough to write, also on a processor that many share."""
    broken = ("--broken", "in-place")
    assert "a record was torn" in storm(zygote, tmp_path, 200, *broken, pause=0.2)


def ran(zygote: fake.Zygote, folder: Path, *more: object) -> tuple[list[int], int]:
    """Exit codes of five peers at once on 40 trials, and how many attempts they made."""
    call = (folder, "--trials", 40, "--seconds", 0.02, *more)
    codes = zygote.together([call] * 5)
    with Store.open(folder) as store:
        assert store.table() == fake.true_table(40)
        return codes, sum(len(store.attempts(cell.trial_id)) for cell in store.planned())


def test_five_peers_run_each_trial_once(zygote: fake.Zygote, tmp_path: Path) -> None:
    assert ran(zygote, tmp_path / "study") == ([0] * 5, 40)


def test_control_without_leases_trials_run_twice(zygote: fake.Zygote, tmp_path: Path) -> None:
    codes, attempts = ran(zygote, tmp_path / "study", "--broken", "no-lease")
    assert attempts > 40
    assert codes == [0] * 5  # and `link` keeps one record of each all the same


def race(zygote: fake.Zygote, folder: Path, *more: object) -> tuple[set[int], set[int], float]:
    """Six peers create one folder, with two learning rates: exit codes by rate, the winner."""
    rates = [0.1, 0.2] * 3
    ends = zygote.together(
        [(folder, "--trials", 3, "--lr", rate, "--only-create", *more) for rate in rates]
    )
    codes: dict[float, set[int]] = {0.1: set(), 0.2: set()}
    for code, rate in zip(ends, rates, strict=True):
        codes[rate].add(code)
    with Store.open(folder) as store:
        return codes[0.1], codes[0.2], store.study.lr.base


@pytest.mark.timeout(7200)
def test_one_study_wins_the_race_to_be_created(zygote: fake.Zygote, tmp_path: Path) -> None:
    winners = set()
    for number in range(RACES):
        low, high, winner = race(zygote, tmp_path / str(number))
        assert (low, high) == (({0}, {2}) if winner == 0.1 else ({2}, {0}))
        winners.add(winner)
        study = fake.study_of(3, winner)
        with Store.create(tmp_path / str(number), study, fake.DATA, fake.CODE) as store:
            assert list(store.planned()) == [Planned.of(s) for s in fake.specs_of(study)]
            assert len(list((store.folder / "plan").iterdir())) == 1


def test_control_when_the_last_writer_wins_both_believe_they_did(
    zygote: fake.Zygote, tmp_path: Path
) -> None:
    for number in range(40):
        try:
            low, high, _ = race(zygote, tmp_path / str(number), "--broken", "over")
        except ValueError:  # the plan was overwritten under a reader's feet
            return
        if 0 in low and 0 in high:
            return
    pytest.fail("a race without link(2) had one winner forty times")


def test_a_stopped_peer_keeps_its_lease_and_comes_late(
    zygote: fake.Zygote, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    with fake.start(folder, 3) as store:
        frozen = zygote.start(folder, "--trials", 3, "--gate", tmp_path / "gate")
        until(lambda: any((folder / "attempts").iterdir()))
        os.kill(frozen, signal.SIGSTOP)
        busy = next((folder / "attempts").iterdir()).name
        assert store.lease(busy) is None
        # Its host is declared dead by somebody, and the trial is run elsewhere.
        spec = next(s for s in fake.specs_of(store.study) if s.trial_id == busy)
        assert store.publish(fake.train(spec)) is True
        ours = (folder / f"results/{busy}.json").read_bytes()
        (tmp_path / "gate").touch()
        os.kill(frozen, signal.SIGCONT)
        assert zygote.wait(frozen) == 0
        assert (folder / f"results/{busy}.json").read_bytes() == ours
        assert store.table() == fake.true_table(3)
