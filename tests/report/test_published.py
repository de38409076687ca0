"""Published curves: the figures themselves, and what a wrong name gets."""

from __future__ import annotations

import pytest

from batchcliff.errors import UsageError
from batchcliff.published import load, names

ARTICLE = {
    128: (0.9175, 0.9105),
    256: (0.9141, 0.9052),
    512: (0.9085, 0.8997),
    1024: (0.9073, 0.8882),
    2048: (0.8939, 0.8549),
    4096: (0.8799, 0.2083),
    8192: (0.1592, 0.1884),
}


def test_the_article_is_its_own_table() -> None:
    article = load("article")
    warmup, none = article.arm("warmup"), article.arm("none")
    assert warmup is not None and none is not None and article.arm("lars") is None
    assert [p.batch_size for p in warmup.points] == [p.batch_size for p in none.points]
    found = {
        p.batch_size: (p.accuracy, q.accuracy)
        for p, q in zip(warmup.points, none.points, strict=True)
    }
    assert found == ARTICLE
    assert article.runs_per_cell == 1 and all(p.spread is None for p in none.points)


def test_goyal_holds_only_what_was_checked_and_as_accuracy() -> None:
    goyal = load("goyal")
    found = {
        (a.name, p.batch_size): (p.accuracy, p.spread) for a in goyal.arms for p in a.points
    }
    assert found == {
        ("none", 256): (0.764, 0.0012),
        ("none", 8192): (0.7516, 0.0037),
        ("constant-warmup", 8192): (0.7412, 0.0056),
        ("warmup", 8192): (0.7626, 0.0009),
        ("warmup", 16384): (0.7521, 0.0027),
    }


@pytest.mark.parametrize("name", names())
def test_every_curve_loads_with_its_source_and_ascending_sizes(name: str) -> None:
    published = load(name)
    assert published.name == name and published.source and published.metric
    for arm in published.arms:
        sizes = [p.batch_size for p in arm.points]
        assert sizes == sorted(set(sizes))
        assert all(0 < p.accuracy < 1 for p in arm.points)
        assert arm.at(sizes[0]) == arm.points[0] and arm.at(1) is None


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'artikel'.*Did you mean 'article'.*goyal"):
        load("artikel")


def test_a_name_is_no_path() -> None:
    with pytest.raises(UsageError):
        load("../published/article")
