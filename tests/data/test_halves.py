"""Half of a data set's classes."""

from __future__ import annotations

import numpy as np
import pytest

from batchcliff.data.halves import half
from batchcliff.data.sources import load


def test_the_halves_are_the_whole() -> None:
    """Every image once, with its class' name, in its place among those of its half."""
    whole = load("digits")
    first, second = load("digits-first-half"), load("digits-second-half")
    assert first.class_names + second.class_names == whole.class_names
    assert (first.num_classes, second.num_classes) == (5, 5)
    for split in ("train", "test"):
        images, labels = (getattr(whole, f"{split}_{k}") for k in ("images", "labels"))
        for part, offset in ((first, 0), (second, 5)):
            mine = (labels >= offset) & (labels < offset + 5)
            np.testing.assert_array_equal(getattr(part, f"{split}_images"), images[mine])
            np.testing.assert_array_equal(
                getattr(part, f"{split}_labels") + offset, labels[mine]
            )
    assert len({first.digest, second.digest, whole.digest}) == 3
    assert second.source.endswith("5 of its 10 classes: 5, 6, 7, 8, 9")
    assert first.scale == whole.scale


def test_an_odd_number_of_classes() -> None:
    five = half(load("digits"), "first-half")
    assert half(five, "first-half").class_names == ("0", "1")
    assert half(five, "second-half").class_names == ("2", "3", "4")


@pytest.mark.parametrize("name", ["cifar10-first-half", "cifar10-second-half"])
def test_a_study_of_half_of_cifar10_is_planned_without_its_data(name: str) -> None:
    from batchcliff.planning import plan
    from batchcliff.studyfile import parse_study

    text = (
        f'name = "s"\nworkload = "article"\ndata = "{name}"\n'
        "batch_sizes = [200]\nseeds = 1\n[arms.a]"
    )
    (trial,) = plan(parse_study(text)).trials
    assert trial.ledger is not None
    assert (trial.ledger.num_train, trial.ledger.num_test) == (25_000, 5_000)
    assert trial.ledger.num_classes == 5
    assert trial.ledger.updates_per_epoch == 125
