"""The first update whose loss is not finite, exactly, wherever it lies and whatever it is."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from sizes import size
from small_trials import facts_of, small_data, small_spec

from batchcliff.record import Outcome, TrialRecord
from batchcliff.training import records as records_module
from batchcliff.training.arithmetic import ledger
from batchcliff.training.prepare import prepare
from batchcliff.training.trial import run_trials

BAD = (math.nan, math.inf, -math.inf)
STACK = 4
DATA = small_data()


class Injected:
    """A loop that spoils the log of chosen updates of chosen networks, on the device."""

    def __init__(self, bad: dict[int, dict[int, float]]) -> None:
        self.bad = bad  # {update: {network: value}}

    def advance_of(self, prepared):
        advance, loop, done = prepared.advance, prepared.loop, iter(range(10**6))

        def spoiled() -> None:
            update = next(done)
            advance()
            for network, value in self.bad.get(update, {}).items():
                loop.losses_US[update, network] = value

        return spoiled


def draw(rng: random.Random, updates: int) -> tuple[dict[int, dict[int, float]], list]:
    """Where to spoil: none, one or several updates of each network. What must be found."""
    bad: dict[int, dict[int, float]] = {}
    firsts: list[int | None] = []
    for network in range(STACK):
        count = rng.choice((0, 1, 1, 1, 3))
        places = sorted(rng.sample([0, *range(updates), updates - 1], count))
        for place in places:
            bad.setdefault(place, {})[network] = rng.choice(BAD)
        firsts.append(min(places, default=None))
    return bad, firsts


def run(bad: dict[int, dict[int, float]], prepared) -> list[TrialRecord]:
    specs = [small_spec(seed=seed, lr=0.01) for seed in range(STACK)]
    ledgers = [ledger(spec, facts_of(DATA)) for spec in specs]
    spoiled = dataclasses.replace(prepared, advance=Injected(bad).advance_of(prepared))
    return run_trials(specs, ledgers, DATA, spoiled)


def wrong(bad, firsts, records: list[TrialRecord]) -> list[str]:
    """What is not as it was injected."""
    found = []
    for network, (first, record) in enumerate(zip(firsts, records, strict=True)):
        if first is None:
            if record.outcome is not Outcome.OK or record.first_bad_update is not None:
                found.append(f"network {network} is sound and called {record.outcome}")
            continue
        if record.outcome is not Outcome.DIVERGED or record.first_bad_update != first:
            found.append(f"network {network}: {record.first_bad_update} instead of {first}")
        if record.accuracy is not None or record.train_loss is not None:
            found.append(f"network {network}: a number of a diverged trial")
        curve = record.curves.train_loss
        if [math.isnan(x) for x in curve] != [4 * e + 3 >= first for e in range(len(curve))]:
            found.append(f"network {network}: the curve does not end at update {first}")
    return found


@pytest.fixture(scope="module")
def prepared():
    return prepare(small_spec(lr=0.01), DATA, num_classes=4, stack=STACK, user_build=None)


@pytest.mark.timeout(1800)
def test_random_injections_are_found_at_their_update(prepared) -> None:
    """In stacks of four, where each network has its own: neighbours do not infect it."""
    rng, injected, updates = random.Random(15), 0, 12
    while injected < size("bad_updates"):
        bad, firsts = draw(rng, updates)
        assert wrong(bad, firsts, run(bad, prepared)) == [], bad
        injected += sum(first is not None for first in firsts)


@pytest.mark.parametrize("kind", ["off by one", "nan only", "last instead of first"])
def test_control_a_careless_look_is_caught(
    prepared, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_bad(losses_U: torch.Tensor, final_test_loss: float) -> int | None:
        bad = ~torch.isfinite(losses_U) if kind != "nan only" else torch.isnan(losses_U)
        places = torch.nonzero(bad)
        if not len(places):
            return None
        return int(places[-1 if kind == "last instead of first" else 0]) + (
            kind == "off by one"
        )

    monkeypatch.setattr(records_module, "first_bad", first_bad)
    rng, seen = random.Random(15), 0
    for _ in range(10):
        bad, firsts = draw(rng, 12)
        try:
            seen += bool(wrong(bad, firsts, run(bad, prepared)))
        except (AssertionError, ValueError):
            seen += 1
    assert seen > 0
