"""Which micro batches there are, and what cannot be cut."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from micro_batched import OWN, SHARDS, Wide, cut, spec_of
from small_trials import SMALL, with_settings
from torch import Tensor, nn

from batchcliff.training import accumulation
from batchcliff.training.micro_batch import Inseparable, halved, micro_batch


def test_the_largest_part_that_holds_whole_groups() -> None:
    """Against a search through all sizes; refused exactly where there is none."""
    for batch in (12, 24, 30, 32, 36):
        for group in (2, 3, 4, 6, "B/2", "B/3", "global"):
            spec = spec_of(with_settings(SMALL, batch_norm__group=group), batch_size=batch)
            size = {"global": batch, "B/2": batch // 2, "B/3": batch // 3}.get(group, group)
            if batch % size or (group == "B/3" and batch % 3):
                continue
            for most in range(1, batch + 2):
                fits = [m for m in range(1, most + 1) if batch % m == 0 and m % size == 0]
                if fits:
                    assert micro_batch(spec, batch, most) == fits[-1]
                else:
                    with pytest.raises(Inseparable):
                        micro_batch(spec, batch, most)
            assert micro_batch(spec, batch, 0) == batch


@pytest.mark.parametrize(
    ("group", "of", "larger"),
    [
        ("global", "the whole batch", ""),
        ("B/2", "groups of 12 examples", "a micro batch of at least 12, or "),
    ],
)
def test_what_global_statistics_are_told(group: str, of: str, larger: str) -> None:
    spec = spec_of(with_settings(SMALL, batch_norm__group=group))
    said = (
        "batch size 24 cannot be run in micro batches of 5 with the same result: batch norm's "
        f"statistics are of {of} (batch_norm.group = {group!r}). Write {larger}a ghost size, "
        "such as batch_norm.group = 4: that is another trial, and said so."
    )
    with pytest.raises(Inseparable, match=f"^{re.escape(said)}$"):
        cut(spec, 5)


def test_halving_ends() -> None:
    spec, most, seen = spec_of(SHARDS, batch_size=48), 0, []
    with pytest.raises(Inseparable, match="groups of 8"):
        while True:
            seen.append(most := halved(spec, 60, most))
    assert seen == [24, 8]
    own, most, seen = spec_of(OWN), 0, []
    with pytest.raises(Inseparable, match="one example"):
        while True:
            seen.append(most := halved(own, 60, most))
    assert seen == [12, 6, 3, 1]


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (lambda: nn.BatchNorm2d(5), r"norm \(BatchNorm2d\) normalises by all .* ghost size"),
        (lambda: nn.Dropout(0.1), r"draws random numbers \(dropout\?\)"),
        (Counts, "changes the network's buffer norm.seen"),
    ],
)
def test_a_network_that_must_have_its_batch_whole(norm: Any, said: str) -> None:
    built: list[Wide] = []

    def build(*_: object) -> nn.Module:
        built.append(Wide(norm()))
        return built[-1]

    cut(spec_of(OWN), 0, build)
    with pytest.raises(Inseparable, match=said):
        cut(spec_of(OWN), 12, build)
    if isinstance(built[-1].norm, Counts):
        assert float(built[-1].norm.seen) == 0, "the trial pass is undone"


def test_a_network_without_such_a_layer_is_let_alone() -> None:
    """Constants in buffers, group norm, and what is drawn when it is built."""
    norm = nn.GroupNorm(1, 5)
    norm.register_buffer("constant", torch.randn(3))
    network, drawn = Wide(norm), torch.get_rng_state()
    accumulation.check_separable(network, lambda: network(torch.zeros(2, 3, 8, 8)))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert cut(spec_of(OWN), 12, lambda *_: Wide(norm)).accumulation == 2
