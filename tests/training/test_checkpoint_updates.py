"""G6: a run goes on from any of its updates, bit for bit; asked to end, it does so at one."""

from __future__ import annotations

import os

import pytest
from resumed_trials import CASES, Ended, Shelf, gone_on, trained
from small_trials import small_data

from batchcliff.training import epochs
from batchcliff.training.checkpoint import Checkpoints, Left

DATA = small_data()
# Of every case's updates, each one or each third, from another one on in every case.
STRIDE = 3 if os.environ.get("BATCHCLIFF_GATES", "quick") == "quick" else 1


class AtEvery(Checkpoints):
    """Saves before every update of the run."""

    def between(self, update: int) -> None:
        if update:
            self.save(update)
            self._settle()


def saved_everywhere(name: str) -> tuple[Ended, dict[int, bytes]]:
    shelf = Shelf()
    checkpoints = AtEvery(shelf, every_seconds=1e9, tell=lambda text, update: None)
    return trained(CASES[name], DATA, checkpoints), shelf.kept


@pytest.mark.parametrize(("number", "name"), list(enumerate(CASES)))
def test_gate_resumed_equals_uninterrupted_at_every_update(number: int, name: str) -> None:
    """In the middle of an epoch as well: weights, states, logs and records."""
    whole, kept = saved_everywhere(name)
    assert len(kept) >= 6 and list(kept) == list(range(1, len(kept) + 1))
    for update in list(kept)[number % STRIDE :: STRIDE]:
        resumed = gone_on(CASES[name], DATA, kept[update])
        assert resumed.resumed_from == update
        assert resumed.digest == whole.digest, update


def test_control_the_wrong_row_of_an_epoch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on in the middle of an epoch, and reads that epoch from its start."""
    whole, kept = saved_everywhere("rule sgd")
    blocks = epochs._Blocks
    monkeypatch.setattr(epochs, "_Blocks", lambda *args: blocks(*args[:-1], 0))
    for update in (1, 2):
        assert gone_on(CASES["rule sgd"], DATA, kept[update]).digest != whole.digest


@pytest.mark.parametrize("update", [0, 1, 4, 9])
def test_a_run_that_is_asked_to_end_saves_and_goes_on(update: int) -> None:
    """At the very update; before the first one there is nothing to save."""
    case, shelf = CASES["technique mixup"], Shelf()
    checkpoints = shelf.checkpoints(1e9)
    between = checkpoints.between

    def asking(now: int) -> None:
        if now == update:
            checkpoints.leave()
        between(now)

    checkpoints.between = asking  # type: ignore[method-assign]
    with pytest.raises(Left):
        trained(case, DATA, checkpoints)
    assert list(shelf.kept) == ([update] if update else [])
    again = trained(case, DATA, shelf.checkpoints(1e9))
    assert again.resumed_from == update
    assert again.digest == trained(case, DATA).digest
