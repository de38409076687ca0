"""A trial by two ranks is the trial by one, up to the order of sums; and where it is not.

The ranks are two processes over gloo, started once for the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_team import CASES, RankTeam, numbers, spec_of, trained, updated
from small_trials import SMALL, distance, small_spec, with_settings

from batchcliff.canonical import from_plain
from batchcliff.record import TrialRecord
from batchcliff.training.ranks import exchanged, in_order
from batchcliff.training.ranks_shares import Indivisible, check_ranks

EXACT, ROUNDED, HALF, BROKEN = 1e-10, 3e-5, 0.05, 1e-3


@pytest.fixture(scope="module")
def team() -> Iterator[RankTeam]:
    found = RankTeam(2)
    yield found
    found.close()


def by_two(team: RankTeam, folder: Path, case: str, most: int = 0, wide: bool = False) -> Any:
    """What two ranks have after six updates, each of them."""
    files = [str(folder / f"{rank}.npz") for rank in range(2)]
    said = team.ask(
        "updates", lambda rank: {"file": files[rank]}, case=case, most=most, wide=wide
    )
    return said[0], *(dict(np.load(file)) for file in files)


@pytest.mark.parametrize("case", [name for name in CASES if name != "fp16"])
def test_in_float64_two_ranks_are_one(team: RankTeam, tmp_path: Path, case: str) -> None:
    """Weights, optimizer state, every group's running statistics, losses, gradient norms."""
    alone = numbers(updated(case, None, wide=True))
    _, first, second = by_two(team, tmp_path, case, wide=True)
    assert distance(first, alone) < EXACT
    assert all((first[name] == second[name]).all() for name in first), "the same on both"


@pytest.mark.parametrize("most", [0, 4])
@pytest.mark.parametrize("case", ["ghost", "mixup", "fp16"])
def test_and_in_micro_batches(team: RankTeam, tmp_path: Path, case: str, most: int) -> None:
    said, first, _ = by_two(team, tmp_path, case, most)
    assert said == {"accumulation": 3 if most else 1, "micro_batch": most}
    wanted = numbers(updated(case, None))
    assert distance(first, wanted) < (HALF if case == "fp16" else ROUNDED)


def test_control_a_share_of_the_wrong_rank_is_another_trial(
    team: RankTeam, tmp_path: Path
) -> None:
    """What two ranks would do if both took the first share."""
    _, first, _ = by_two(team, tmp_path, "ghost", wide=True)
    with pytest.MonkeyPatch.context() as patch:
        from batchcliff.training import accumulation

        def twice(self: Any, total: list[torch.Tensor]) -> list[torch.Tensor]:
            for one in self._statistics:
                half = len(one.mean) // 2
                one.mean[half:], one.var[half:] = one.mean[:half], one.var[:half]
            return [2 * tensor for tensor in total]

        patch.setattr(accumulation.MicroBatches, "joined", twice)
        original = accumulation.MicroBatches.__init__

        def halved(self: Any, *args: Any) -> None:
            original(self, *args)
            self.own = range(self.count // 2)

        patch.setattr(accumulation.MicroBatches, "__init__", halved)
        broken = numbers(updated("ghost", None, most=12, wide=True))
    assert distance(first, broken) > BROKEN


@pytest.mark.parametrize("case", ["shards", "mixup"])
def test_a_trial_twice_is_the_same_to_the_bit(team: RankTeam, case: str) -> None:
    """Records too; both ranks agree; one process alone differs by rounding only."""
    once, again = team.ask("trial", case=case), team.ask("trial", case=case)
    assert {answer["digest"] for answer in once + again} == {once[0]["digest"]}
    record = from_plain(TrialRecord, once[0]["record"])
    (alone,) = trained(spec_of(case), None)[0].records
    assert record.spec == alone.spec
    assert record.trial_id == alone.trial_id, "ranks are no part of a trial's identity"
    assert record.ledger == alone.ledger
    assert record.curves.train_loss == pytest.approx(alone.curves.train_loss, rel=1e-3)
    assert record.test_loss == pytest.approx(alone.test_loss, rel=1e-3)
    assert record.provenance is not None and alone.provenance is not None
    assert (record.provenance.ranks, alone.provenance.ranks) == (2, 1)
    assert dict(record.provenance.numerics)["ranks"] == "2, gloo"
    assert "ranks" not in dict(alone.provenance.numerics)


def test_weights_that_come_apart_are_noticed(team: RankTeam) -> None:
    assert team.ask("apart", step=0.0) == ["", ""]
    assert team.ask("apart", step=float("nan"))[0] != ""
    said = team.ask("apart", step=2.0**-20)
    assert said[0] == said[1]
    assert "differ by 9.5" in said[0]


def test_sums_are_in_the_order_of_the_ranks() -> None:
    """(1 + 2^-24) + 2^-24 is 1 in float32, and 1 + (2^-24 + 2^-24) is not."""
    parts = [torch.tensor([1.0]), torch.tensor([2.0**-24]), torch.tensor([2.0**-24])]
    assert in_order(parts) == 1.0
    assert in_order(parts[::-1]) > 1.0


def test_an_exchange_keeps_tensors_apart() -> None:
    """Of several shapes and number types, in one exchange for each type."""
    mine = [torch.arange(3.0), torch.ones(2, 2, dtype=torch.float64), torch.tensor(5.0)]
    calls = []

    def gathered(own_P: torch.Tensor) -> torch.Tensor:
        calls.append(own_P.dtype)
        return torch.stack([own_P, own_P + 1])

    found = exchanged(mine, gathered)
    assert calls == [torch.float32, torch.float64]
    for tensor, (first, second) in zip(mine, found, strict=True):
        assert torch.equal(first, tensor) and torch.equal(second, tensor + 1)


# --- what cannot be shared -------------------------------------------------------------------

REFUSED = {
    "batch": (
        {"batch_size": 25, "settings": with_settings(SMALL, batch_norm__group=5)},
        "batch size 25 does not divide over 2 ranks. Write batch_sizes that are multiples of",
    ),
    "whole": (
        {"batch_size": 8},
        "which a share must hold whole. Write --ranks 1, or batch_norm.group = 4",
    ),
    "groups": (
        {"batch_size": 12, "settings": with_settings(SMALL, batch_norm__group="B/3")},
        "statistics are of groups of 4 examples (batch_norm.group = 'B/3')",
    ),
    "probes": (
        {"batch_size": 8, "settings": with_settings(SMALL, probes=("sharpness",))},
        "settings.probes = ['sharpness'] are measured on one device alone",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shared_says_why(case: str) -> None:
    changes, words = REFUSED[case]
    spec = small_spec(arm="mine", **changes)
    with pytest.raises(Indivisible) as refusal:
        check_ranks(spec, 40, 2)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("--ranks 2: arm 'mine': ")


def test_what_can_be_shared_is_let_through() -> None:
    for ranks in (1, 2, 3, 6):
        check_ranks(spec_of("shards"), 48, ranks)
